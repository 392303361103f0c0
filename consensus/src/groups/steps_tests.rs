//! Operators are carried out by whoever leads, whatever became of those who led before.

use super::*;
use crate::metadata::{
    ClusterMap, Founding, KeyspaceWish, MetadataCommand, NodeRow, OperatorWish, Origin, Standing,
    plan::{found, plan},
};
use kvorum_api::{OperatorId, ShardId, Sharding};
use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use std::collections::BTreeMap;

const NEW: ReplicaId = ReplicaId(9);
const HERE: NodeId = NodeId(1);

fn set(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}

fn operator(task: Task) -> OperatorRow {
    OperatorRow {
        id: OperatorId(1),
        shard: ShardId(1),
        task,
        origin: Origin::User,
        cause: String::new(),
        state: OperatorState::Running,
        created_ms: 0,
        ended_ms: 0,
    }
}

fn change(add: Option<u64>, remove: Option<u64>) -> OperatorRow {
    let seat = |id| (ReplicaId(id), NodeId(id));
    operator(Task::Change { add: add.map(seat), remove: remove.map(seat) })
}

fn facts(me: u64, voters: &[&[u64]], learners: &[u64], lag: Option<u64>) -> Facts {
    let voters: Vec<_> = voters.iter().map(|voters| set(voters)).collect();
    let heard = voters.iter().flatten().copied().chain(set(learners)).collect();
    Facts { me: ReplicaId(me), voters, learners: set(learners), is_committed: true, lag, heard }
}

#[test]
fn a_move_goes_step_by_step() {
    let operator = change(Some(9), Some(1));
    let next = |facts: Facts| next_step(&operator, HERE, &facts);
    assert_eq!(next(facts(2, &[&[1, 2, 3]], &[], None)), Step::AddLearner(NEW));
    assert!(matches!(next(facts(2, &[&[1, 2, 3]], &[9], None)), Step::Wait(_)), "it was not heard yet");
    assert!(matches!(next(facts(2, &[&[1, 2, 3]], &[9], Some(LAG_MAX + 1))), Step::Wait(_)), "it is behind");
    assert_eq!(next(facts(2, &[&[1, 2, 3]], &[9], Some(LAG_MAX))), Step::Change(set(&[2, 3, 9])));
    assert_eq!(next(facts(1, &[&[1, 2, 3]], &[9], Some(0))), Step::HandOver, "the leader is the one that goes");
    assert_eq!(next(facts(2, &[&[1, 2, 3], &[2, 3, 9]], &[], Some(0))), Step::Change(set(&[2, 3, 9])));
    assert_eq!(next(facts(2, &[&[2, 3, 9]], &[], Some(0))), Step::End(Ending::Done));
    let uncommitted = Facts { is_committed: false, ..facts(2, &[&[2, 3, 9]], &[], Some(0)) };
    assert!(matches!(next(uncommitted), Step::Wait(_)), "nothing is erased before the new voters are for certain");
}

#[test]
fn the_only_voter_lets_another_in_before_it_goes() {
    let operator = change(Some(9), Some(1));
    let next = |facts: Facts| next_step(&operator, HERE, &facts);
    assert_eq!(next(facts(1, &[&[1]], &[9], Some(0))), Step::Change(set(&[1, 9])));
    assert_eq!(next(facts(1, &[&[1, 9]], &[], Some(0))), Step::HandOver);
    assert_eq!(next(facts(9, &[&[1, 9]], &[], Some(0))), Step::Change(set(&[9])));
    let alone = next_step(&change(None, Some(1)), HERE, &facts(1, &[&[1]], &[], None));
    assert!(matches!(alone, Step::End(Ending::Failed(_))), "{alone:?}");
}

