//! Where blocking work runs: one bounded pool in production, inline in simulation.
//!
//! ```text
//!   run(work) ──▶ a place in the queue (waits) ──▶ queue ──▶ kv-blocking-0 │ kv-blocking-1 │ …  ──▶ result
//! ```
//!
//! Threads of our own instead of the runtime's: those have an unbounded queue and grow to hundreds of threads, so a
//! slow disk would turn into memory instead of waiting.
//!
//! **Invariant.** Work that was queued runs exactly once, even if its caller has gone away; a panic in it reaches its
//! caller and nobody else. Dropping the last handle runs what is queued and joins the threads.
//!
//! **Deliberately absent.** Priorities and deadlines: the caller bounds how long it waits, the work bounds itself.

use parking_lot::{Condvar, Mutex};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Runs work that may wait for a disk. Clones are handles of the same pool.
#[derive(Clone, Debug)]
pub struct Blocking {
    /// `None` = inline.
    pool: Option<Arc<Pool>>,
}

impl Blocking {
    /// Runs everything on the caller's thread, at once: for simulation and tests.
    #[must_use]
    pub fn inline() -> Self {
        Blocking { pool: None }
    }

    /// A pool of `threads` OS threads with a queue of at most `queue_max` jobs; both at least one.
    #[must_use]
    pub fn pool(threads: usize, queue_max: usize) -> Self {
        Blocking { pool: Some(Arc::new(Pool::start(threads.max(1), queue_max.max(1)))) }
    }

    /// Runs `work` and gives its result. A full queue waits. A panic in `work` continues in the caller.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let Some(pool) = &self.pool else { return work() };
        let place = Arc::clone(&pool.places).acquire_owned().await.expect("the semaphore is never closed");
        let (reply, answer) = oneshot::channel();
        pool.queue.push(Job {
            // The caller may have gone away: the work was done all the same.
            act: Box::new(move || drop(reply.send(catch_unwind(AssertUnwindSafe(work))))),
            _place: place,
        });
        match answer.await.expect("a queued job always answers") {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Jobs that wait for a thread.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.pool.as_ref().map_or(0, |pool| pool.queue.state.lock().jobs.len())
    }
}

struct Job {
    act: Box<dyn FnOnce() + Send>,
    /// Its place in the queue, free again as soon as a thread takes the job.
    _place: OwnedSemaphorePermit,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl Queue {
    fn push(&self, job: Job) {
        self.state.lock().jobs.push_back(job);
        self.changed.notify_one();
    }

    /// The next job; `None` once the queue is closed and empty.
    fn pop(&self) -> Option<Box<dyn FnOnce() + Send>> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job.act);
            }
            if state.is_closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }

    fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }
}

struct Pool {
    queue: Arc<Queue>,
    places: Arc<Semaphore>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(threads: usize, queue_max: usize) -> Pool {
        let queue = Arc::new(Queue::default());
        let threads = (0..threads)
            .map(|number| {
                let queue = Arc::clone(&queue);
                let work = move || {
                    while let Some(act) = queue.pop() {
                        act();
                    }
                };
                let thread = thread::Builder::new().name(format!("kv-blocking-{number}")).spawn(work);
                thread.expect("the system gives a few threads at start")
            })
            .collect();
        Pool { queue, places: Arc::new(Semaphore::new(queue_max)), threads }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            // The last handle may have been captured by a job: a thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                thread.join().expect("jobs catch their panics");
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Pool({} threads)", self.threads.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{
        future::Future,
        pin::pin,
        sync::{
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        task::{Context, Poll, Waker},
    };

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn inline_work_runs_on_the_callers_thread_at_once() {
        let here = thread::current().id();
        let blocking = Blocking::inline();
        let future = pin!(blocking.run(move || thread::current().id() == here));
        assert!(matches!(poll_once(future), Poll::Ready(true)));
    }

    #[test]
    fn pooled_work_runs_on_a_named_thread() {
        let blocking = Blocking::pool(1, 1);
        let name = runtime().block_on(blocking.run(|| thread::current().name().map(str::to_owned)));
        assert_eq!(name.as_deref(), Some("kv-blocking-0"));
    }

    #[test]
    fn a_full_queue_waits() {
        let blocking = Blocking::pool(1, 1);
        let (open, gate) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel::<()>();
        let mut running = pin!(blocking.run(move || {
            tell.send(()).unwrap();
            gate.recv().unwrap();
            1
        }));
        assert!(poll_once(running.as_mut()).is_pending());
        told.recv().unwrap();
        let mut queued = pin!(blocking.run(|| 2));
        assert!(poll_once(queued.as_mut()).is_pending());
        assert_eq!(blocking.queued(), 1);
        let mut waiting = pin!(blocking.run(|| 3));
        assert!(poll_once(waiting.as_mut()).is_pending());
        assert_eq!(blocking.queued(), 1, "the third job must wait outside of the queue");
        open.send(()).unwrap();
        assert_eq!(runtime().block_on(async { (running.await, queued.await, waiting.await) }), (1, 2, 3));
    }

    #[test]
    fn a_panic_reaches_its_caller_and_the_pool_lives_on() {
        let blocking = Blocking::pool(1, 4);
        let panicking = AssertUnwindSafe(|| runtime().block_on(blocking.run(|| panic!("the disk is on fire"))));
        let panic = catch_unwind(panicking).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the disk is on fire"));
        assert_eq!(runtime().block_on(blocking.run(|| 7)), 7);
    }

    #[test]
    fn dropping_the_pool_finishes_what_was_queued_even_for_callers_that_left() {
        let done = Arc::new(AtomicUsize::new(0));
        let blocking = Blocking::pool(2, 64);
        for _ in 0..64 {
            let done = Arc::clone(&done);
            let mut abandoned = Box::pin(blocking.run(move || done.fetch_add(1, Ordering::SeqCst)));
            // A current-thread poll queues the job at once: there is room for all of them.
            let _ = poll_once(abandoned.as_mut());
        }
        drop(blocking);
        assert_eq!(done.load(Ordering::SeqCst), 64);
    }

    #[test]
    fn a_job_may_hold_the_last_handle() {
        let blocking = Blocking::pool(1, 1);
        let (open, gate) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let held = blocking.clone();
        let mut abandoned = Box::pin(blocking.run(move || {
            gate.recv().unwrap();
            drop(held);
            tell.send(()).unwrap();
        }));
        assert!(poll_once(abandoned.as_mut()).is_pending());
        drop(abandoned);
        drop(blocking);
        open.send(()).unwrap();
        told.recv().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_job_runs_once_and_answers_its_own_caller(
            threads in 1usize..4, queue in 1usize..5, jobs in 0usize..60
        ) {
            let runs = Arc::new(AtomicUsize::new(0));
            let blocking = Blocking::pool(threads, queue);
            let answers = runtime().block_on(async {
                let mut callers = tokio::task::JoinSet::new();
                for number in 0..jobs {
                    let (blocking, runs) = (blocking.clone(), Arc::clone(&runs));
                    callers.spawn(async move {
                        let job = move || {
                            runs.fetch_add(1, Ordering::SeqCst);
                            number
                        };
                        (number, blocking.run(job).await)
                    });
                }
                callers.join_all().await
            });
            prop_assert!(answers.iter().all(|(asked, answered)| asked == answered));
            prop_assert_eq!(answers.len(), jobs);
            prop_assert_eq!(runs.load(Ordering::SeqCst), jobs);
        }
    }
}
