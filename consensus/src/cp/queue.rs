//! Commands waiting to be proposed: bounded in bytes, withdrawn by whoever stops waiting.
//!
//! ```text
//!   queued ──taken──▶ proposed        an error from here on: Effect::Unknown
//!      └────withdrawn                 it never happened: Effect::None
//! ```
//!
//! **Invariant.** A command is taken or withdrawn, never both.

use bytes::Bytes;
use kvorum_api::{LogPosition, Refused, WriteError};
use kvorum_storage::{Outcome, codec::encoded_command_bytes, command::Command};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};
use tokio::sync::{Notify, oneshot};

const QUEUED: u8 = 0;
const PROPOSED: u8 = 1;
const WITHDRAWN: u8 = 2;

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
    pub(crate) answer: oneshot::Sender<Verdict>,
    /// On whose behalf; empty = nobody's.
    pub(crate) trace: Bytes,
    weight: usize,
    state: Arc<AtomicU8>,
}

/// The place of one command in the queue. Dropping it withdraws the command if it was not taken yet.
pub(crate) struct Ticket {
    pub(crate) answer: oneshot::Receiver<Verdict>,
    state: Arc<AtomicU8>,
}

impl Ticket {
    /// Takes the command back; `false` = too late, it has been proposed.
    pub(crate) fn withdraw(&self) -> bool {
        let withdrawn = self.state.compare_exchange(QUEUED, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire);
        withdrawn.is_ok() || withdrawn == Err(WITHDRAWN)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Pending>,
    bytes: usize,
}

/// Commands waiting to be proposed.
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    is_nudged: AtomicBool,
    bytes_max: usize,
}

impl Queue {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Queue { waiting: Mutex::default(), arrived: Notify::new(), is_nudged: AtomicBool::new(false), bytes_max }
    }

    /// Queues a command on behalf of `trace`.
    pub(crate) fn submit(&self, command: Command, trace: Bytes) -> Result<Ticket, WriteError> {
        let weight = COMMAND_BYTES + encoded_command_bytes(&command);
        let (answer, told) = oneshot::channel();
        let state = Arc::new(AtomicU8::new(QUEUED));
        let mut waiting = self.waiting.lock();
        if waiting.bytes + weight > self.bytes_max {
            // Whoever gave up must not keep others out.
            waiting.commands.retain(|pending| pending.state.load(Ordering::Acquire) == QUEUED);
            waiting.bytes = waiting.commands.iter().map(|pending| pending.weight).sum();
        }
        // One command larger than the whole queue still fits into an empty one.
        if waiting.bytes + weight > self.bytes_max && !waiting.commands.is_empty() {
            return Err(Refused::Overloaded { limit: "queue_bytes_max", max: self.bytes_max as u64 }.into());
        }
        waiting.bytes += weight;
        waiting.commands.push_back(Pending { command, answer, trace, weight, state: state.clone() });
        drop(waiting);
        self.arrived.notify_one();
        Ok(Ticket { answer: told, state })
    }

    /// Has the owner look at its duties although nothing is queued.
    pub(crate) fn nudge(&self) {
        self.is_nudged.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// Waits until there is something to do.
    pub(crate) async fn wait(&self) {
        while self.waiting.lock().commands.is_empty() && !self.is_nudged.swap(false, Ordering::AcqRel) {
            self.arrived.notified().await;
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
            let is_ours = pending.state.compare_exchange(QUEUED, PROPOSED, Ordering::AcqRel, Ordering::Acquire).is_ok();
            if is_ours {
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

    #[test]
    fn a_command_is_taken_or_withdrawn() {
        let queue = Queue::new(1 << 20);
        let (first, second) =
            (queue.submit(put(1), Bytes::new()).unwrap(), queue.submit(put(1), Bytes::new()).unwrap());
        assert!(first.withdraw());
        assert_eq!(queue.take(usize::MAX, 10).len(), 1);
        assert!(first.withdraw(), "withdrawn stays withdrawn");
        assert!(!second.withdraw(), "too late");
    }

    #[test]
    fn a_proposal_is_bounded_and_takes_one_larger_command() {
        let queue = Queue::new(1 << 20);
        let tickets: Vec<_> =
            [5_000, 10, 10, 10].map(|bytes| queue.submit(put(bytes), Bytes::new()).unwrap()).into_iter().collect();
        assert_eq!(queue.take(1_000, 10).len(), 1, "one larger command travels alone");
        assert_eq!(queue.take(1_000, 2).len(), 2);
        assert_eq!(queue.take(1_000, 2).len(), 1);
        drop(tickets);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_and_forgets_whoever_gave_up() {
        let queue = Queue::new(1_000);
        let first = queue.submit(put(600), Bytes::new()).unwrap();
        let refused = queue.submit(put(600), Bytes::new()).err().unwrap();
        assert_eq!(refused, Refused::Overloaded { limit: "queue_bytes_max", max: 1_000 }.into());
        drop(first);
        let _second = queue.submit(put(600), Bytes::new()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_nudge_wakes_the_owner_once() {
        let queue = Queue::new(1_000);
        queue.nudge();
        queue.wait().await;
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), queue.wait()).await;
        assert!(again.is_err());
    }
}
