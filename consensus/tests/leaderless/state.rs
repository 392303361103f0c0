//! What there is in a world of the model: three replicas of one shard, a fourth that may come, one key.
//!
//! One key is enough: what is claimed of a vector is claimed of every key by itself. A write is known by its index; its
//! dot is that index, too, since dots are never given twice (rule D1) and the model need not prove it.

/// Nodes: three that begin, and one that may take the place of node 0.
pub const NODES: usize = 4;

/// A set of nodes, of writes, of dots: bit by bit.
pub type Set = u16;

/// Whether something is in a set.
pub fn has(set: Set, one: usize) -> bool {
    set >> one & 1 == 1
}

/// A write that somebody coordinated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub stamp: u8,
    pub node: usize,
    pub start: u8,
    pub is_tombstone: bool,
    /// What its coordinator held and covered before.
    pub before: (Option<usize>, Set),
    /// The epoch in which it was coordinated.
    pub epoch: u8,
    /// Those that have stored it, counting in that epoch, as far as the coordinator has heard.
    pub stored_by: Set,
    /// The client was told that a quorum has it.
    pub is_acknowledged: bool,
}

/// How much a replica's word is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It counts.
    Whole,
    /// It has lost what it had, or never had anything, and counts for nothing; the nodes it has exchanged with since.
    Rebuilding(Set),
    /// There is none.
    Absent,
}

/// One replica. All of it is durable; what a crash takes is named where it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    pub mode: Mode,
    /// The life of the node; with the node's number it is the actor.
    pub start: u8,
    /// The first life of which it has the whole record of what it owes.
    pub recorded_from: u8,
    /// Nothing is stamped at or below it any more.
    pub clock: u8,
    /// The newest it holds.
    pub held: Option<usize>,
    /// Dots that it covers: the vector and its exceptions.
    pub covered: Set,
    /// Per peer, how many writes of its own there were when the key became owed; 0 = nothing is owed.
    pub owed: [u8; NODES],
    /// Writes of its own so far.
    pub own_writes: u8,
    pub promised: u8,
    pub has_named: bool,
    /// What it named when it promised.
    pub named: Set,
    pub has_confirmed: bool,
    pub floor: u8,
    pub epoch: u8,
}

/// What is on its way. Nothing is ever taken out: it may arrive late, twice, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    /// A write, from its coordinator to another replica. Like all of them to one life of a node alone.
    Store { write: usize, to: usize, to_start: u8 },
    /// What the sender holds, to somebody whom it owes the key. The answer is for the life that sent it.
    Replay { from: usize, from_start: u8, to: usize, to_start: u8, held: usize, owed: u8 },
    /// All that was owed has arrived, so these dots are covered.
    HandOver { to: usize, to_start: u8, dots: Set },
    /// Everything that a replica holds and covers.
    Walk { from: usize, to: usize, to_start: u8, held: Option<usize>, dots: Set, floor: u8, promised: u8 },
}

/// One state of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub replicas: [Replica; NODES],
    pub writes: Vec<Write>,
    pub messages: Vec<Message>,
    /// Up to where the floor is to be raised; 0 = nobody wants that yet.
    pub floor_wanted: u8,
    /// All had confirmed at one time.
    pub is_round_over: bool,
    /// The newest tombstone that anybody has thrown away.
    pub collected: Option<usize>,
    /// What the metadata says: 0 = nodes 0 to 2, 1 = these and 1 to 3, 2 = 1 to 3.
    pub epoch: u8,
    pub crashes: u8,
    /// Of these, those that took what was not synced yet.
    pub power_cuts: u8,
    pub wipes: u8,
    pub replays: u8,
    pub hand_overs: u8,
    pub walks: u8,
    /// Answers that got lost.
    pub losses: u8,
}

impl World {
    /// Nothing was written yet.
    pub fn new() -> Self {
        let replica = |mode| Replica {
            mode,
            start: 1,
            recorded_from: 1,
            clock: 0,
            held: None,
            covered: 0,
            owed: [0; NODES],
            own_writes: 0,
            promised: 0,
            has_named: false,
            named: 0,
            has_confirmed: false,
            floor: 0,
            epoch: 0,
        };
        World {
            replicas: [replica(Mode::Whole), replica(Mode::Whole), replica(Mode::Whole), replica(Mode::Absent)],
            writes: Vec::new(),
            messages: Vec::new(),
            floor_wanted: 0,
            is_round_over: false,
            collected: None,
            epoch: 0,
            crashes: 0,
            power_cuts: 0,
            wipes: 0,
            replays: 0,
            hand_overs: 0,
            walks: 0,
            losses: 0,
        }
    }

    /// The replica sets of which a quorum is needed in an epoch.
    pub fn sets(epoch: u8) -> &'static [Set] {
        match epoch {
            0 => &[0b0111],
            1 => &[0b0111, 0b1110],
            _ => &[0b1110],
        }
    }

    /// Whether these are a quorum in that epoch.
    pub fn is_quorum(nodes: Set, epoch: u8) -> bool {
        World::sets(epoch).iter().all(|set| (nodes & set).count_ones() >= 2)
    }

    /// Everybody with whom a replica of that epoch has to do.
    pub fn members(epoch: u8) -> impl Iterator<Item = usize> {
        let all = World::sets(epoch).iter().fold(0, |all, set| all | set);
        (0..NODES).filter(move |node| has(all, *node))
    }
}
