//! # Worker: background chores with a name, a pace and a face (invariant 11)
//!
//! ```text
//!   idle ──pace──▶ running ──▶ idle      one step at a time; a failed step is remembered, said once, and tried again
//! ```
//!
//! **Invariant.** Every background task of a node is listed here, and none outlives [`Workers::stop`].

use crate::node::WorkerStatus;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};

/// What came of one step.
pub type Step = Result<(), String>;

/// The chores of one node.
pub struct Workers {
    tasks: Mutex<JoinSet<()>>,
    faces: Mutex<Vec<Arc<Mutex<WorkerStatus>>>>,
    is_stopping: watch::Sender<bool>,
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
        let face = Arc::new(Mutex::new(WorkerStatus { name, state: "idle", runs: 0, last_error: None }));
        self.faces.lock().push(Arc::clone(&face));
        let mut is_stopping = self.is_stopping.subscribe();
        let work = async move {
            while let Some(under_way) = step() {
                face.lock().state = "running";
                let outcome = under_way.await;
                note(&face, outcome);
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
        self.faces.lock().iter().map(|face| face.lock().clone()).collect()
    }

    /// Ends every chore and waits for it.
    pub async fn stop(&self) {
        self.is_stopping.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }
}

/// A failure that repeats is said once, so that it does not drown what happens meanwhile.
fn note(face: &Mutex<WorkerStatus>, outcome: Step) {
    let mut face = face.lock();
    face.runs += 1;
    match outcome {
        Ok(()) => face.state = "idle",
        Err(why) => {
            if face.state != "failed" && face.last_error.as_ref() != Some(&why) {
                tracing::warn!(worker = face.name, why, "background chore failed");
            }
            face.state = "failed";
            face.last_error = Some(why);
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
        assert_eq!(workers.status()[0].last_error.as_deref(), Some("shard 1: no leader"));
        sleep(Duration::from_secs(1)).await;
        assert_eq!((workers.status()[0].runs, workers.status()[0].state), (3, "idle"));
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
