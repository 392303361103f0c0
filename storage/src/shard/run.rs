//! Run: applies entries of the log to a draft.
//!
//! ```text
//!   entry ─▶ raise the logged time ─▶ forget idle clients ─▶ each command:
//!            request id known or refused? ─▶ evaluate ─▶ rows, expiry index, diary, outcome
//!   end of the run ─▶ position, replicated state, ends of the diary ─▶ one batch
//! ```
//!
//! **Invariant.** What an entry does depends on the entry and on what is replicated, never on where the run began: a
//! replica that applies entries one by one and one that applies a thousand at once end equal to the byte.

use super::{
    clients::Clients,
    draft::Draft,
    evaluate::{Ground, RowChange, evaluate},
    logged::{LoggedEntry, Step},
    state::{ShardSpec, ShardState},
};
use crate::{
    changelog::{Change, ChangeKind},
    command::{Command, Images, Outcome, Proposal, RequestId, Settings, WriteCommand},
    engine::{Batch, Column, Engine},
    entry::Entry,
    error::StorageError,
    keys, planted,
};
use bytes::Bytes;
use kvorum_api::Version;

/// The newest version of the behaviour of `apply` that this build knows; it knows all before it as well, from 1 on.
pub const BEHAVIOUR: u32 = 1;

/// Entries that one `Expire` removes at most.
pub const EXPIRED_PER_COMMAND_MAX: u32 = 1_024;

