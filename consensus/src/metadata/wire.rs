//! What nodes say to each other about the metadata, as bytes.
//!
//! ```text
//!   ask      │ 2 │ 0: who leads?  1: do this │ patience ms (4) │ command  2: what if │ command  3: figures?
//!   answer   │ 2 │ 0: I lead  1: not I │ flags │ leader?  2: done │ reply  3: refused │ error
//!            │   │ 4: not done │ why  5: unknown │ why  6: forecast  7: figures
//!   follow   │ 2 │ revision (8) │ serial (8) │ flags │ page of revision (8), from byte (8)?
//!   news     │ 2 │ 0: none  1: edits up to │ revision (8) │ (key, flags, value?) …
//!            │   │ 2: page │ revision (8) │ total (8) │ bytes
//! ```
//!
//! **Invariant.** Decoding takes any bytes without a panic. Numbers are append-only.

use super::{
    MetadataCommand, MetadataReply,
    codec::text,
    forecast::Forecast,
    map::RowEdit,
    wire_command::{command, put_command},
    wire_forecast::{figures, forecast, put_figures, put_forecast},
};
use bytes::Bytes;
use kvorum_api::{AdminError, Effect, KeyspaceId, NodeId, OperatorId, ShardId};
use kvorum_storage::{
    StorageError,
    codec::{Reader, Writer},
};
use std::{collections::BTreeMap, time::Duration};

const FORMAT: u8 = 2;

/// Fields that an error may name; one that a newer build names is `request` here.
const FIELDS: [&str; 22] = [
    "name",
    "mode",
    "shard_by",
    "shards",
    "split_at",
    "replicas",
    "read_level",
    "value_bytes_max",
    "nodes",
    "client",
    "peer",
    "zone",
    "directory",
    "wish",
    "request",
    "shard",
    "from",
    "to",
    "operator",
    "node",
    "build",
    "behaviour",
];

/// Asked of a metadata replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Asked first: a command goes only to who says that it leads, so that a search that finds nobody has changed
    /// nothing.
    WhoLeads,
    /// Please change the map, within this time.
    Do(MetadataCommand, Duration),
    /// What would come of a change? Nothing is changed.
    Foresee(MetadataCommand),
    /// How many bytes do the replicas there have?
    Figures,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It leads.
    Leads,
    /// It does not; this node does, as far as it knows.
    Follows(Option<NodeId>),
    /// What came of a command.
    Verdict(Verdict),
    /// What would come of a change.
    Forecast(Forecast),
    /// About how many bytes the replicas there have.
    Figures(BTreeMap<ShardId, u64>),
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The change is made.
    Done(MetadataReply),
    /// The change cannot be made.
    Refused(AdminError),
    /// Nothing was changed, and nothing will be.
    NotDone(String),
    /// It may have been made, or may still be.
    Unknown(String),
}

/// Asked by whoever follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Follow {
    /// Of the asker's map.
    pub(super) revision: u64,
    /// Of the asker's map: says whether it has the same history.
    pub(super) serial: u64,
    /// The next part of a whole map: which revision's, from which byte.
    pub(super) page: Option<(u64, u64)>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing yet.
    Nothing,
    /// These edits lead to that revision.
    Edits(u64, Vec<RowEdit>),
    /// A part of the whole map.
    Page {
        /// Of this map.
        revision: u64,
        /// Bytes of the whole.
        total: u64,
        /// This part.
        bytes: Bytes,
    },
}

impl Ask {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 64);
        match self {
            Ask::WhoLeads => writer.u8(0),
            Ask::Do(command, patience) => {
                writer.u8(1);
                writer.u32(u32::try_from(patience.as_millis()).unwrap_or(u32::MAX));
                put_command(&mut writer, command);
            }
            Ask::Foresee(command) => {
                writer.u8(2);
                put_command(&mut writer, command);
            }
            Ask::Figures => writer.u8(3),
        }
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("metadata request", bytes, FORMAT)?;
        let ask = match reader.u8()? {
            0 => Ask::WhoLeads,
            1 => {
                let patience = Duration::from_millis(reader.u32()?.into());
                Ask::Do(command(&mut reader)?, patience)
            }
            2 => Ask::Foresee(command(&mut reader)?),
            3 => Ask::Figures,
            other => return Err(reader.unknown(format!("request {other}"))),
        };
        reader.end()?;
        Ok(ask)
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 64);
        match self {
            Answer::Leads => writer.u8(0),
            Answer::Follows(leader) => {
                writer.u8(1);
                put_option(&mut writer, leader.as_ref(), |writer, node| writer.u64(node.0));
            }
            Answer::Verdict(Verdict::Done(reply)) => {
                writer.u8(2);
                writer.u64(reply.revision);
                put_option(&mut writer, reply.keyspace.as_ref(), |writer, keyspace| writer.u32(keyspace.0));
                put_option(&mut writer, reply.node.as_ref(), |writer, node| writer.u64(node.0));
                put_option(&mut writer, reply.operator.as_ref(), |writer, operator| writer.u64(operator.0));
            }
            Answer::Verdict(Verdict::Refused(error)) => {
                writer.u8(3);
                put_error(&mut writer, error);
            }
            Answer::Verdict(Verdict::NotDone(why)) => {
                writer.u8(4);
                writer.bytes(why.as_bytes());
            }
            Answer::Verdict(Verdict::Unknown(why)) => {
                writer.u8(5);
                writer.bytes(why.as_bytes());
            }
            Answer::Forecast(forecast) => {
                writer.u8(6);
                put_forecast(&mut writer, forecast);
            }
            Answer::Figures(figures) => {
                writer.u8(7);
                put_figures(&mut writer, figures);
            }
        }
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("metadata answer", bytes, FORMAT)?;
        let answer = match reader.u8()? {
            0 => Answer::Leads,
            1 => Answer::Follows(option(&mut reader, |reader| reader.u64().map(NodeId))?),
            2 => Answer::Verdict(Verdict::Done(MetadataReply {
                revision: reader.u64()?,
                keyspace: option(&mut reader, |reader| reader.u32().map(KeyspaceId))?,
                node: option(&mut reader, |reader| reader.u64().map(NodeId))?,
                operator: option(&mut reader, |reader| reader.u64().map(OperatorId))?,
            })),
            3 => Answer::Verdict(Verdict::Refused(error(&mut reader)?)),
            4 => Answer::Verdict(Verdict::NotDone(text(&mut reader)?)),
            5 => Answer::Verdict(Verdict::Unknown(text(&mut reader)?)),
            6 => Answer::Forecast(forecast(&mut reader)?),
            7 => Answer::Figures(figures(&mut reader)?),
            other => return Err(reader.unknown(format!("answer {other}"))),
        };
        reader.end()?;
        Ok(answer)
    }
}

