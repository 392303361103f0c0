//! What may happen next in a world.

use super::{
    rules::{Limits, Rules},
    state::{Message, Mode, NODES, Replica, Set, World, Write, has},
};

/// The node that goes when the replicas change, and the one that comes.
const LEAVER: usize = 0;
const NEWCOMER: usize = 3;

/// One step, as a trace shows it.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "what is in it is shown in traces")]
pub enum Step {
    Coordinate {
        node: usize,
        is_tombstone: bool,
    },
    /// The answer may get lost.
    Deliver {
        message: Message,
        is_answered: bool,
    },
    Replay {
        from: usize,
        to: usize,
    },
    HandOver {
        from: usize,
        to: usize,
    },
    Walk {
        from: usize,
        to: usize,
    },
    Crash {
        node: usize,
    },
    /// A crash before its newest write was synced, which may be on its way all the same.
    PowerCut {
        node: usize,
    },
    Wipe {
        node: usize,
    },
    WantFloor,
    Promise {
        node: usize,
    },
    Confirm {
        node: usize,
    },
    Adopt {
        node: usize,
    },
    Collect {
        node: usize,
    },
    ChangeReplicas,
    Enter {
        node: usize,
    },
}

impl World {
    /// Whether a write is newer than another one.
    pub fn is_newer(&self, one: usize, other: usize, rules: &Rules) -> bool {
        let version = |write: usize| {
            let write = self.writes[write];
            let actor = if rules.ties_are_broken { (write.node, write.start) } else { (0, 0) };
            (write.stamp, actor)
        };
        version(one) > version(other)
    }

    /// Whatever may happen, and what it leads to.
    pub fn next(&self, rules: &Rules, limits: &Limits) -> Vec<(Step, World)> {
        let mut next = Vec::new();
        for node in 0..NODES {
            self.steps_of(node, rules, limits, &mut next);
        }
        for message in &self.messages {
            for is_answered in [false, true] {
                let is_lost = !is_answered && matches!(message, Message::Store { .. } | Message::Replay { .. });
                if is_lost && self.losses == limits.losses {
                    continue;
                }
                if let Some(mut world) = self.deliver(*message, is_answered, rules) {
                    world.losses += u8::from(is_lost);
                    next.push((Step::Deliver { message: *message, is_answered }, world));
                }
            }
        }
        if limits.has_floor && self.floor_wanted == 0 {
            let newest = self.writes.iter().map(|write| write.stamp).max();
            next.extend(newest.map(|stamp| (Step::WantFloor, World { floor_wanted: stamp, ..self.clone() })));
        }
        if limits.has_move && self.may_change() {
            let mut world = World { epoch: self.epoch + 1, ..self.clone() };
            if world.epoch == 1 {
                world.replicas[NEWCOMER].mode = Mode::Rebuilding(0);
                world.replicas[NEWCOMER].epoch = 1;
            }
            next.push((Step::ChangeReplicas, world));
        }
        next
    }

    fn steps_of(&self, node: usize, rules: &Rules, limits: &Limits, next: &mut Vec<(Step, World)>) {
        let replica = &self.replicas[node];
        if replica.mode == Mode::Absent {
            return;
        }
        if replica.epoch < self.epoch {
            next.push((Step::Enter { node }, self.enter(node)));
        }
        if replica.mode != Mode::Whole {
            return;
        }
        if self.writes.len() < limits.writes && !(node == LEAVER && replica.epoch > 0) {
            let write = self.writes.len();
            let is_wanted = |kind: &bool| limits.script.is_none_or(|script| script[write] == (node, *kind));
            for is_tombstone in [false, true].into_iter().filter(is_wanted) {
                next.push((Step::Coordinate { node, is_tombstone }, self.coordinate(node, is_tombstone)));
            }
        }
        if self.crashes < limits.crashes {
            next.push((Step::Crash { node }, self.crash(node, rules)));
        }
        if self.power_cuts < limits.power_cuts {
            next.extend(self.power_cut(node, rules).map(|world| (Step::PowerCut { node }, world)));
        }
        if self.wipes < limits.wipes && has(limits.wipeable, node) {
            next.push((Step::Wipe { node }, self.wipe(node)));
        }
        let is_other = |to: &usize| *to != node && self.replicas[*to].mode != Mode::Absent;
        for to in World::members(replica.epoch).filter(is_other) {
            self.sends(node, to, rules, limits, next);
        }
        let told = if rules.members_walk { replica.epoch } else { self.epoch };
        for to in World::members(told).filter(is_other).filter(|_| self.walks < limits.walks) {
            next.push((Step::Walk { from: node, to }, self.walk(node, to)));
        }
        self.floor_steps(node, rules, next);
    }