#[test]
fn a_change_is_undone_until_its_voters_have_changed() {
    let operator = OperatorRow { state: OperatorState::Cancelling, ..change(Some(9), Some(1)) };
    let next = |facts: Facts| next_step(&operator, HERE, &facts);
    assert_eq!(next(facts(2, &[&[1, 2, 3]], &[], None)), Step::End(Ending::Cancelled));
    assert_eq!(next(facts(2, &[&[1, 2, 3]], &[9], None)), Step::RemoveLearner(NEW));
    assert_eq!(next(facts(2, &[&[1, 2, 3], &[2, 3, 9]], &[], None)), Step::Change(set(&[2, 3, 9])), "too late");
    assert_eq!(next(facts(2, &[&[2, 3, 9]], &[], None)), Step::End(Ending::Done));
    assert_eq!(next(facts(1, &[&[1, 9]], &[], None)), Step::Change(set(&[1])));
    assert_eq!(next(facts(9, &[&[1, 9]], &[], None)), Step::HandOver);
}

/// Rule G13: in the middle of a change both majorities must agree, so it is not begun with those who do not answer.
#[test]
fn voters_change_only_if_the_newcomer_and_a_majority_of_those_after_it_answer() {
    let operator = change(Some(9), Some(1));
    let caught_up = || facts(2, &[&[1, 2, 3]], &[9], Some(0));
    let next = |heard: &[u64]| next_step(&operator, HERE, &Facts { heard: set(heard), ..caught_up() });
    assert_eq!(next(&[1, 2, 9]), Step::Change(set(&[2, 3, 9])));
    assert!(matches!(next(&[1, 2, 3]), Step::Wait(_)), "it had caught up, and died");
    let dead = OperatorRow { state: OperatorState::Cancelling, ..change(Some(9), Some(1)) };
    let undo = |heard: &[u64]| next_step(&dead, HERE, &Facts { heard: set(heard), ..facts(1, &[&[1, 9]], &[], None) });
    assert_eq!(undo(&[1]), Step::Change(set(&[1])));
    let shrink = |heard: &[u64]| {
        next_step(&change(None, Some(1)), HERE, &Facts { heard: set(heard), ..facts(2, &[&[1, 2, 3]], &[], None) })
    };
    assert!(matches!(shrink(&[1, 2]), Step::Wait(_)), "the two that are left need each other");
    assert_eq!(shrink(&[2, 3]), Step::Change(set(&[2, 3])));
    // What was begun is finished, whoever answers.
    let joint = Facts { heard: set(&[2]), ..facts(2, &[&[1, 2, 3], &[2, 3, 9]], &[], None) };
    assert_eq!(next_step(&operator, HERE, &joint), Step::Change(set(&[2, 3, 9])));
}

/// Rule G14: a learner of an operator that is over is removed by whoever leads.
#[test]
fn a_learner_that_the_map_does_not_name_is_removed() {
    let named = set(&[1, 2, 3]);
    assert_eq!(tidy(&facts(1, &[&[1, 2, 3]], &[], None), &named), None);
    assert_eq!(tidy(&facts(1, &[&[1, 2, 3]], &[9], None), &named), Some(Step::RemoveLearner(NEW)));
    assert_eq!(tidy(&facts(1, &[&[1, 2, 3]], &[9], None), &set(&[1, 2, 3, 9])), None, "it is named");
    let uncommitted = Facts { is_committed: false, ..facts(1, &[&[1, 2, 3]], &[9], None) };
    assert_eq!(tidy(&uncommitted, &named), None);
    let joint = facts(1, &[&[1, 2, 3], &[2, 3, 9]], &[], None);
    assert_eq!(tidy(&joint, &named), Some(Step::Change(set(&[2, 3, 9]))));
}

#[test]
fn leadership_moves_or_stays() {
    let lead = operator(Task::Lead(NodeId(2)));
    let at = |node| next_step(&lead, NodeId(node), &facts(1, &[&[1, 2, 3]], &[], None));
    assert_eq!((at(2), at(1)), (Step::End(Ending::Done), Step::Lead(NodeId(2))));
    let cancelled = OperatorRow { state: OperatorState::Cancelling, ..lead.clone() };
    let step = next_step(&cancelled, NodeId(1), &facts(1, &[&[1, 2, 3]], &[], None));
    assert_eq!(step, Step::End(Ending::Cancelled));
}

