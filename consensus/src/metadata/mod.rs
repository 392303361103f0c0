//! # The study: what the cluster has agreed about itself
//!
//! ```text
//!   command ──▶ whoever leads group 0 ──▶ plan (pure: map in, row edits out) ──▶ one conditional batch in group 0
//!                                                                                        │ its diary
//!   every node:  map ◀── follow: changes since my revision, or the whole map ◀───────────┘
//! ```
//!
//! Group 0 is a CP shard like any other, of keyspace 0, which no client can name. Its rows are the map's rows; every
//! edit is one batch on condition that nobody edited since it was planned, so edits are serial.
//!
//! **Invariant.** The map only ever grows in revision, and two nodes at one revision hold the same map. A node acts on
//! the newest map it has; nothing that was acknowledged depends on its being the newest there is.

pub mod balance;
mod chores;
pub mod codec;
mod codec_shard;
mod figures;
mod follow;
pub mod forecast;
pub mod map;
mod nodes;
mod operate;
pub mod operator;
pub mod placement;
pub mod plan;
mod search;
pub mod study;
mod wire;
mod wire_command;
mod wire_forecast;
pub mod wish;

pub use forecast::{Forecast, Foreseen};
pub use map::{
    Behaviour, ClusterMap, Counters, KeyspaceRow, NodeRow, NodeState, ReplicaRow, Row, RowEdit, RowKey, ShardRow,
    ShardStage, Standing,
};
pub use nodes::{common_behaviour, too_old_for, upgrade_obstacles};
pub use operator::{Ending, OperatorRow, OperatorState, Origin, Task};
pub use study::Study;

use kvorum_api::{GroupId, KeyspaceId, NodeId, OperatorId, ShardId};

/// The keyspace of the metadata.
pub const METADATA_KEYSPACE: KeyspaceId = KeyspaceId(0);

/// The shard of the metadata.
pub const METADATA_SHARD: ShardId = ShardId(0);

/// The group of the metadata.
pub const METADATA_GROUP: GroupId = GroupId(0);

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataCommand {
    /// A new keyspace.
    CreateKeyspace {
        /// Its name.
        name: String,
        /// What it should be.
        wish: KeyspaceWish,
    },
    /// Another wish for an existing one; `None` = as it is. Mode, sharding, shards and replicas cannot be altered.
    AlterKeyspace {
        /// Its name.
        name: String,
        /// What should change.
        wish: KeyspaceWish,
    },
    /// The keyspace and everything in it goes.
    DropKeyspace {
        /// Its name.
        name: String,
    },
    /// A node that has no id yet asks for one. The same directory gets the same id.
    Join {
        /// Made once by the directory.
        directory: u128,
        /// Client address.
        client: String,
        /// Peer address.
        peer: String,
        /// Zone.
        zone: String,
    },
    /// A node says where it is now.
    Announce {
        /// Itself.
        node: NodeId,
        /// Client address.
        client: String,
        /// Peer address.
        peer: String,
        /// Zone.
        zone: String,
        /// The newest behaviour that its build can apply.
        behaviour: Behaviour,
        /// Its build.
        build: String,
    },
    /// A shard's replicas or its leader should change.
    Operate {
        /// Which; 0 = the metadata.
        shard: ShardId,
        /// How.
        wish: OperatorWish,
        /// Who asks.
        origin: Origin,
        /// Why, as a sentence.
        cause: String,
    },
    /// An operator should be undone.
    CancelOperator {
        /// Which.
        operator: OperatorId,
    },
    /// A shard's leader says what has become of an operator.
    OperatorEnded {
        /// Which.
        operator: OperatorId,
        /// What.
        ending: Ending,
    },
    /// A node is drained, taken back, or forgotten.
    SetNodeState {
        /// Which.
        node: NodeId,
        /// What is to become of it.
        state: NodeState,
    },
    /// Every shard should apply this behaviour.
    RaiseBehaviour {
        /// Which; `None` = the newest that every node can.
        behaviour: Option<Behaviour>,
    },
    /// The leaders of these shards have applied their founding `Configure`.
    ShardsReady {
        /// Which.
        shards: Vec<ShardId>,
    },
}

/// How the replicas of a shard, or its leader, should change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorWish {
    /// The replica on one node goes to another.
    Move {
        /// From here.
        from: NodeId,
        /// To here.
        to: NodeId,
    },
    /// Another replica.
    Add(NodeId),
    /// One replica less.
    Remove(NodeId),
    /// The replica on this node should lead.
    Lead(NodeId),
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataReply {
    /// The map's revision after it.
    pub revision: u64,
    /// The keyspace it was about.
    pub keyspace: Option<KeyspaceId>,
    /// The node it was about.
    pub node: Option<NodeId>,
    /// The operator it was about.
    pub operator: Option<OperatorId>,
}

/// What a keyspace should be; `None` = the default (create), or as it is (alter). Checked by the plan, which names
/// fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceWish {
    /// Its promise.
    pub mode: Option<kvorum_api::Mode>,
    /// How keys are placed.
    pub sharding: Option<kvorum_api::Sharding>,
    /// How many shards.
    pub shards: Option<u32>,
    /// Where a range keyspace is cut.
    pub split_at: Vec<bytes::Bytes>,
    /// Replicas of each shard.
    pub replicas: Option<u32>,
    /// Level of a read that names none.
    pub read_level: Option<kvorum_api::ReadLevel>,
    /// Bytes of a value.
    pub value_bytes_max: Option<u64>,
    /// Images of a change record.
    pub images: Option<kvorum_storage::command::Images>,
    /// Whether linearizable reads may be answered by the leader's lease.
    pub has_leases: Option<bool>,
}

/// What the first start of the first nodes makes: every founder is given the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Founding {
    /// The first nodes; those that hold the metadata are the first five of them at most, an odd number.
    pub nodes: Vec<NodeRow>,
    /// The first keyspaces: name and wish.
    pub keyspaces: Vec<(String, KeyspaceWish)>,
}