/// Entries of the log on their way into one batch.
pub(super) struct Run<'a> {
    spec: ShardSpec,
    draft: Draft<'a>,
    clients: &'a mut Clients,
    state: ShardState,
    /// What a planted bug writes instead: the state before.
    before: Option<ShardState>,
    /// Nothing is due before this; `None` = nothing is due ever.
    expiry_floor_ms: Option<u64>,
    /// Whether the first entry of the expiry index may be gone.
    is_expiry_head_moved: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(engine: &'a dyn Engine, spec: ShardSpec, state: ShardState, clients: &'a mut Clients) -> Self {
        let expiry_floor_ms = state.next_expiry_ms;
        let before = planted!("bug-position-outside-batch").then(|| state.clone());
        Run { spec, draft: Draft::new(engine), clients, state, before, expiry_floor_ms, is_expiry_head_moved: false }
    }

    /// Applies one entry. One outcome per command.
    pub(super) fn entry(&mut self, entry: &LoggedEntry) -> Result<Vec<Outcome>, StorageError> {
        let last = self.state.applied.position;
        assert!(
            last.is_none_or(|last| entry.position.index > last.index),
            "entries are applied once and in order: {} after {last:?}",
            entry.position,
        );
        self.draft.begin_entry(self.state.rolling_hash, entry.position);
        let outcomes = match &entry.step {
            Step::Blank => Vec::new(),
            Step::Membership(members) => {
                self.draft.hash(members);
                self.state.applied.membership = members.clone();
                Vec::new()
            }
            Step::Commands(proposal) => self.proposal(proposal)?,
        };
        let replicated = self.state.encode_replicated();
        self.draft.hash(&replicated);
        self.state.rolling_hash = self.draft.end_entry();
        self.state.applied.position = Some(entry.position);
        self.state.applied.batch = entry.batch;
        Ok(outcomes)
    }

    /// The batch, and the state once it is written.
    pub(super) fn finish(mut self) -> Result<(Batch, ShardState), StorageError> {
        self.state.next_expiry_ms = match self.expiry_floor_ms {
            Some(floor_ms) if self.is_expiry_head_moved => {
                let range = keys::expiry_range(self.spec.shard, floor_ms, u64::MAX);
                let head = self.draft.walk(Column::Meta, range).next(&self.draft)?;
                head.map(|(key, _)| keys::parse_expiry_key(&key).0)
            }
            floor_ms => floor_ms,
        };
        let mut batch = self.draft.into_batch();
        self.before.as_ref().unwrap_or(&self.state).put_into(&mut batch, self.spec.shard);
        Ok((batch, self.state))
    }

    fn proposal(&mut self, proposal: &Proposal) -> Result<Vec<Outcome>, StorageError> {
        self.state.raise_time(proposal.time_ms);
        self.clients.forget_idle(&mut self.draft, &self.state)?;
        let mut outcomes = Vec::with_capacity(proposal.commands.len());
        for command in &proposal.commands {
            outcomes.push(self.command(proposal, command)?);
        }
        self.clients.end_entry(&mut self.draft);
        Ok(outcomes)
    }

    fn command(&mut self, proposal: &Proposal, command: &Command) -> Result<Outcome, StorageError> {
        if let Command::Configure(settings) = command {
            return self.configure(settings);
        }
        let images = self.state.settings.as_ref().map(|settings| settings.images);
        let images = images.expect("rule C1: the founding configure is a group's first command");
        match command {
            Command::Write(write) => self.request(proposal, write, images),
            Command::Expire { up_to_ms } => self.expire(*up_to_ms, images),
            Command::Configure(_) => unreachable!("handled above"),
        }
    }

    /// Rule C3: ranges and epochs are replicated state, and one epoch names one range.
    fn configure(&mut self, settings: &Settings) -> Result<Outcome, StorageError> {
        require_known(settings)?;
        if let Some(Settings { epoch, range, .. }) = &self.state.settings
            && (settings.epoch < *epoch || settings.epoch == *epoch && settings.range != *range)
        {
            return Ok(Outcome::ConfigureRefused { epoch: *epoch });
        }
        self.state.settings = Some(settings.clone());
        Ok(Outcome::Configured)
    }

    /// A write under its request id, if it has one. What is known of the id comes before the range (rule I1): a
    /// repetition gets its outcome also where its keys have left.
    fn request(&mut self, proposal: &Proposal, write: &WriteCommand, images: Images) -> Result<Outcome, StorageError> {
        let Some(request) = &write.request else {
            return self.out_of_range(write).map_or_else(|| self.write(proposal, write, images), Ok);
        };
        if let Some(answer) = self.clients.admit(&mut self.draft, &self.state, request)?
            && !planted!("bug-request-ids-ignored")
        {
            return Ok(answer);
        }
        if let Some(refused) = self.out_of_range(write) {
            return Ok(refused);
        }
        let outcome = self.write(proposal, write, images)?;
        let key = write.operations.first().map_or(&[][..], |operation| operation.key());
        self.clients.remember(&mut self.draft, &self.state, request, (key, &outcome));
        Ok(outcome)
    }

    /// Rule C3: a write that names a key of another shard is refused as a whole.
    fn out_of_range(&self, write: &WriteCommand) -> Option<Outcome> {
        let Settings { range, epoch, .. } = self.state.settings.as_ref()?;
        let is_own = write.operations.iter().all(|operation| range.contains(operation.key()));
        (!is_own).then_some(Outcome::OutOfRange { epoch: *epoch })
    }

    fn write(&mut self, proposal: &Proposal, write: &WriteCommand, images: Images) -> Result<Outcome, StorageError> {
        let ground = Ground {
            time_ms: self.state.logged_time_ms,
            last_version: self.state.last_version,
            hint: proposal.stamp,
            actor: proposal.actor,
        };
        let (draft, keyspace) = (&self.draft, self.spec.keyspace);
        let evaluated = evaluate(write, ground, |key| {
            draft.get(Column::Data, &keys::data_key(keyspace, key))?.map(Entry::decode).transpose()
        })?;
        self.state.last_version = evaluated.last_version;
        let last = evaluated.rows.len().saturating_sub(1);
        for (at, row) in evaluated.rows.into_iter().enumerate() {
            self.change_row(row, write.request.as_ref(), images, at == last);
        }
        Ok(Outcome::Written { applied: evaluated.is_applied, repeated: false, results: evaluated.results })
    }

    /// Makes one row what it shall be, and notes it in the diary.
    fn change_row(&mut self, row: RowChange, request: Option<&RequestId>, images: Images, is_last_of_batch: bool) {
        let RowChange { key, stored, was_gone, after, version } = row;
        let data_key = keys::data_key(self.spec.keyspace, &key);
        match &after {
            Some(entry) => self.draft.put(Column::Data, data_key, entry.encode()),
            None => self.draft.delete(Column::Data, data_key),
        }
        let expiry_before = stored.as_ref().and_then(|entry| entry.expires_ms);
        self.move_expiry(&key, expiry_before, after.as_ref().and_then(|entry| entry.expires_ms));
        let old = match stored {
            // Readers of the diary see it go before they see what took its place.
            Some(gone) if was_gone => {
                self.note_expired(key.clone(), gone, images, false);
                None
            }
            stored => stored,
        };
        let kind = match (&old, &after) {
            (None, _) => ChangeKind::Insert,
            (Some(_), Some(_)) => ChangeKind::Modify,
            (Some(_), None) => ChangeKind::Remove,
        };
        let request = request.map(|request| (request.client, request.sequence));
        self.note(Noted { kind, key, version, request, new: after, old }, images, is_last_of_batch);
    }

    fn expire(&mut self, up_to_ms: u64, images: Images) -> Result<Outcome, StorageError> {
        self.state.raise_time(up_to_ms);
        let (mut looked_at, mut removed) = (0, 0);
        let Some(from_ms) = self.expiry_floor_ms.filter(|from_ms| *from_ms <= up_to_ms) else {
            return Ok(Outcome::Expired { removed, more: false });
        };
        let mut walk = self.draft.walk(Column::Meta, keys::expiry_range(self.spec.shard, from_ms, up_to_ms));
        while let Some((index_key, _)) = walk.next(&self.draft)? {
            if looked_at == EXPIRED_PER_COMMAND_MAX {
                return Ok(Outcome::Expired { removed, more: true });
            }
            looked_at += 1;
            let (expires_ms, key) = keys::parse_expiry_key(&index_key);
            if !self.state.range().is_some_and(|range| range.contains(&key)) {
                // It was ours when it was noted; the row is another shard's by now, and so is its end.
                self.move_expiry(&key, Some(expires_ms), None);
                continue;
            }
            let data_key = keys::data_key(self.spec.keyspace, &key);
            let stored = self.draft.get(Column::Data, &data_key)?.map(Entry::decode).transpose()?;
            let gone = stored.filter(|entry| entry.expires_ms == Some(expires_ms));
            let gone = gone.expect("the expiry index names entries that are there and expire then");
            self.draft.delete(Column::Data, data_key);
            self.move_expiry(&key, Some(expires_ms), None);
            self.note_expired(key, gone, images, true);
            removed += 1;
        }
        Ok(Outcome::Expired { removed, more: false })
    }

    /// Keeps the expiry index in step with a row.
    fn move_expiry(&mut self, key: &Bytes, from_ms: Option<u64>, to_ms: Option<u64>) {
        if from_ms == to_ms {
            return;
        }
        if let Some(from_ms) = from_ms {
            self.draft.delete(Column::Meta, keys::expiry_key(self.spec.shard, from_ms, key));
            self.is_expiry_head_moved |= self.expiry_floor_ms.is_some_and(|floor_ms| from_ms <= floor_ms);
        }
        if let Some(to_ms) = to_ms {
            let index_key = keys::expiry_key(self.spec.shard, to_ms, key);
            self.draft.put(Column::Meta, index_key, Bytes::from_static(keys::MARKER));
            self.expiry_floor_ms = Some(self.expiry_floor_ms.map_or(to_ms, |floor_ms| floor_ms.min(to_ms)));
        }
    }

    fn note_expired(&mut self, key: Bytes, gone: Entry, images: Images, is_last_of_batch: bool) {
        let noted =
            Noted { kind: ChangeKind::Expire, key, version: gone.version, request: None, new: None, old: Some(gone) };
        self.note(noted, images, is_last_of_batch);
    }

    /// Adds a record to the diary.
    fn note(&mut self, noted: Noted, images: Images, is_last_of_batch: bool) {
        let seq = self.state.change_next_seq;
        let change = Change {
            seq,
            is_last_of_batch,
            kind: noted.kind,
            key: noted.key,
            version: noted.version,
            request: noted.request,
            principal: Bytes::new(),
            time_ms: self.state.logged_time_ms,
            new: noted.new,
            old: noted.old,
        };
        let (key, value) = (keys::change_key(self.spec.shard, seq), change.with_images(images).encode());
        self.state.change_bytes += (key.len() + value.len()) as u64;
        self.state.change_next_seq += 1;
        self.draft.put_change(key, value);
    }
}

/// What a record of the diary says, besides when.
struct Noted {
    kind: ChangeKind,
    key: Bytes,
    version: Version,
    request: Option<(u128, u64)>,
    new: Option<Entry>,
    old: Option<Entry>,
}

/// Refuses settings of a behaviour that this build does not know.
pub(super) fn require_known(settings: &Settings) -> Result<(), StorageError> {
    if (1..=BEHAVIOUR).contains(&settings.behaviour) {
        return Ok(());
    }
    Err(StorageError::UnknownFormat {
        what: "behaviour of apply",
        found: format!("version {} (this build knows {BEHAVIOUR})", settings.behaviour),
    })
}