/// A group as its members see it, without a log: what a step does to it, wholly or by half.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    voters: Vec<BTreeSet<ReplicaId>>,
    learners: BTreeSet<ReplicaId>,
}

impl Model {
    fn take(&mut self, step: &Step, is_half: bool) {
        match step {
            Step::AddLearner(learner) => drop(self.learners.insert(*learner)),
            Step::RemoveLearner(learner) => drop(self.learners.remove(learner)),
            Step::Change(target) => {
                let last = self.voters.last().cloned().unwrap();
                self.learners.retain(|learner| !target.contains(learner));
                let is_plain = self.voters.len() == 1 && last != *target;
                self.voters = if is_half && is_plain { vec![last, target.clone()] } else { vec![target.clone()] };
            }
            Step::HandOver | Step::Lead(_) | Step::Wait(_) | Step::End(_) => {}
        }
    }
}

proptest! {
    /// Leaders come and go, steps are taken by half, and somebody may cancel: it ends, in one of two states, and no
    /// step changes more than one voter.
    #[test]
    fn every_operator_ends_whoever_leads(
        replicas in 1..6_u64, has_add in any::<bool>(), has_remove in any::<bool>(),
        fates in proptest::collection::vec((any::<Index>(), any::<bool>(), 0..12_u8), 60),
    ) {
        let before: BTreeSet<ReplicaId> = (1..=replicas).map(ReplicaId).collect();
        let (add, remove) = (has_add.then_some(9), has_remove.then_some(1));
        let mut operator = change(add, remove);
        let mut model = Model { voters: vec![before.clone()], learners: BTreeSet::new() };
        let mut ended = None;
        for (leader, is_half, luck) in fates {
            if luck == 0 {
                operator.state = OperatorState::Cancelling;
            }
            let voters: Vec<ReplicaId> = model.voters.iter().flatten().copied().collect();
            // Whoever leads; after a hand-over somebody else does.
            let me = *leader.get(&voters);
            let lag = model.learners.contains(&NEW).then_some(0);
            let heard = voters.iter().copied().chain(model.learners.iter().copied()).collect();
            let (voters, learners) = (model.voters.clone(), model.learners.clone());
            let facts = Facts { me, voters, learners, is_committed: true, lag, heard };
            let step = next_step(&operator, HERE, &facts);
            if let Step::End(ending) = &step {
                ended = Some(ending.clone());
                break;
            }
            if let (Step::Change(target), [alone]) = (&step, model.voters.as_slice()) {
                prop_assert!(target.difference(alone).count() <= 1 && alone.difference(target).count() <= 1);
                prop_assert!(!target.is_empty());
            }
            model.take(&step, is_half);
        }
        let ended = ended.expect("sixty steps are enough for anything");
        prop_assert_eq!(model.voters.len(), 1, "a joint configuration is finished");
        let voters = &model.voters[0];
        let mut after = before.clone();
        after.extend(add.map(ReplicaId));
        after.retain(|voter| Some(voter.0) != remove);
        match ended {
            Ending::Done => prop_assert_eq!(voters, &after),
            Ending::Cancelled => prop_assert_eq!(voters, &before),
            Ending::Failed(_) => prop_assert!(replicas == 1 && add.is_none() && remove.is_some()),
        }
        prop_assert!(model.learners.is_empty());
    }
}

const SHARD: ShardId = ShardId(1);
const NODES: u64 = 6;

/// What a step is decided on and carried out under. The rules ask for all of them; without any one of them something
/// goes wrong, which is tested too.
#[derive(Clone, Copy, Debug)]
struct Guards {
    /// The operator is the one that the metadata has, not the one in some copy of the map.
    is_map_fresh: bool,
    /// A majority has confirmed the leader after the map was read.
    is_leader_confirmed: bool,
    /// Nothing is carried out if the voters have changed since it was decided.
    is_membership_compared: bool,
}

const GUARDED: Guards = Guards { is_map_fresh: true, is_leader_confirmed: true, is_membership_compared: true };

