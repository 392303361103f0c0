//! Commands waiting to be proposed: bounded in bytes, withdrawn by whoever stops waiting.
//!
//! **Invariant.** Commands are taken in the order in which they came. What a caller hands over in one call is queued as
//! one run, and once one command of it is refused, so are those behind it.

use super::ticket::{Seat, Ticket, ticket};
use crate::gather::Gather;
use bytes::Bytes;
use kvorum_api::{LogPosition, Refused, WriteError};
use kvorum_storage::{Outcome, codec::encoded_command_bytes, command::Command};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::sync::Notify;

/// Bytes a command costs in memory besides what it takes in the log.
const COMMAND_BYTES: usize = 64;

/// A command that was decided.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub(crate) outcome: Outcome,
    pub(crate) position: LogPosition,
}

/// How a command ends.
pub(crate) type Verdict = Result<Decided, WriteError>;

/// A command in the queue.
pub(crate) struct Pending {
    pub(crate) command: Command,
    pub(crate) seat: Seat,
    /// On whose behalf; empty = nobody's.
    pub(crate) trace: Bytes,
    weight: usize,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Pending>,
    bytes: usize,
    is_closed: bool,
}

impl Waiting {
    fn has_room(&mut self, weight: usize, bytes_max: usize) -> bool {
        if self.bytes + weight > bytes_max {
            // Whoever gave up must not keep others out.
            self.commands.retain(|pending| pending.seat.is_queued());
            self.bytes = self.commands.iter().map(|pending| pending.weight).sum();
        }
        // One command larger than the whole queue still fits into an empty one.
        self.bytes + weight <= bytes_max || self.commands.is_empty()
    }
}

