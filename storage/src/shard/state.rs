//! What a shard knows besides its rows, and how it is stored.
//!
//! ```text
//!   position  │ 1 │ flags │ term, index? │ batch │ membership … │                        this replica's
//!   state     │ 1 │ flags │ last version │ next seq │ logged time │ horizon │ hash │ settings? │    replicated
//!   diary     │ 1 │ oldest seq │ bytes │                                                this replica's
//! ```
//!
//! **Invariant.** `state` holds what every replica agrees on at a position and nothing else; what is a replica's own
//! lies beside it, so that a snapshot can carry the one and not the other.

use crate::{
    codec::{
        Reader, Writer,
        settings::{put_settings, settings},
    },
    command::Settings,
    engine::{Batch, Column, Direction, View},
    error::StorageError,
    journal::BatchNumber,
    keys::{self, MetaKind},
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, LogPosition, PlacementRange, ShardId, Version};

/// The format of the three records this build writes.
const FORMAT: u8 = 1;

const HAS_POSITION: u8 = 1;
const HAS_SETTINGS: u8 = 1;

/// The seq of a shard's first change.
const FIRST_SEQ: u64 = 1;

/// What a shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardSpec {
    /// Its id.
    pub shard: ShardId,
    /// The keyspace it belongs to.
    pub keyspace: KeyspaceId,
}

/// Where a replica stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied; `None` = nothing yet.
    pub position: Option<LogPosition>,
    /// The journal batch that held it.
    pub batch: BatchNumber,
    /// The newest membership applied, as the consensus crate encoded it (with its own log id); empty = none yet.
    pub membership: Bytes,
}

impl Applied {
    /// As stored under the position key.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 1 + 16 + 8 + self.membership.len());
        writer.u8(if self.position.is_some() { HAS_POSITION } else { 0 });
        if let Some(position) = self.position {
            writer.position(position);
        }
        writer.u64(self.batch.0);
        writer.rest(&self.membership);
        writer.finish()
    }

    /// The reverse of [`Applied::encode`].
    ///
    /// # Errors
    /// A format this build does not know, or bytes that are none.
    pub fn decode(bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("position", bytes, FORMAT)?;
        let flags = reader.flags(HAS_POSITION)?;
        let position = if flags & HAS_POSITION != 0 { Some(reader.position()?) } else { None };
        Ok(Applied { position, batch: BatchNumber(reader.u64()?), membership: reader.rest() })
    }

    /// Where the replica stands in a view.
    pub(super) fn in_view(view: &dyn View, shard: ShardId) -> Result<Self, StorageError> {
        let stored = view.get(Column::Meta, &keys::meta_key(MetaKind::Position, shard))?;
        stored.map_or_else(|| Ok(Applied::default()), Applied::decode)
    }
}

/// The replicated state of a shard besides its rows, and the ends of its diary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardState {
    /// Where the replica stands.
    pub applied: Applied,
    /// The highest version assigned.
    pub last_version: Version,
    /// The shard's logged time, Unix milliseconds: expiry and request-id ages are judged by it alone.
    pub logged_time_ms: u64,
    /// Request ids first sent before this are too old for ever. It only grows, also when the window is made longer: an
    /// id that was forgotten must not become young again.
    pub request_horizon_ms: u64,
    /// When the next entry is due, by logged time.
    pub next_expiry_ms: Option<u64>,
    /// Chained over everything applied: equal at equal positions on every replica.
    pub rolling_hash: u128,
    /// Replicated settings; `None` until the founding `Configure` is applied.
    pub settings: Option<Settings>,
    /// The oldest change this replica still has.
    pub change_oldest_seq: u64,
    /// The seq the next change will get.
    pub change_next_seq: u64,
    /// Bytes of the changes this replica still has.
    pub change_bytes: u64,
    /// Whether a snapshot is being installed: reads and applies are refused.
    pub is_installing: bool,
}

impl Default for ShardState {
    fn default() -> Self {
        ShardState {
            applied: Applied::default(),
            last_version: Version::default(),
            logged_time_ms: 0,
            request_horizon_ms: 0,
            next_expiry_ms: None,
            rolling_hash: 0,
            settings: None,
            change_oldest_seq: FIRST_SEQ,
            change_next_seq: FIRST_SEQ,
            change_bytes: 0,
            is_installing: false,
        }
    }
}