impl Follow {
    pub(super) fn encode(self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 40);
        writer.u64(self.revision);
        writer.u64(self.serial);
        put_option(&mut writer, self.page.as_ref(), |writer, (revision, from)| {
            writer.u64(*revision);
            writer.u64(*from);
        });
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("metadata follow", bytes, FORMAT)?;
        let follow = Follow {
            revision: reader.u64()?,
            serial: reader.u64()?,
            page: option(&mut reader, |reader| Ok((reader.u64()?, reader.u64()?)))?,
        };
        reader.end()?;
        Ok(follow)
    }
}

impl News {
    pub(super) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 64);
        match self {
            News::Nothing => writer.u8(0),
            News::Edits(revision, edits) => {
                writer.u8(1);
                writer.u64(*revision);
                writer.count(edits.len());
                for edit in edits {
                    let (key, row) = match edit {
                        RowEdit::Put(row) => (row.key(), Some(row.encode())),
                        RowEdit::Remove(key) => (*key, None),
                    };
                    writer.bytes(&key.encode());
                    put_option(&mut writer, row.as_ref(), |writer, row| writer.bytes(row));
                }
            }
            News::Page { revision, total, bytes } => {
                writer.u8(2);
                writer.u64(*revision);
                writer.u64(*total);
                writer.bytes(bytes);
            }
        }
        writer.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("metadata news", bytes, FORMAT)?;
        let news = match reader.u8()? {
            0 => News::Nothing,
            1 => {
                let revision = reader.u64()?;
                let mut edits = Vec::new();
                for _ in 0..reader.count(5)? {
                    let (key, value) = (reader.bytes()?, option(&mut reader, Reader::bytes)?);
                    edits.extend(RowEdit::of_change(&key, value)?);
                }
                News::Edits(revision, edits)
            }
            2 => News::Page { revision: reader.u64()?, total: reader.u64()?, bytes: reader.bytes()? },
            other => return Err(reader.unknown(format!("news {other}"))),
        };
        reader.end()?;
        Ok(news)
    }
}

pub(super) fn put_option<T>(writer: &mut Writer, value: Option<&T>, put: impl FnOnce(&mut Writer, &T)) {
    writer.u8(value.is_some().into());
    if let Some(value) = value {
        put(writer, value);
    }
}

pub(super) fn option<T>(
    reader: &mut Reader,
    read: impl FnOnce(&mut Reader) -> Result<T, StorageError>,
) -> Result<Option<T>, StorageError> {
    if reader.flags(1)? == 1 { read(reader).map(Some) } else { Ok(None) }
}

fn put_error(writer: &mut Writer, error: &AdminError) {
    match error {
        AdminError::Invalid { field, problem } => {
            writer.u8(1);
            writer.bytes(field.as_bytes());
            writer.bytes(problem.as_bytes());
        }
        AdminError::Refused(refused) => {
            writer.u8(1);
            writer.bytes(b"request");
            writer.bytes(refused.to_string().as_bytes());
        }
        AdminError::Exists { what } => {
            writer.u8(2);
            writer.bytes(what.as_bytes());
        }
        AdminError::NotFound { what } => {
            writer.u8(3);
            writer.bytes(what.as_bytes());
        }
        AdminError::WrongKey => writer.u8(4),
        AdminError::Unavailable { why, effect } => {
            writer.u8(5);
            writer.u8(match effect {
                Effect::None => 0,
                Effect::Unknown => 1,
            });
            writer.bytes(why.as_bytes());
        }
    }
}

fn error(reader: &mut Reader) -> Result<AdminError, StorageError> {
    Ok(match reader.u8()? {
        1 => {
            let (field, problem) = (text(reader)?, text(reader)?);
            let field = FIELDS.into_iter().find(|known| *known == field).unwrap_or("request");
            AdminError::Invalid { field, problem }
        }
        2 => AdminError::Exists { what: text(reader)? },
        3 => AdminError::NotFound { what: text(reader)? },
        4 => AdminError::WrongKey,
        5 => {
            let effect = if reader.flags(1)? == 1 { Effect::Unknown } else { Effect::None };
            AdminError::Unavailable { why: text(reader)?, effect }
        }
        other => return Err(reader.unknown(format!("error {other}"))),
    })
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
