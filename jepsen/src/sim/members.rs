//! # Members: machines that come, get lost and are replaced
//!
//! ```text
//!   a new machine ──asks until it is let in──▶ a node with a fresh id
//!   a machine that lost what it had ──starts as who it was──▶ refused ──▶ its id is forgotten, it comes as a new one
//!   a machine that is gone for good ──▶ forgotten ──returns after all──▶ refused
//! ```
//!
//! **Invariant.** Who lost what it had serves nobody as who it was. As many machines are there at the end as were
//! drawn.
//!
//! **Deliberately absent.** What must be true of replicas and operators in the end: that is `rest`.

use super::{
    audit::Audit,
    chance::Chance,
    faults::{Fault, between},
    machine::{Image, Machine, node_row},
    moving::Loss,
    network::Network,
    steward::{Ledger, Outcome},
    world::World,
};
use kvorum_api::{NodeId, ShardId};
use kvorum_consensus::{
    cp::Members as Voters,
    metadata::{ClusterMap, Founding, KeyspaceRow, MetadataCommand, NodeRow, NodeState, ShardRow, ShardStage},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Who comes, who is lost, and what people still wait for.
pub(super) struct Members {
    chance: Chance,
    /// Who may be asked.
    pub(super) there: Arc<Mutex<Vec<NodeId>>>,
    errands: Arc<Mutex<Errands>>,
    directories: u128,
    /// Who lost what it had, and was not refused yet.
    lost: BTreeMap<NodeId, Loss>,
    /// Machines that nobody starts.
    pub(super) away: BTreeSet<NodeId>,
    images: BTreeMap<NodeId, Image>,
    /// What happens as soon as a change has come that far.
    lurking: Option<(Stage, Fault)>,
    /// What is told about keyspaces.
    pub(super) ledger: Arc<Mutex<Ledger>>,
}

/// How far the change of a shard's members has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// It is asked for.
    Anywhere,
    /// Somebody gets the log, without a vote.
    Learner,
    /// The voters change.
    Joint,
}

impl Stage {
    fn drawn(draw: u64) -> Self {
        [Stage::Anywhere, Stage::Learner, Stage::Learner, Stage::Joint][(draw / 8 % 4) as usize]
    }
}

/// What people wait for.
#[derive(Default)]
struct Errands {
    /// What was answered last, by errand.
    open: BTreeMap<String, String>,
    /// Nodes that were let in, and the map they begin with.
    arrived: Vec<(NodeId, Arc<ClusterMap>)>,
    /// Nodes that were forgotten.
    forgotten: Vec<NodeId>,
}

/// Somebody who asks until it is done.
struct Errand {
    name: String,
    chance: Chance,
    network: Arc<Network>,
    audit: Audit,
    there: Arc<Mutex<Vec<NodeId>>>,
    errands: Arc<Mutex<Errands>>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Members {
    /// The founders.
    pub(super) fn new(seed: u64, founders: Vec<NodeId>) -> Self {
        Members {
            chance: Chance::new(seed, "errands"),
            there: Arc::new(Mutex::new(founders)),
            errands: Arc::default(),
            directories: 0,
            lost: BTreeMap::new(),
            away: BTreeSet::new(),
            images: BTreeMap::new(),
            lurking: None,
            ledger: Arc::default(),
        }
    }

    /// Whether a machine lost what it had, and nobody has refused it yet.
    pub(super) fn is_doubtful(&self, id: NodeId) -> bool {
        self.lost.contains_key(&id)
    }

    /// What is still waited for: errands with their last answers, machines that should have been refused.
    pub(super) fn waits_for(&self) -> Vec<String> {
        let errands = self.errands.lock();
        let open = errands.open.iter().map(|(name, answer)| format!("{name}: {answer}"));
        let lost = self.lost.iter().map(|(node, loss)| format!("node {node} ({loss:?}) was not refused"));
        let arrived = errands.arrived.iter().map(|(node, _)| format!("node {node} was let in and does not run"));
        open.chain(lost).chain(arrived).collect()
    }
}

impl World {
    /// The faults that are about members.
    pub(super) fn befall_members(&mut self, fault: Fault) {
        match fault {
            Fault::Join => self.order_machine(),
            Fault::KeepImage(node) => {
                let image = self.machine(node).image();
                self.members.images.insert(node, image);
            }
            Fault::Lose(node, loss) => self.lose(node, loss),
            Fault::CrashMover(draw) | Fault::CrashNewcomer(draw) | Fault::CutMover(_, draw) => {
                self.members.lurking = Some((Stage::drawn(draw), fault));
                self.strike();
            }
            other => unreachable!("{other} is not about members"),
        }
    }