impl ShardState {
    /// The placement keys that are the shard's own; `None` until the founding `Configure` is applied.
    #[must_use]
    pub fn range(&self) -> Option<&PlacementRange> {
        self.settings.as_ref().map(|settings| &settings.range)
    }

    /// The range that a record under the state key names.
    pub(super) fn range_of(record: Bytes) -> Result<Option<PlacementRange>, StorageError> {
        let mut state = ShardState::default();
        state.take_replicated(record)?;
        Ok(state.settings.map(|settings| settings.range))
    }

    /// Everything of it that a view holds.
    pub(super) fn in_view(view: &dyn View, spec: ShardSpec) -> Result<Self, StorageError> {
        let mut state = ShardState { applied: Applied::in_view(view, spec.shard)?, ..ShardState::default() };
        if let Some(bytes) = view.get(Column::Meta, &keys::meta_key(MetaKind::State, spec.shard))? {
            state.take_replicated(bytes)?;
        }
        if let Some(bytes) = view.get(Column::Meta, &keys::meta_key(MetaKind::Diary, spec.shard))? {
            let mut reader = Reader::open("diary", bytes, FORMAT)?;
            (state.change_oldest_seq, state.change_bytes) = (reader.u64()?, reader.u64()?);
            reader.end()?;
        }
        Ok(state)
    }

    /// When the first entry of the expiry index is due, in a view.
    pub(super) fn first_expiry(view: &dyn View, shard: ShardId) -> Result<Option<u64>, StorageError> {
        let mut cursor = view.cursor(Column::Meta, keys::meta_range(MetaKind::Expiry, shard), Direction::Forward);
        Ok(cursor.next()?.map(|(key, _)| keys::parse_expiry_key(&key).0))
    }

    /// Adds the three records to a batch.
    pub(super) fn put_into(&self, batch: &mut Batch, shard: ShardId) {
        batch.put(Column::Meta, keys::meta_key(MetaKind::Position, shard), self.applied.encode());
        batch.put(Column::Meta, keys::meta_key(MetaKind::State, shard), self.encode_replicated());
        self.put_diary_into(batch, shard);
    }

    /// Adds the ends of the diary to a batch.
    pub(super) fn put_diary_into(&self, batch: &mut Batch, shard: ShardId) {
        let mut writer = Writer::new(FORMAT, 16);
        writer.u64(self.change_oldest_seq);
        writer.u64(self.change_bytes);
        batch.put(Column::Meta, keys::meta_key(MetaKind::Diary, shard), writer.finish());
    }

    /// Raises the logged time (rule T2), and the horizon of request ids with it.
    pub(super) fn raise_time(&mut self, time_ms: u64) {
        self.logged_time_ms = self.logged_time_ms.max(time_ms);
        if let Some(settings) = &self.settings {
            let horizon_ms = self.logged_time_ms.saturating_sub(settings.request_window_ms);
            self.request_horizon_ms = self.request_horizon_ms.max(horizon_ms);
        }
    }