    fn sends(&self, from: usize, to: usize, rules: &Rules, limits: &Limits, next: &mut Vec<(Step, World)>) {
        let sender = &self.replicas[from];
        let owed = sender.owed[to];
        if let (Some(held), 1.., true) = (sender.held, owed, self.replays < limits.replays) {
            let mut world = World { replays: self.replays + 1, ..self.clone() };
            let (from_start, to_start) = (sender.start, self.replicas[to].start);
            world.send(Message::Replay { from, from_start, to, to_start, held, owed });
            next.push((Step::Replay { from, to }, world));
        }
        if (owed == 0 || sender.held.is_none()) && self.hand_overs < limits.hand_overs {
            let first = if rules.hands_over_recorded { sender.recorded_from } else { 0 };
            let own = self.writes.iter().enumerate().filter(|(_, write)| write.node == from && write.start >= first);
            let own = own.fold(0, |dots, (dot, _)| dots | 1 << dot);
            let dots = if rules.hands_over_own { sender.covered & own } else { sender.covered };
            let mut world = World { hand_overs: self.hand_overs + 1, ..self.clone() };
            world.send(Message::HandOver { to, to_start: self.replicas[to].start, dots });
            next.push((Step::HandOver { from, to }, world));
        }
    }

    fn walk(&self, from: usize, to: usize) -> World {
        let mut world = World { walks: self.walks + 1, ..self.clone() };
        let (sender, to_start) = (&self.replicas[from], self.replicas[to].start);
        let (held, dots, floor, promised) = (sender.held, sender.covered, sender.floor, sender.promised);
        world.send(Message::Walk { from, to, to_start, held, dots, floor, promised });
        world
    }

    fn send(&mut self, message: Message) {
        if let Err(place) = self.messages.binary_search(&message) {
            self.messages.insert(place, message);
        }
    }

    fn coordinate(&self, node: usize, is_tombstone: bool) -> World {
        let mut world = self.clone();
        let dot = world.writes.len();
        let before = (self.replicas[node].held, self.replicas[node].covered);
        let held_stamp = before.0.map_or(0, |held| self.writes[held].stamp);
        let replica = &mut world.replicas[node];
        let stamp = replica.clock.max(replica.promised).max(replica.floor).max(held_stamp) + 1;
        replica.clock = stamp;
        replica.held = Some(dot);
        replica.covered |= 1 << dot;
        replica.own_writes += 1;
        let (start, epoch, own_writes) = (replica.start, replica.epoch, replica.own_writes);
        let others: Vec<usize> = World::members(epoch).filter(|to| *to != node).collect();
        for to in &others {
            replica.owed[*to] = own_writes;
        }
        let (stored_by, is_acknowledged) = (1 << node, false);
        let write = Write { stamp, node, start, is_tombstone, before, epoch, stored_by, is_acknowledged };
        world.writes.push(write);
        for to in others {
            world.send(Message::Store { write: dot, to, to_start: self.replicas[to].start });
        }
        world
    }

    fn crash(&self, node: usize, rules: &Rules) -> World {
        let mut world = World { crashes: self.crashes + 1, ..self.clone() };
        world.replicas[node].start += 1;
        if !rules.owed_survives_crashes {
            world.replicas[node].owed = [0; NODES];
        }
        world
    }

    /// Nobody was told that it is durable, so it may be gone. The dot is not given again: the next life is another
    /// actor.
    fn power_cut(&self, node: usize, rules: &Rules) -> Option<World> {
        let held = self.replicas[node].held?;
        let write = self.writes[held];
        let is_newest = (write.node, write.start) == (node, self.replicas[node].start);
        // The journal loses its end, so nothing that came after it is there either.
        let is_last = self.replicas[node].covered == write.before.1 | 1 << held;
        if !is_newest || !is_last || write.stored_by != 1 << node {
            return None;
        }
        let mut world = World { power_cuts: self.power_cuts + 1, ..self.crash(node, rules) };
        world.crashes = self.crashes;
        (world.replicas[node].held, world.replicas[node].covered) = write.before;
        world.writes[held].stored_by = 0;
        Some(world)
    }

