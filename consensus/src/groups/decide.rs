//! What is decided about closed groups, as functions from values to values (rules G1-G3, T3).
//!
//! **Invariant.** Nothing here reads a clock or waits. None of it is needed for safety, which is Raft's alone: a wrong
//! guess costs an election, never a write.

use super::liveness::Life;
use crate::hello::majority;
use kvorum_api::{LogPosition, NodeId, ReplicaId};
use std::fmt;

/// What a replica knows of its group while it is closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The newest term it has seen.
    pub term: u64,
    /// Who led in it; `None` = nobody, or it was never heard.
    pub leader: Option<ReplicaId>,
    /// Up to where it has applied.
    pub position: Option<LogPosition>,
    /// When the next entry is due, by logged time (rule T3).
    pub next_expiry_ms: Option<u64>,
    /// Whether this process closed it in agreement: only then does its leader go on in its term (rule G1).
    pub was_closed_in_order: bool,
    /// Voters that were lost when it was closed: they may lag.
    pub skipped: Vec<ReplicaId>,
}

/// How a replica is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It goes on leading in its term.
    Lead,
    /// It stands for election at once.
    Stand,
    /// It waits for its leader to speak (rule G3).
    Follow,
    /// As any replica that starts: nobody has led yet.
    Begin,
}

/// Who should open a group that somebody needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opener {
    /// This replica, like this.
    Here(How),
    /// The node of the leader that the record names.
    Elsewhere(NodeId),
}

/// Who opens a closed group that needs its leader: the leader the record names, if its node lives, else whoever is
/// asked.
#[must_use]
pub fn who_opens(record: &Record, leader: Option<(NodeId, Life)>, me: NodeId) -> Opener {
    match leader {
        Some((node, _)) if node == me && record.was_closed_in_order => Opener::Here(How::Lead),
        Some((node, _)) if node == me => Opener::Here(How::Stand),
        Some((node, Life::Alive { .. } | Life::Unknown)) => Opener::Elsewhere(node),
        Some((_, Life::Lost)) | None => Opener::Here(How::Stand),
    }
}

/// What a request for a vote does to a closed replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnVote {
    /// It opens, and Raft decides.
    Open,
    /// It is refused: the leader lives.
    Refuse,
    /// It is refused, and this replica, the leader, opens: somebody has missed it.
    Wake,
}

/// Whether a closed replica opens for a candidate. One that has a leader that lives does not: its lease ended with the
/// closing, so Raft itself would grant the vote, and every waking group would change its leader.
#[must_use]
pub fn grant_vote_when_closed(
    record: &Record,
    leader: Option<(NodeId, Life)>,
    candidate: ReplicaId,
    me: NodeId,
) -> OnVote {
    match leader {
        None => OnVote::Open,
        Some(_) if record.leader == Some(candidate) => OnVote::Open,
        Some((node, _)) if node == me => OnVote::Wake,
        Some((_, Life::Lost)) => OnVote::Open,
        Some((_, Life::Alive { .. } | Life::Unknown)) => OnVote::Refuse,
    }
}

/// One voter, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Which.
    pub replica: ReplicaId,
    /// The last index known to be in its log.
    pub matched: Option<u64>,
    /// Whether its node is lost.
    pub is_lost: bool,
}

/// What a leader looks at before it closes its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// The term it leads in and has committed an entry in; `None` = it does not.
    pub leads_in: Option<u64>,
    /// Whether the founding settings are applied.
    pub is_founded: bool,
    /// Whether anything waits, is proposed, or is being installed.
    pub is_busy: bool,
    /// The last index of its log.
    pub last: Option<u64>,
    /// The last index applied.
    pub applied: Option<u64>,
    /// The last index flushed by the engine.
    pub flushed: u64,
    /// Every voter, itself included.
    pub voters: Vec<Voter>,
}

/// Why a group is not closed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// This replica does not lead it.
    NotLeading,
    /// Its founding settings are not in force.
    NotFounded,
    /// Something is under way.
    Busy,
    /// A request arrived.
    Wanted,
    /// Entries are not applied yet.
    NotApplied,
    /// Entries are applied and not flushed.
    NotFlushed,
    /// This voter, on a living node, lacks entries.
    Lags(ReplicaId),
    /// Too few voters live to agree on anything.
    NoMajority,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotLeading => write!(f, "it is not led here"),
            Why::NotFounded => write!(f, "it is not founded"),
            Why::Busy => write!(f, "something is under way"),
            Why::Wanted => write!(f, "a request arrived"),
            Why::NotApplied => write!(f, "not everything is applied"),
            Why::NotFlushed => write!(f, "not everything is flushed"),
            Why::Lags(replica) => write!(f, "replica {replica} lags"),
            Why::NoMajority => write!(f, "no majority lives"),
        }
    }
}