    /// As stored under the state key: what every replica agrees on.
    pub(super) fn encode_replicated(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 1 + Version::BYTES + 3 * 8 + 16 + 17);
        writer.u8(if self.settings.is_some() { HAS_SETTINGS } else { 0 });
        writer.version(self.last_version);
        writer.u64(self.change_next_seq);
        writer.u64(self.logged_time_ms);
        writer.u64(self.request_horizon_ms);
        writer.u128(self.rolling_hash);
        if let Some(settings) = &self.settings {
            put_settings(&mut writer, settings);
        }
        writer.finish()
    }

    fn take_replicated(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let mut reader = Reader::open("shard state", bytes, FORMAT)?;
        let flags = reader.flags(HAS_SETTINGS)?;
        self.last_version = reader.version()?;
        self.change_next_seq = reader.u64()?;
        self.logged_time_ms = reader.u64()?;
        self.request_horizon_ms = reader.u64()?;
        self.rolling_hash = reader.u128()?;
        self.settings = if flags & HAS_SETTINGS != 0 { Some(settings(&mut reader)?) } else { None };
        reader.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{command::Images, engine::Engine, engine::mem::MemEngine, spoil::raw_and_spoiled};
    use kvorum_api::{Actor, NodeId, Stamp, StartCount};

    const SPEC: ShardSpec = ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(2) };

    fn state() -> ShardState {
        ShardState {
            applied: Applied {
                position: Some(LogPosition { term: 1, index: 2 }),
                batch: BatchNumber(3),
                membership: "m".into(),
            },
            last_version: Version { stamp: Stamp(4), actor: Actor { node: NodeId(5), start: StartCount(6) } },
            logged_time_ms: 7,
            request_horizon_ms: 8,
            next_expiry_ms: None,
            rolling_hash: 9,
            settings: Some(Settings {
                behaviour: 1,
                images: Images::Keys,
                request_window_ms: 10,
                request_outcomes_max: 11,
                range: PlacementRange::all(),
                epoch: 1,
                has_leases: false,
            }),
            change_oldest_seq: 12,
            change_next_seq: 13,
            change_bytes: 14,
            is_installing: false,
        }
    }

    #[test]
    fn what_is_stored_reads_back() {
        let engine = MemEngine::fresh();
        for state in [state(), ShardState { settings: None, ..state() }] {
            let mut batch = Batch::new();
            state.put_into(&mut batch, SPEC.shard);
            engine.write(&batch).unwrap();
            assert_eq!(ShardState::in_view(&*engine.view(), SPEC).unwrap(), state);
        }
    }

    #[test]
    fn format_1_is_what_it_was() {
        let mut batch = Batch::new();
        state().put_into(&mut batch, SPEC.shard);
        let value = |kind| batch.get(Column::Meta, &keys::meta_key(kind, SPEC.shard)).flatten().unwrap();
        #[rustfmt::skip]
        let position: &[u8] = &[
            1, 1,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,  b'm',
        ];
        #[rustfmt::skip]
        let replicated: &[u8] = &[
            1, 1,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,
            0, 0, 0, 0, 0, 0, 0, 13,  0, 0, 0, 0, 0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 0, 8,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
            0, 0, 0, 1,  1,  0, 0, 0, 0, 0, 0, 0, 10,  0, 0, 0, 11,
        ];
        assert_eq!(value(MetaKind::Position), position);
        assert_eq!(value(MetaKind::State), replicated);
        assert_eq!(value(MetaKind::Diary), &[1, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 14][..]);
    }

    #[test]
    fn fuzz_any_records_are_refused_or_read_as_exactly_what_they_say() {
        let state = state();
        let (applied, replicated) = (state.applied.encode(), state.encode_replicated());
        bolero::check!().with_iterations(2_000).with_max_len(120).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&applied, input) {
                if let Ok(read) = Applied::decode(bytes.clone()) {
                    assert_eq!(read.encode(), bytes);
                }
            }
            for bytes in raw_and_spoiled(&replicated, input) {
                let mut read = ShardState::default();
                if read.take_replicated(bytes.clone()).is_ok() {
                    assert_eq!(read.encode_replicated(), bytes);
                }
            }
        });
    }

    /// The layout with a range, an epoch and leases.
    #[test]
    fn state_with_a_range_is_what_it_was() {
        let mut state = state();
        let settings = state.settings.as_mut().unwrap();
        settings.range = PlacementRange { start: "b".into(), end: Some("d".into()) };
        (settings.epoch, settings.has_leases) = (15, true);
        #[rustfmt::skip]
        let replicated: &[u8] = &[
            1, 1,  0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,
            0, 0, 0, 0, 0, 0, 0, 13,  0, 0, 0, 0, 0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 0, 8,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
            0, 0, 0, 1,  129,  0, 0, 0, 0, 0, 0, 0, 10,  0, 0, 0, 11,
            0, 0, 0, 0, 0, 0, 0, 15,  3,  0, 0, 0, 1, b'b',  0, 0, 0, 1, b'd',
        ];
        assert_eq!(state.encode_replicated(), replicated);
        let mut read = ShardState::default();
        read.take_replicated(Bytes::from_static(replicated)).unwrap();
        assert_eq!(read.settings, state.settings);
    }

    /// Rule T2: the logged time is the highest seen.
    #[test]
    fn logged_time_and_the_horizon_never_go_back() {
        let mut state = state();
        state.raise_time(100);
        assert_eq!((state.logged_time_ms, state.request_horizon_ms), (100, 90));
        state.raise_time(50);
        assert_eq!((state.logged_time_ms, state.request_horizon_ms), (100, 90));
        state.settings.as_mut().unwrap().request_window_ms = 60;
        state.raise_time(101);
        assert_eq!((state.logged_time_ms, state.request_horizon_ms), (101, 90), "forgotten ids stay too old");
    }
}