/// Somebody who leads, or believes so.
struct Leader {
    me: ReplicaId,
    term: u64,
    /// The group as it was when another one was elected; `None` = nobody was.
    former_view: Option<(Model, u64)>,
    /// One step at a time.
    step: Stage,
}

/// How far a leader has come with its step.
enum Stage {
    Idle,
    /// It knows what the metadata wants.
    Informed(Option<OperatorRow>, BTreeSet<ReplicaId>),
    /// It knows what to do, and what the voters were.
    Decided(Step, Option<OperatorId>, u64),
}

/// The map, by its own plans, and a group, by the steps: six nodes and a shard on three of them.
struct World {
    guards: Guards,
    map: ClusterMap,
    /// Every map there was.
    former_maps: Vec<ClusterMap>,
    group: Model,
    /// Grows with every change of the membership.
    version: u64,
    /// Every replica that there ever was, and its node.
    seats: BTreeMap<ReplicaId, NodeId>,
    leaders: Vec<Leader>,
    /// What leaders have said of operators, and the metadata has not heard yet.
    late: Vec<MetadataCommand>,
    /// Steps that were given up after a while, and that may be taken all the same: in that term, of that membership.
    given_up: Vec<(Step, u64, u64)>,
}

/// What happens next in a world.
#[derive(Clone, Debug)]
enum Event {
    /// Somebody asks for something, wherever it leads.
    Ask { from: u64, to: u64, is_lead: bool },
    /// Somebody gives up.
    Cancel,
    /// Another voter leads from now on. Whoever led before may not hear of it.
    Elect(Index),
    /// Somebody who leads or led goes on with its step: it reads the map, or decides, hearing only some, or carries out
    /// what it has decided; it may die before it, in its middle, or before its report arrives.
    Drive { leader: Index, map: Index, heard: u64, fate: u8 },
    /// A report arrives that was under way, and a step is taken that was given up.
    Deliver(Index),
}

fn event() -> impl Strategy<Value = Event> {
    let drive = (any::<Index>(), any::<Index>(), any::<u64>(), 0..8_u8);
    prop_oneof![
        2 => (1..=NODES, 1..=NODES, 0..4_u8).prop_map(|(from, to, lead)| Event::Ask { from, to, is_lead: lead == 0 }),
        1 => Just(Event::Cancel),
        2 => any::<Index>().prop_map(Event::Elect),
        20 => drive.prop_map(|(leader, map, heard, fate)| Event::Drive { leader, map, heard, fate }),
        2 => any::<Index>().prop_map(Event::Deliver),
    ]
}

impl World {
    fn new(guards: Guards) -> Self {
        let address = |id: u64, port: u16| format!("node-{id}:{port}");
        let node = |id| NodeRow::of_this_build(NodeId(id), address(id, 1), address(id, 2), String::new(), 0);
        let wish = KeyspaceWish {
            sharding: Some(Sharding::Hash),
            shards: Some(1),
            replicas: Some(3),
            ..KeyspaceWish::default()
        };
        let founding =
            Founding { nodes: (1..=NODES).map(node).collect(), keyspaces: vec![("orders".to_owned(), wish)] };
        let mut map = ClusterMap::default();
        found(&founding, 0).unwrap().edits.into_iter().for_each(|edit| map.apply(edit));
        let seats: BTreeMap<ReplicaId, NodeId> = map.shards[&SHARD].founders.iter().copied().collect();
        let group = Model { voters: vec![seats.keys().copied().collect()], learners: BTreeSet::new() };
        let first = Leader { me: *seats.keys().next().unwrap(), term: 1, former_view: None, step: Stage::Idle };
        let (leaders, former_maps, late, given_up) = (vec![first], Vec::new(), Vec::new(), Vec::new());
        let mut world = World { guards, map, former_maps, group, version: 0, seats, leaders, late, given_up };
        world.change(&MetadataCommand::ShardsReady { shards: vec![SHARD] });
        world
    }