    /// Everything is gone but who it is. A round of the floor in which it took part begins anew.
    fn wipe(&self, node: usize) -> World {
        let mut world = World { wipes: self.wipes + 1, ..self.clone() };
        let replica = &mut world.replicas[node];
        let (start, epoch) = (replica.start + 1, replica.epoch);
        *replica =
            Replica { start, epoch, recorded_from: start, mode: Mode::Rebuilding(0), ..World::new().replicas[0] };
        if !world.is_round_over {
            world.replicas.iter_mut().for_each(|replica| replica.has_confirmed = false);
        }
        world
    }

    fn floor_steps(&self, node: usize, rules: &Rules, next: &mut Vec<(Step, World)>) {
        let (replica, wanted) = (&self.replicas[node], self.floor_wanted);
        let members = || World::members(self.epoch);
        if wanted > 0 && !replica.has_named && !self.is_round_over {
            let mut world = self.clone();
            let named = self.writes.iter().enumerate().filter(|(dot, write)| {
                let is_own = write.node == node && write.start == replica.start;
                let has_ended = write.start != self.replicas[write.node].start;
                let is_named = is_own || (rules.names_ended && has_ended);
                has(replica.covered, *dot) && write.stamp <= wanted && is_named
            });
            world.replicas[node].named = named.fold(0, |dots, (dot, _)| dots | 1 << dot);
            world.replicas[node].promised = wanted;
            world.replicas[node].has_named = true;
            next.push((Step::Promise { node }, world));
        }
        let have_promised = members().all(|member| self.replicas[member].has_named);
        let named: Set = members().fold(0, |named, member| named | self.replicas[member].named);
        if wanted > 0 && have_promised && !replica.has_confirmed && named & !replica.covered == 0 {
            let mut world = self.clone();
            world.replicas[node].has_confirmed = true;
            let confirmed = members().filter(|member| world.replicas[*member].has_confirmed).count();
            world.is_round_over |= confirmed == if rules.all_confirm { members().count() } else { 2 };
            next.push((Step::Confirm { node }, world));
        }
        let may_adopt = replica.has_confirmed || !rules.all_confirm;
        if self.is_round_over && may_adopt && replica.floor < wanted {
            let mut world = self.clone();
            world.replicas[node].floor = wanted;
            next.push((Step::Adopt { node }, world));
        }
        let is_collectable = |held: usize| self.writes[held].is_tombstone && self.writes[held].stamp <= replica.floor;
        if let Some(held) = replica.held.filter(|held| is_collectable(*held)) {
            let mut world = self.clone();
            world.replicas[node].held = None;
            let is_first = self.collected.is_none_or(|former| self.is_newer(held, former, &Rules::ALL));
            world.collected = if is_first { Some(held) } else { self.collected };
            next.push((Step::Collect { node }, world));
        }
    }

    /// Has a replica take an entry, if it is newer than what is there.
    pub fn merge(&mut self, node: usize, entry: usize, rules: &Rules) {
        let replica = self.replicas[node];
        let is_taken = match replica.held {
            Some(held) => self.is_newer(entry, held, rules),
            None if replica.mode == Mode::Whole && rules.absent_is_older => self.writes[entry].stamp > replica.floor,
            None => true,
        };
        let replica = &mut self.replicas[node];
        replica.covered |= 1 << entry;
        if is_taken {
            replica.held = Some(entry);
        }
    }