    /// What lurks happens as soon as something is being changed and has come as far as it waits for.
    fn strike(&mut self) {
        let Some((stage, fault)) = self.members.lurking.clone() else { return };
        let Some(map) = self.observer.newest_map() else { return };
        let open = map.operators.values().filter(|row| row.is_open());
        let Some((operator, leader)) =
            open.filter_map(|row| Some((row.clone(), self.leader_at(row.shard, stage)?))).next()
        else {
            return;
        };
        self.members.lurking = None;
        let newcomer = operator.task.added().map(|(_, node)| node);
        self.audit.event(format_args!("operator {} is at {stage:?}: {fault}", operator.id));
        match fault {
            Fault::CutMover(cut, draw) => {
                let side: Vec<NodeId> = [leader].into_iter().chain(newcomer.filter(|_| draw % 4 != 0)).collect();
                let links = between(&side, &self.members.there.lock());
                self.network.cut(cut, links);
            }
            Fault::CrashNewcomer(_) => {
                let node = newcomer.or(operator.task.removed().map(|(_, node)| node));
                if let Some(node) = node.filter(|node| self.machines.contains_key(node)) {
                    self.end_in_a_crash(node);
                }
            }
            _ => self.end_in_a_crash(leader),
        }
    }

    /// Nothing lurks any more: it had its time.
    pub(super) fn calm_down(&mut self) {
        self.members.lurking = None;
    }

    /// Who leads a shard, if the change of its members has come that far.
    fn leader_at(&self, shard: ShardId, stage: Stage) -> Option<NodeId> {
        let leader = self.leader_of(shard)?;
        let state = self.machines.get(&leader)?.running.as_ref()?.node.replica(shard)?.shard().state();
        let is_there = match (stage, Voters::applied(&state)?) {
            (Stage::Anywhere, _) => true,
            (Stage::Learner, members) => !members.learners.is_empty(),
            (Stage::Joint, members) => members.voters.len() > 1,
        };
        is_there.then_some(leader)
    }

    /// Somebody starts a new machine, which asks to be let in.
    fn order_machine(&mut self) {
        self.members.directories += 1;
        let directory = self.members.directories;
        let errand = self.errand(format!("machine {directory} asks to be let in"));
        self.graveyard.spawn(errand.join(directory));
    }

    fn lose(&mut self, node: NodeId, loss: Loss) {
        let is_founded = |map: &Arc<ClusterMap>| {
            let mut first = self.drawn.keyspaces.iter().filter_map(|(name, _)| map.keyspace(name));
            first.all(|row| map.shards_of(row.id).iter().all(|shard| shard.stage == ShardStage::Ready))
        };
        // What is written to from the beginning is not dropped, and without one of its founders it never begins.
        if !self.observer.newest_map().is_some_and(is_founded) {
            return self.audit.event(format_args!("not all is founded yet: node {node} is spared"));
        }
        self.crash(node);
        self.observer.forget_machine(node);
        self.members.lost.insert(node, loss);
        match loss {
            Loss::Wiped => self.machine(node).empty(),
            Loss::Restored => {
                if let Some(image) = self.members.images.remove(&node) {
                    self.machine(node).restore(image);
                }
            }
            Loss::Left => {
                self.members.away.insert(node);
                self.order_machine();
                return self.forget(node);
            }
        }
        self.start(node);
    }

    fn forget(&mut self, node: NodeId) {
        let errand = self.errand(format!("node {node} is to be forgotten"));
        self.graveyard.spawn(errand.forget(node));
    }

    fn errand(&mut self, name: String) -> Errand {
        let members = &mut self.members;
        members.errands.lock().open.insert(name.clone(), "nobody was asked yet".to_owned());
        Errand {
            name,
            chance: Chance::new(members.chance.any(), "errand"),
            network: Arc::clone(&self.network),
            audit: self.audit.clone(),
            there: Arc::clone(&members.there),
            errands: Arc::clone(&members.errands),
            ledger: Arc::clone(&members.ledger),
        }
    }

    /// Takes in who was let in, takes away who was refused, and lets who was forgotten return.
    pub(super) fn tend_members(&mut self) {
        let (arrived, forgotten) = {
            let mut errands = self.members.errands.lock();
            (std::mem::take(&mut errands.arrived), std::mem::take(&mut errands.forgotten))
        };
        for (id, map) in arrived {
            let row = NodeRow { directory: 0, ..node_row(id) };
            let founding = Founding { nodes: vec![row], keyspaces: Vec::new() };
            let machine = Machine::joined(self.born, self.drawn.journal.clone(), founding, map);
            self.machines.insert(id, machine);
            self.members.there.lock().push(id);
            self.start(id);
        }
        self.strike();
        for id in forgotten {
            if self.members.away.remove(&id) {
                self.start(id);
            }
        }
        let refused = self.members.lost.iter().filter_map(|(id, loss)| {
            let why = self.machines.get(id)?.running.as_ref()?.node.status().refused?;
            Some((*id, *loss, why))
        });
        for (id, loss, why) in refused.collect::<Vec<_>>() {
            self.audit.event(format_args!("node {id} ends, for it is refused: {why}"));
            self.end_in_a_crash(id);
            self.machines.remove(&id);
            self.members.there.lock().retain(|there| *there != id);
            self.members.lost.remove(&id);
            if loss != Loss::Left {
                self.order_machine();
                self.forget(id);
            }
        }
    }