/// Whether a leader may offer its followers to close (rule G2).
///
/// # Errors
/// What is in the way.
pub fn may_close(figures: &Figures) -> Result<(), Why> {
    if figures.leads_in.is_none() {
        return Err(Why::NotLeading);
    }
    if !figures.is_founded {
        return Err(Why::NotFounded);
    }
    if figures.is_busy {
        return Err(Why::Busy);
    }
    if figures.last.is_none() || figures.applied != figures.last {
        return Err(Why::NotApplied);
    }
    if let Some(voter) = figures.voters.iter().find(|voter| !voter.is_lost && voter.matched != figures.last) {
        return Err(Why::Lags(voter.replica));
    }
    let alive = figures.voters.iter().filter(|voter| !voter.is_lost).count();
    if alive < figures.voters.len() / 2 + 1 {
        return Err(Why::NoMajority);
    }
    if figures.last.is_some_and(|last| figures.flushed < last) {
        return Err(Why::NotFlushed);
    }
    Ok(())
}

/// Whether this node opens a closed group in which something is due: the node of the leader that the record names; if
/// it is lost, the first founder that lives (rule T3).
#[must_use]
pub fn opens_for_expiry(leader: Option<(NodeId, Life)>, founders: &[(NodeId, Life)], me: NodeId) -> bool {
    match leader {
        Some((node, _)) if node == me => true,
        Some((_, Life::Alive { .. } | Life::Unknown)) => false,
        Some((_, Life::Lost)) | None => {
            let first = founders.iter().find(|(node, life)| *node == me || matches!(life, Life::Alive { .. }));
            first.is_some_and(|(node, _)| *node == me)
        }
    }
}