    fn change(&mut self, command: &MetadataCommand) -> Option<OperatorId> {
        let plan = plan(&self.map, command, 0, &BTreeSet::new()).ok()?;
        self.former_maps.push(self.map.clone());
        plan.edits.into_iter().for_each(|edit| self.map.apply(edit));
        plan.operator
    }

    fn ask(&mut self, wish: OperatorWish) {
        let cause = "a test asks for it".to_owned();
        let command = MetadataCommand::Operate { shard: SHARD, wish, origin: Origin::User, cause };
        let Some(operator) = self.change(&command) else { return };
        if let Some((replica, node)) = self.map.operators[&operator].task.added() {
            assert_eq!(self.seats.insert(replica, node), None, "no id is given twice");
        }
    }

    fn term(&self) -> u64 {
        self.leaders.last().map_or(0, |leader| leader.term)
    }

    fn elect(&mut self, chosen: Index) {
        let voters: Vec<ReplicaId> = self.group.voters.iter().flatten().copied().collect();
        let (me, term) = (*chosen.get(&voters), self.term() + 1);
        for former in self.leaders.iter_mut().filter(|leader| leader.former_view.is_none()) {
            former.former_view = Some((self.group.clone(), self.version));
        }
        self.leaders.retain(|leader| leader.me != me);
        self.leaders.push(Leader { me, term, former_view: None, step: Stage::Idle });
    }

    /// One more piece of a leader's step.
    fn drive(&mut self, leader: usize, map: Option<Index>, heard: impl Fn(ReplicaId) -> bool, fate: u8) {
        let (current, guards) = (self.term(), self.guards);
        let Leader { me, term, former_view, step } = &mut self.leaders[leader];
        let (me, is_current) = (*me, *term == current);
        match std::mem::replace(step, Stage::Idle) {
            Stage::Idle => {
                let is_old = |_: &Index| !guards.is_map_fresh && !self.former_maps.is_empty();
                let map = map.filter(is_old).map_or(&self.map, |map| map.get(&self.former_maps));
                let named = map.replicas_of(SHARD).iter().map(|row| row.replica).collect();
                *step = Stage::Informed(map.operator_of(SHARD).cloned(), named);
            }
            Stage::Informed(operator, named) => {
                if guards.is_leader_confirmed && !is_current {
                    return;
                }
                let (group, version) = former_view.clone().unwrap_or_else(|| (self.group.clone(), self.version));
                let added = operator.as_ref().and_then(|operator| operator.task.added()).map(|(replica, _)| replica);
                let lag = added.filter(|added| group.learners.contains(added)).map(|_| 0);
                let heard = self.seats.keys().copied().filter(|replica| *replica == me || heard(*replica)).collect();
                let facts =
                    Facts { me, voters: group.voters, learners: group.learners, is_committed: true, lag, heard };
                let next = match &operator {
                    Some(operator) => Some(next_step(operator, self.seats[&me], &facts)),
                    None => tidy(&facts, &named),
                };
                if let Some(next) = next {
                    *step = Stage::Decided(next, operator.map(|operator| operator.id), version);
                }
            }
            Stage::Decided(Step::End(ending), Some(operator), _) => {
                let report = MetadataCommand::OperatorEnded { operator, ending };
                match fate {
                    0 => self.late.push(report),
                    _ => drop(self.change(&report)),
                }
            }
            Stage::Decided(_, _, _) if fate == 1 => {}
            Stage::Decided(next, _, version) if fate == 3 => {
                let term = *term;
                self.given_up.push((next, term, version));
            }
            Stage::Decided(next, _, version) => {
                let term = *term;
                self.take(&next, (term, version), fate == 2);
            }
        }
    }

