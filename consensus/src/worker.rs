//! # Worker: background chores with a name, a pace and a face (invariant 11)
//!
//! ```text
//!   idle ──pace──▶ running ──▶ idle      one step at a time
//!                     └──────▶ failed    until a step succeeds; said once, and tried again
//! ```
//!
//! The last failure stays in the face when the chore has succeeded since, with its age: the state says whether it fails
//! now, the failure what it has been through.
//!
//! **Invariant.** Every background task of a node is listed here, and none outlives [`Workers::stop`].

use crate::node::{WorkerFailure, WorkerStatus};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

/// What came of one step.
pub type Step = Result<(), String>;

/// The chores of one node.
pub struct Workers {
    tasks: Mutex<JoinSet<()>>,
    faces: Mutex<Vec<Arc<Mutex<Face>>>>,
    is_stopping: watch::Sender<bool>,
}

/// How one chore is doing.
struct Face {
    name: &'static str,
    is_running: bool,
    runs: u64,
    /// Why the last step failed, if it did.
    failing: Option<String>,
    /// The last failure of all, and when that was.
    last_failure: Option<(String, Instant)>,
}

impl Default for Workers {
    fn default() -> Self {
        Workers {
            tasks: Mutex::new(JoinSet::new()),
            faces: Mutex::new(Vec::new()),
            is_stopping: watch::Sender::new(false),
        }
    }
}

impl Workers {
    /// Runs `step` every `pace`, and at once when `wake` is notified, until it gives `None` or the workers stop.
    pub fn start(
        &self,
        name: &'static str,
        pace: Duration,
        wake: Arc<Notify>,
        mut step: impl FnMut() -> Option<BoxFuture<'static, Step>> + Send + 'static,
    ) {
        let face = Arc::new(Mutex::new(Face::new(name)));
        self.faces.lock().push(Arc::clone(&face));
        let mut is_stopping = self.is_stopping.subscribe();
        let work = async move {
            while let Some(under_way) = step() {
                face.lock().is_running = true;
                let outcome = under_way.await;
                if let Some(why) = face.lock().note(outcome) {
                    tracing::warn!(worker = name, why, "background chore failed");
                }
                tokio::select! {
                    biased;
                    () = wake.notified() => {}
                    () = sleep(pace) => {}
                }
            }
        };
        self.tasks.lock().spawn(async move {
            tokio::select! {
                biased;
                // Stopping wins over a step that waits for nodes or disks: nothing here promises to finish.
                _ = is_stopping.wait_for(|is_stopping| *is_stopping) => {}
                () = work => {}
            }
        });
    }

    /// How they are doing.
    pub fn status(&self) -> Vec<WorkerStatus> {
        self.faces.lock().iter().map(|face| face.lock().status()).collect()
    }

    /// Ends every chore and waits for it.
    pub async fn stop(&self) {
        self.is_stopping.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

impl Face {
    fn new(name: &'static str) -> Self {
        Face { name, is_running: false, runs: 0, failing: None, last_failure: None }
    }

    /// Notes how a step ended. Gives the failure if it is news: one that repeats is said once, so that it does not
    /// drown what happens meanwhile, and again when it comes back after a success.
    fn note(&mut self, outcome: Step) -> Option<String> {
        self.runs += 1;
        self.is_running = false;
        let failed = outcome.err();
        let is_news = failed != self.failing;
        self.failing.clone_from(&failed);
        let why = failed?;
        self.last_failure = Some((why.clone(), Instant::now()));
        is_news.then_some(why)
    }

    fn status(&self) -> WorkerStatus {
        // One that has failed is shown as failed until a step succeeds: a chore that tries again at once would never be
        // seen.
        let state = match (&self.failing, self.is_running) {
            (Some(_), _) => "failed",
            (None, true) => "running",
            (None, false) => "idle",
        };
        let last_failure = self.last_failure.as_ref();
        WorkerStatus {
            name: self.name,
            state,
            runs: self.runs,
            last_failure: last_failure.map(|(why, at)| WorkerFailure { why: why.clone(), ago: at.elapsed() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_chore_has_a_pace_and_its_failure_is_seen() {
        let workers = Workers::default();
        let mut runs = 0;
        workers.start("expiry", Duration::from_secs(1), Arc::default(), move || {
            runs += 1;
            let outcome = if runs == 2 { Err("shard 1: no leader".to_owned()) } else { Ok(()) };
            Some(Box::pin(async move { outcome }))
        });
        sleep(Duration::from_millis(500)).await;
        assert_eq!((workers.status()[0].runs, workers.status()[0].state), (1, "idle"));
        sleep(Duration::from_secs(1)).await;
        assert_eq!((workers.status()[0].runs, workers.status()[0].state), (2, "failed"));
        let failed = |ago| Some(WorkerFailure { why: "shard 1: no leader".to_owned(), ago });
        assert_eq!(workers.status()[0].last_failure, failed(Duration::from_millis(500)));
        sleep(Duration::from_secs(1)).await;
        assert_eq!((workers.status()[0].runs, workers.status()[0].state), (3, "idle"));
        assert_eq!(workers.status()[0].last_failure, failed(Duration::from_millis(1_500)), "it has succeeded since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_news_once_until_it_is_another_or_comes_back() {
        let mut face = Face::new("hello");
        let said = [Ok(()), Err("a"), Err("a"), Err("b"), Ok(()), Err("b"), Err("b")]
            .map(|outcome| face.note(outcome.map_err(str::to_owned)));
        assert_eq!(said.map(|said| said.is_some()), [false, true, false, true, false, true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_chore_that_failed_is_seen_while_it_tries_again() {
        let workers = Workers::default();
        let mut runs = 0;
        workers.start("reconcile", Duration::ZERO, Arc::default(), move || {
            runs += 1;
            let outcome = if runs < 4 { Err("engine".to_owned()) } else { Ok(()) };
            Some(Box::pin(async move {
                sleep(Duration::from_secs(1)).await;
                outcome
            }))
        });
        sleep(Duration::from_millis(500)).await;
        assert_eq!(workers.status()[0].state, "running");
        for _ in 0..3 {
            sleep(Duration::from_secs(1)).await;
            assert_eq!(workers.status()[0].state, "failed");
        }
        sleep(Duration::from_secs(2)).await;
        assert_eq!(workers.status()[0].state, "running", "nothing wrong any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_chore_can_be_woken() {
        let workers = Workers::default();
        let wake = Arc::new(Notify::new());
        workers.start("note", Duration::from_secs(3_600), Arc::clone(&wake), || Some(Box::pin(async { Ok(()) })));
        sleep(Duration::from_millis(1)).await;
        wake.notify_one();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(workers.status()[0].runs, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_ends_a_step_that_waits_for_ever() {
        let workers = Workers::default();
        workers.start("stuck", Duration::from_secs(1), Arc::default(), || Some(Box::pin(std::future::pending())));
        sleep(Duration::from_secs(5)).await;
        assert_eq!(workers.status()[0].state, "running");
        workers.stop().await;
    }
}