/// Why nobody can lead a group now, if it lies with the nodes of others: too few live, or, while it is being founded,
/// one is lost (rule G8 asks for every founder). A node of which nothing is known yet may live.
pub fn why_held_up(founders: &[(NodeId, Life)], is_being_founded: bool) -> Option<String> {
    let lost: Vec<String> =
        founders.iter().filter(|(_, life)| *life == Life::Lost).map(|(node, _)| node.to_string()).collect();
    let living = founders.len() - lost.len();
    let names = lost.join(", ");
    match () {
        () if is_being_founded && !lost.is_empty() => Some(format!("being founded: waits for node {names}")),
        () if living < majority(founders.len()) => Some(format!("no majority of its nodes lives: lost {names}")),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    fn alive() -> Life {
        Life::Alive { since: Instant::now() }
    }

    fn record(leader: u64, was_closed_in_order: bool) -> Record {
        Record { term: 3, leader: Some(ReplicaId(leader)), was_closed_in_order, ..Record::default() }
    }

    /// Rule G1: only what this process closed in order is resumed; everything else is elected.
    #[tokio::test]
    async fn only_a_group_closed_in_order_is_led_on_without_an_election() {
        let open = |in_order| who_opens(&record(1, in_order), Some((ME, alive())), ME);
        assert_eq!(open(true), Opener::Here(How::Lead));
        assert_eq!(open(false), Opener::Here(How::Stand));
    }

    /// Rule G3.
    #[tokio::test]
    async fn a_group_whose_leader_lives_is_opened_there() {
        let of = |life| who_opens(&record(2, true), Some((OTHER, life)), ME);
        assert_eq!(of(alive()), Opener::Elsewhere(OTHER));
        assert_eq!(of(Life::Unknown), Opener::Elsewhere(OTHER));
        assert_eq!(of(Life::Lost), Opener::Here(How::Stand));
        assert_eq!(who_opens(&Record::default(), None, ME), Opener::Here(How::Stand));
    }

    /// Rule G3.
    #[tokio::test]
    async fn a_closed_replica_votes_only_when_its_leader_is_lost_or_asks_itself() {
        let on = |leader, life| grant_vote_when_closed(&record(2, true), Some((leader, life)), ReplicaId(3), ME);
        assert_eq!(on(OTHER, alive()), OnVote::Refuse);
        assert_eq!(on(OTHER, Life::Unknown), OnVote::Refuse);
        assert_eq!(on(OTHER, Life::Lost), OnVote::Open);
        assert_eq!(on(ME, alive()), OnVote::Wake);
        let itself = grant_vote_when_closed(&record(3, true), Some((OTHER, alive())), ReplicaId(3), ME);
        assert_eq!(itself, OnVote::Open);
        assert_eq!(grant_vote_when_closed(&Record::default(), None, ReplicaId(3), ME), OnVote::Open);
    }

    fn figures() -> Figures {
        let voter = |replica| Voter { replica: ReplicaId(replica), matched: Some(9), is_lost: false };
        Figures {
            leads_in: Some(2),
            is_founded: true,
            is_busy: false,
            last: Some(9),
            applied: Some(9),
            flushed: 9,
            voters: vec![voter(1), voter(2), voter(3)],
        }
    }

    /// Rule G2.
    #[test]
    fn a_group_closes_only_when_nothing_is_left_to_do() {
        assert_eq!(may_close(&figures()), Ok(()));
        let refused = |edit: fn(&mut Figures)| {
            let mut figures = figures();
            edit(&mut figures);
            may_close(&figures).unwrap_err()
        };
        assert_eq!(refused(|figures| figures.leads_in = None), Why::NotLeading);
        assert_eq!(refused(|figures| figures.is_founded = false), Why::NotFounded);
        assert_eq!(refused(|figures| figures.is_busy = true), Why::Busy);
        assert_eq!(refused(|figures| figures.applied = Some(8)), Why::NotApplied);
        assert_eq!(refused(|figures| figures.last = None), Why::NotApplied);
        assert_eq!(refused(|figures| figures.flushed = 8), Why::NotFlushed);
        assert_eq!(refused(|figures| figures.voters[1].matched = Some(8)), Why::Lags(ReplicaId(2)));
        assert_eq!(refused(|figures| figures.voters[2].matched = None), Why::Lags(ReplicaId(3)));
        let lost = |figures: &mut Figures, count: usize| {
            figures
                .voters
                .iter_mut()
                .skip(1)
                .take(count)
                .for_each(|voter| (voter.is_lost, voter.matched) = (true, None));
        };
        let mut one_lost = figures();
        lost(&mut one_lost, 1);
        assert_eq!(may_close(&one_lost), Ok(()), "the lost are skipped");
        let mut two_lost = figures();
        lost(&mut two_lost, 2);
        assert_eq!(may_close(&two_lost), Err(Why::NoMajority));
    }

    /// Whoever waits for a node to be ready must not wait for others that are dead.
    #[tokio::test]
    async fn a_group_is_held_up_by_those_who_are_lost_and_by_nobody_else() {
        let nodes = |lives: [Life; 3]| [ME, OTHER, NodeId(3)].into_iter().zip(lives).collect::<Vec<_>>();
        let (lost, unknown) = (Life::Lost, Life::Unknown);
        assert_eq!(why_held_up(&nodes([alive(), alive(), lost]), false), None);
        assert_eq!(why_held_up(&nodes([alive(), unknown, lost]), false), None, "it may live");
        let held_up = why_held_up(&nodes([alive(), lost, lost]), false);
        assert_eq!(held_up.as_deref(), Some("no majority of its nodes lives: lost 2, 3"));
        assert_eq!(why_held_up(&nodes([alive(), unknown, alive()]), true), None);
        let held_up = why_held_up(&nodes([alive(), alive(), lost]), true);
        assert_eq!(held_up.as_deref(), Some("being founded: waits for node 3"), "rule G8");
    }

    /// Rule T3.
    #[tokio::test]
    async fn what_is_due_is_seen_to_by_the_leader_or_the_first_founder_that_lives() {
        let founders = [(OTHER, Life::Lost), (ME, alive()), (NodeId(3), alive())];
        assert!(opens_for_expiry(Some((ME, alive())), &founders, ME));
        assert!(!opens_for_expiry(Some((NodeId(3), alive())), &founders, ME));
        assert!(opens_for_expiry(Some((OTHER, Life::Lost)), &founders, ME));
        assert!(!opens_for_expiry(Some((OTHER, Life::Lost)), &founders, NodeId(3)));
        assert!(opens_for_expiry(None, &founders, ME));
    }
}