    /// A step is taken, if it was decided in this term and of this membership: a deposed leader's entries are committed
    /// by nobody.
    fn take(&mut self, step: &Step, (term, version): (u64, u64), is_half: bool) {
        if term == self.term() && (version == self.version || !self.guards.is_membership_compared) {
            let before = self.group.clone();
            self.group.take(step, is_half);
            self.version += u64::from(before != self.group);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask { to, is_lead: true, .. } => self.ask(OperatorWish::Lead(NodeId(to))),
            Event::Ask { from, to, .. } => self.ask(OperatorWish::Move { from: NodeId(from), to: NodeId(to) }),
            Event::Cancel => {
                let open = self.map.operator_of(SHARD).map(|operator| operator.id);
                open.and_then(|operator| self.change(&MetadataCommand::CancelOperator { operator }));
            }
            Event::Elect(chosen) => self.elect(chosen),
            Event::Drive { leader, map, heard, fate } => {
                let leader = leader.index(self.leaders.len());
                self.drive(leader, Some(map), |replica| heard >> (replica.0 % 64) & 1 == 1, fate);
            }
            Event::Deliver(late) => {
                if !self.late.is_empty() {
                    let report = self.late.remove(late.index(self.late.len()));
                    self.change(&report);
                }
                if !self.given_up.is_empty() {
                    let (step, term, version) = self.given_up.remove(late.index(self.given_up.len()));
                    self.take(&step, (term, version), false);
                }
            }
        }
    }

    /// Whatever happens in between: nobody votes whom the map does not name, for its node would erase it.
    fn is_safe(&self) -> bool {
        let named = self.map.replicas_of(SHARD);
        self.group.voters.iter().flatten().all(|voter| named.iter().any(|row| row.replica == *voter))
    }

    /// All is well from here on, and everybody leads now and then.
    fn settle(&mut self, elected: &[Index]) {
        for chosen in elected {
            self.elect(*chosen);
            for _ in 0..3 {
                self.drive(self.leaders.len() - 1, None, |_| true, 7);
            }
        }
        for report in std::mem::take(&mut self.late) {
            self.change(&report);
        }
    }
}

fn life() -> impl Strategy<Value = (Vec<Event>, Vec<Index>)> {
    (proptest::collection::vec(event(), 1..240), proptest::collection::vec(any::<Index>(), 80))
}

proptest! {
    /// Rules G10 and G14: people ask and change their minds, leaders die in every step, are deposed without knowing
    /// it and go on, hear only some, and report late. No voter is ever one that the map does not name, and in the end
    /// the voters are those of the map.
    #[test]
    fn whatever_happens_the_voters_are_those_of_the_map((events, elected) in life()) {
        let mut world = World::new(GUARDED);
        for event in events {
            world.happen(event.clone());
            prop_assert!(world.is_safe(), "{:?}: {:?} vote", event, world.group);
        }
        world.settle(&elected);
        prop_assert!(world.map.operator_of(SHARD).is_none(), "{:?}", world.map.operators);
        let replicas = world.map.replicas_of(SHARD);
        prop_assert!(replicas.iter().all(|row| row.standing == Standing::Member) && replicas.len() == 3);
        let named: BTreeSet<ReplicaId> = replicas.iter().map(|row| row.replica).collect();
        prop_assert_eq!(&world.group.voters, &vec![named]);
        prop_assert!(world.group.learners.is_empty());
        let nodes: BTreeSet<NodeId> = replicas.iter().map(|row| row.node).collect();
        prop_assert_eq!(nodes.len(), 3, "each on a node of its own");
    }
}

/// Each of the guards is needed: without it the same worlds go wrong.
#[test]
fn without_any_of_its_guards_a_deposed_or_misinformed_leader_does_harm() {
    for guards in [
        Guards { is_map_fresh: false, ..GUARDED },
        Guards { is_leader_confirmed: false, ..GUARDED },
        Guards { is_membership_compared: false, ..GUARDED },
    ] {
        let mut runner = TestRunner::new_with_rng(
            proptest::test_runner::Config {
                cases: 65_536,
                failure_persistence: None,
                max_shrink_iters: 0,
                ..<_>::default()
            },
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let lived = runner.run(&life(), |(events, _)| {
            let mut world = World::new(guards);
            for event in events {
                world.happen(event);
                prop_assert!(world.is_safe());
            }
            Ok(())
        });
        assert!(lived.is_err(), "{guards:?} did no harm in 65,536 lives");
    }
}