    /// Takes back who is drained, if the others are too few, or on a whim: in the end all can be done that was asked
    /// for.
    pub(super) async fn take_back(&mut self) {
        let deadline = Instant::now() + 10 * PATIENCE;
        let is_whim = self.members.chance.hits(500);
        while Instant::now() < deadline {
            self.look();
            let Some(map) = self.observer.newest_map().cloned() else { return };
            let drained = |row: &&NodeRow| row.state == NodeState::Draining;
            let active = map.nodes.values().filter(|row| row.state == NodeState::Active).count();
            let most = map.keyspaces.values().map(|row| row.replicas as usize).max().unwrap_or(0);
            let Some(node) = map.nodes.values().find(drained).map(|row| row.node) else { return };
            if active >= most.max(3) && !is_whim {
                return;
            }
            let anybody = *self.members.chance.pick(&self.members.there.lock().clone());
            let command = MetadataCommand::SetNodeState { node, state: NodeState::Active };
            if let Some((asked, _)) = self.network.node(anybody) {
                let told = asked.metadata(command, PATIENCE).await;
                self.audit.event(format_args!("node {node} is taken back: {told:?}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Errand {
    /// One question to anybody that answers, and a pause.
    async fn ask(&mut self, command: MetadataCommand) -> Option<(Arc<kvorum_consensus::Node>, NodeId)> {
        sleep(self.chance.millis(100..800)).await;
        let there = self.there.lock().clone();
        let (node, life) = self.network.node(*self.chance.pick(&there))?;
        let told = tokio::select! {
            biased;
            () = life.ended() => return None,
            told = timeout(2 * PATIENCE, node.metadata(command, PATIENCE)) => told.ok()?,
        };
        self.audit.event(format_args!("{}: {told:?}", self.name));
        match told {
            Ok(reply) => Some((node, reply.node.unwrap_or_default())),
            Err(error) => {
                self.errands.lock().open.insert(self.name.clone(), error.to_string());
                None
            }
        }
    }

    /// Asks until this directory is let in, now and then twice: the answer may have been lost.
    async fn join(mut self, directory: u128) {
        let mut again = self.chance.within(1..3);
        loop {
            let place = |port: u32| format!("machine-{directory}:{port}");
            let (client, peer, zone) = (place(1), place(2), String::new());
            let join = MetadataCommand::Join { directory, client, peer, zone };
            let Some((node, id)) = self.ask(join).await else { continue };
            let map = node.map();
            // Its door hands out the map that has the newcomer in it.
            let Some(row) = map.nodes.get(&id) else { continue };
            assert_eq!(row.directory, directory, "node {id} is somebody else");
            again -= 1;
            if again == 0 {
                let mut errands = self.errands.lock();
                errands.open.remove(&self.name);
                return errands.arrived.push((id, map));
            }
        }
    }

    /// A shard that is founded only once all its founders have answered never will be without one of them: its keyspace
    /// is dropped, by name, as its owner would.
    async fn drop_unfounded(&mut self, id: NodeId) {
        let there = self.there.lock().clone();
        let Some((node, _)) = self.network.node(*self.chance.pick(&there)) else { return };
        let map = node.map();
        let is_stuck = |row: &&ShardRow| {
            row.stage == ShardStage::Creating && row.founders.iter().any(|(_, founder)| *founder == id)
        };
        let stuck = map.shards.values().find(is_stuck).and_then(|row| map.keyspaces.get(&row.keyspace));
        let Some(KeyspaceRow { id, name, .. }) = stuck else { return };
        {
            let mut ledger = self.ledger.lock();
            if !ledger.created.contains_key(name) {
                return;
            }
            ledger.leaving.insert(*id);
            ledger.dropped.entry(name.clone()).or_insert(Outcome::Unknown);
        }
        self.ask(MetadataCommand::DropKeyspace { name: name.clone() }).await;
    }

    /// Asks until a node is none of the cluster any more.
    async fn forget(mut self, id: NodeId) {
        loop {
            let there = self.there.lock().clone();
            let anybody = self.network.node(*self.chance.pick(&there));
            if anybody.is_some_and(|(node, _)| node.map().has_forgotten(id)) {
                let mut errands = self.errands.lock();
                errands.open.remove(&self.name);
                return errands.forgotten.push(id);
            }
            self.ask(MetadataCommand::SetNodeState { node: id, state: NodeState::Forgetting }).await;
            self.drop_unfounded(id).await;
        }
    }
}