    fn deliver(&self, message: Message, is_answered: bool, rules: &Rules) -> Option<World> {
        let mut world = self.clone();
        match message {
            Message::Store { write, to, to_start } => {
                if self.replicas[to].start != to_start && rules.stores_are_for_a_life {
                    return None;
                }
                self.store(write, to, is_answered, rules, &mut world)?;
            }
            Message::Replay { from, from_start, to, to_start, held, owed } => {
                let is_meant = self.replicas[to].start == to_start || !rules.stores_are_for_a_life;
                if self.replicas[to].mode == Mode::Absent || !is_meant {
                    return None;
                }
                world.merge(to, held, rules);
                if !rules.replay_merges {
                    world.replicas[to].held = Some(held);
                }
                let is_heard = world.replicas[from].start == from_start || !rules.answers_are_for_a_life;
                let debt = &mut world.replicas[from].owed[to];
                if is_answered && is_heard && (*debt == owed || !rules.owed_is_compared) {
                    *debt = 0;
                }
            }
            Message::HandOver { to, to_start, dots } => {
                let replica = &mut world.replicas[to];
                let is_meant = replica.start == to_start || !rules.is_life_compared;
                if is_answered || replica.mode != Mode::Whole || !is_meant {
                    return None;
                }
                replica.covered |= dots;
            }
            Message::Walk { from, to, to_start, held, dots, floor, promised } => {
                let replica = self.replicas[to];
                let is_meant = replica.start == to_start || !rules.is_life_compared;
                if is_answered || !is_meant || replica.mode == Mode::Absent {
                    return None;
                }
                if let Some(held) = held {
                    world.merge(to, held, rules);
                }
                world.replicas[to].covered |= dots;
                if let Mode::Rebuilding(exchanged) = replica.mode {
                    world.rebuild(to, exchanged | 1 << from, (floor, promised), rules);
                }
            }
        }
        (world != *self).then_some(world)
    }

    fn store(&self, write: usize, to: usize, is_answered: bool, rules: &Rules, world: &mut World) -> Option<()> {
        let (stored, receiver) = (self.writes[write], self.replicas[to]);
        let bar = if rules.promise_holds_for_others { receiver.promised } else { 0 };
        let is_late = receiver.mode == Mode::Whole && stored.stamp <= bar.max(receiver.floor);
        if receiver.mode == Mode::Absent || is_late {
            return None;
        }
        world.merge(to, write, rules);
        let coordinator = &mut world.replicas[stored.node];
        if !is_answered || coordinator.start != stored.start {
            return Some(());
        }
        let is_last = |former: &Write| former.node == stored.node;
        let nth = self.writes[..=write].iter().filter(|former| is_last(former)).count() as u8;
        if coordinator.owed[to] == nth || !rules.owed_is_compared {
            coordinator.owed[to] = 0;
        }
        // One that is new stores for the replicas to be, also before it is whole.
        let is_new = to == NEWCOMER && stored.epoch == 1;
        let counts = receiver.mode == Mode::Whole || is_new || !rules.rebuilding_counts_not;
        if counts && (receiver.epoch == stored.epoch || !rules.epochs_are_compared) {
            let written = &mut world.writes[write];
            written.stored_by |= 1 << to;
            written.is_acknowledged |= World::is_quorum(written.stored_by, written.epoch);
        }
        Some(())
    }

    /// One more exchange of a replica that has nothing; with all of them it counts again.
    fn rebuild(&mut self, node: usize, exchanged: Set, (floor, promised): (u8, u8), rules: &Rules) {
        let is_left_out = |other: usize| other == LEAVER && node == NEWCOMER && !rules.newcomer_covers_leaver;
        let epoch = self.replicas[node].epoch;
        let mut others = World::members(epoch)
            .filter(|other| *other != node && self.replicas[*other].mode != Mode::Absent && !is_left_out(*other));
        let is_whole = match rules.rebuilt_from_all {
            true => others.all(|other| has(exchanged, other)),
            false => true,
        };
        let replica = &mut self.replicas[node];
        replica.floor = replica.floor.max(floor);
        replica.promised = replica.promised.max(promised);
        replica.has_named |= promised > 0 && !rules.rebuilt_name_anew;
        replica.mode = if is_whole { Mode::Whole } else { Mode::Rebuilding(exchanged) };
    }

    fn may_change(&self) -> bool {
        match self.epoch {
            0 => true,
            1 => self.replicas[NEWCOMER].mode == Mode::Whole,
            _ => false,
        }
    }

    fn enter(&self, node: usize) -> World {
        let mut world = self.clone();
        let replica = &mut world.replicas[node];
        replica.epoch += 1;
        if node == LEAVER && replica.epoch == 2 {
            replica.mode = Mode::Absent;
        }
        world
    }
}