/// Commands waiting to be proposed.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    is_nudged: AtomicBool,
    bytes_max: usize,
    /// Proposals that the owner works on.
    in_work: AtomicUsize,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Queue {
            waiting: Mutex::default(),
            arrived: Notify::new(),
            is_nudged: AtomicBool::new(false),
            bytes_max,
            in_work: AtomicUsize::new(0),
        }
    }

    /// Queues commands on behalf of `trace`, under one lock and behind one reply handle. Those that do not fit are
    /// refused through the handle.
    pub(crate) fn submit(&self, commands: Vec<Command>, trace: &Bytes) -> Ticket {
        let (ticket, seats) = ticket(commands.len());
        let weighed = commands.into_iter().map(|command| (COMMAND_BYTES + encoded_command_bytes(&command), command));
        let weighed: Vec<_> = weighed.collect();
        let mut is_full = false;
        let mut waiting = self.waiting.lock();
        for ((weight, command), seat) in weighed.into_iter().zip(seats) {
            if waiting.is_closed {
                // Nobody tells, so nothing is waited for.
                continue;
            }
            is_full = is_full || !waiting.has_room(weight, self.bytes_max);
            if is_full {
                seat.tell(Err(Refused::Overloaded { limit: "queue_bytes_max", max: self.bytes_max as u64 }.into()));
                continue;
            }
            waiting.bytes += weight;
            waiting.commands.push_back(Pending { command, seat, trace: trace.clone(), weight });
        }
        drop(waiting);
        self.arrived.notify_one();
        ticket
    }

    /// The owner has ended: nobody waits for it any more, and what it has not taken never happens.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        (waiting.commands, waiting.bytes) = (VecDeque::new(), 0);
    }

    /// Has the owner look at its duties although nothing is queued.
    pub(crate) fn nudge(&self) {
        self.is_nudged.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// Says how many proposals the owner works on. Said before it takes commands, so that none is ever nowhere.
    pub(crate) fn set_in_work(&self, proposals: usize) {
        self.in_work.store(proposals, Ordering::SeqCst);
    }

    /// Whether nothing waits and nothing is worked on.
    pub(crate) fn is_idle(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.commands.is_empty() && self.in_work.load(Ordering::SeqCst) == 0
    }

    /// Waits until so many commands wait, or the owner is nudged.
    pub(crate) async fn wait(&self, commands_min: usize) {
        while self.waiting.lock().commands.len() < commands_min && !self.is_nudged.swap(false, Ordering::AcqRel) {
            self.arrived.notified().await;
        }
    }

    /// Lets everything that is ready to run do so first: callers that were answered together come back together, and
    /// share an entry.
    pub(crate) async fn gather(&self, gather: &mut Gather) {
        while gather.waits(self.waiting.lock().commands.len()) {
            tokio::task::yield_now().await;
        }
    }

    /// Takes what fits into one proposal: at least one command, if there is one.
    pub(crate) fn take(&self, bytes_max: usize, commands_max: usize) -> Vec<Pending> {
        let mut waiting = self.waiting.lock();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = waiting.commands.front() {
            if taken.len() >= commands_max.max(1) || (!taken.is_empty() && bytes + next.weight > bytes_max) {
                break;
            }
            let pending = waiting.commands.pop_front().expect("the front was just seen");
            waiting.bytes -= pending.weight;
            if pending.seat.take() {
                bytes += pending.weight;
                taken.push(pending);
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::ticket::Fate;
    use kvorum_storage::{Operation, WriteCommand, command::Condition};

    fn put(bytes: usize) -> Command {
        Command::Write(WriteCommand {
            request: None,
            operations: vec![Operation::Put {
                key: "k".into(),
                value: vec![0; bytes].into(),
                ttl_ms: None,
                condition: Condition::Always,
                return_previous: false,
            }],
        })
    }

    fn put_one(queue: &Queue, bytes: usize) -> Ticket {
        queue.submit(vec![put(bytes)], &Bytes::new())
    }

    #[test]
    fn a_command_is_taken_or_withdrawn() {
        let queue = Queue::new(1 << 20);
        let (first, second) = (put_one(&queue, 1), put_one(&queue, 1));
        assert!(matches!(first.close()[..], [Fate::Withdrawn]));
        let taken = queue.take(usize::MAX, 10);
        assert_eq!(taken.len(), 1);
        assert!(matches!(second.close()[..], [Fate::Unknown]), "too late");
    }

    #[test]
    fn a_proposal_is_bounded_and_takes_one_larger_command() {
        let queue = Queue::new(1 << 20);
        let _ticket = queue.submit([5_000, 10, 10, 10].map(put).into(), &Bytes::new());
        assert_eq!(queue.take(1_000, 10).len(), 1, "one larger command travels alone");
        assert_eq!(queue.take(1_000, 2).len(), 2);
        assert_eq!(queue.take(1_000, 2).len(), 1);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_and_forgets_whoever_gave_up() {
        let queue = Queue::new(1_000);
        let first = put_one(&queue, 600);
        let refused = || WriteError::from(Refused::Overloaded { limit: "queue_bytes_max", max: 1_000 });
        let fates = put_one(&queue, 600).close();
        assert!(matches!(&fates[..], [Fate::Told(Err(error))] if *error == refused()), "{fates:?}");
        drop(first);
        let fates = queue.submit([600, 600, 1].map(put).into(), &Bytes::new()).close();
        let [Fate::Withdrawn, Fate::Told(Err(second)), Fate::Told(Err(third))] = &fates[..] else {
            panic!("{fates:?}")
        };
        assert_eq!((second, third), (&refused(), &refused()), "none overtakes one that was refused");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_an_owner_that_has_ended() {
        let queue = Queue::new(1_000);
        let (taken, before) = (put_one(&queue, 1), put_one(&queue, 1));
        let in_work = queue.take(usize::MAX, 1);
        queue.close();
        let after = put_one(&queue, 1);
        let told = async { tokio::join!(before.wait(), after.wait()) };
        assert!(tokio::time::timeout(std::time::Duration::from_secs(1), told).await.is_ok());
        drop(in_work);
        let fates = [taken, before, after].map(|ticket| ticket.close().pop());
        assert!(matches!(fates, [Some(Fate::Unknown), Some(Fate::Withdrawn), Some(Fate::Withdrawn)]), "{fates:?}");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn the_owner_can_wait_for_several() {
        let queue = Queue::new(1_000);
        let _first = put_one(&queue, 1);
        let patience = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(patience, queue.wait(2)).await.is_err());
        let _second = put_one(&queue, 1);
        assert!(tokio::time::timeout(patience, queue.wait(2)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_wakes_the_owner_once() {
        let queue = Queue::new(1_000);
        queue.nudge();
        queue.wait(1).await;
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), queue.wait(1)).await;
        assert!(again.is_err());
    }
}
