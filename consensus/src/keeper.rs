//! # NoteKeeper: keeps the node's note durable
//!
//! **Invariant.** One writer at a time, so that a newer note is never overwritten by an older one; the clock is
//! extended, and a life counts as noted, only after the sync.

use crate::{hlc::Hlc, identity::Lives, note::NodeNote, peers::Peers};
use kvorum_api::{Stamp, StartCount};
use kvorum_storage::{
    Journal, StorageError,
    journal::{BatchNumber, Completion, Mark, NODE_GROUP},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{Mutex, Notify, oneshot, watch};

/// Keeps one node's note.
pub struct NoteKeeper {
    journal: Arc<dyn Journal>,
    kept: NodeNote,
    /// Of this directory, up to the one under way.
    lives: Lives,
    writer: Mutex<()>,
    /// The serial of the newest map by which something was, or is about to be, erased here.
    erased_serial: AtomicU64,
    /// The one that is noted durably.
    kept_erased: AtomicU64,
    /// Up to which revision of [`Peers::lives`] the note is durable.
    revision: watch::Sender<u64>,
    wake: Arc<Notify>,
}

impl NoteKeeper {
    /// Reads the note of earlier lives, and adds one. The journal was just opened: what it shows as synced is what it
    /// found, and the one bare header of this start.
    ///
    /// # Errors
    /// A note that this build cannot read.
    pub fn read(journal: Arc<dyn Journal>, start: StartCount, boot_nonce: u64) -> Result<Self, StorageError> {
        let kept = journal.group(NODE_GROUP).note.map(|note| NodeNote::decode(&note)).transpose()?.unwrap_or_default();
        let found = BatchNumber(journal.status().last_synced.0.saturating_sub(1));
        let lives = kept.lives.clone().begin(start, boot_nonce, found);
        let revision = watch::Sender::new(0);
        let erased = kept.erased_serial;
        Ok(NoteKeeper {
            journal,
            kept,
            lives,
            writer: Mutex::new(()),
            erased_serial: AtomicU64::new(erased),
            kept_erased: AtomicU64::new(erased),
            revision,
            wake: Arc::default(),
        })
    }

    /// What earlier lives noted.
    pub fn kept(&self) -> &NodeNote {
        &self.kept
    }

    /// The lives of this directory, up to the one under way.
    pub fn lives(&self) -> &Lives {
        &self.lives
    }

    /// Makes the life under way durable: before that no peer may remember it.
    ///
    /// # Errors
    /// The journal's.
    pub async fn keep_first(&self, peers: &Peers) -> Result<(), StorageError> {
        let _one_at_a_time = self.writer.lock().await;
        self.write(self.kept.bound, peers).await
    }

    /// Notified when there is something that should not wait.
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Writes a note if the clock wants a further bound or a life is new, and waits until it is durable. What peers
    /// have synced rides along: the clock wants a bound every second, far more often than rule J7 asks for.
    ///
    /// # Errors
    /// The journal's.
    pub async fn keep(&self, hlc: &Hlc, peers: &Peers) -> Result<(), StorageError> {
        let _one_at_a_time = self.writer.lock().await;
        let bound = hlc.wanted_bound();
        if bound.is_none() && peers.lives().1 <= *self.revision.borrow() {
            return Ok(());
        }
        // A note always carries a bound: the one in force, if it needs no further one.
        let bound = bound.unwrap_or_else(|| hlc.ceiling());
        self.write(bound, peers).await?;
        hlc.extend(bound);
        Ok(())
    }

    /// The serial of the newest map by which something was erased here.
    pub fn erased_serial(&self) -> u64 {
        self.erased_serial.load(Ordering::Acquire)
    }

    /// Notes durably that something is about to be erased by the map of that serial: no older copy of it places
    /// anything here any more, whatever becomes of the newer one.
    ///
    /// # Errors
    /// The journal's.
    pub async fn keep_erased(&self, serial: u64, hlc: &Hlc, peers: &Peers) -> Result<(), StorageError> {
        let _one_at_a_time = self.writer.lock().await;
        if self.kept_erased.load(Ordering::Acquire) >= serial {
            return Ok(());
        }
        self.erased_serial.fetch_max(serial, Ordering::AcqRel);
        self.write(hlc.ceiling(), peers).await?;
        self.kept_erased.fetch_max(serial, Ordering::AcqRel);
        Ok(())
    }

    /// The last note of this life: the clock ends here, and what was seen of the peers is kept.
    ///
    /// # Errors
    /// The journal's.
    pub async fn keep_last(&self, hlc: &Hlc, peers: &Peers) -> Result<(), StorageError> {
        let _one_at_a_time = self.writer.lock().await;
        self.write(hlc.close(), peers).await
    }

    /// Waits until every life up to `revision` is noted durably.
    pub async fn wait_kept(&self, revision: u64) {
        let mut kept = self.revision.subscribe();
        if *kept.borrow() >= revision {
            return;
        }
        self.wake.notify_one();
        if kept.wait_for(|kept| *kept >= revision).await.is_err() {
            // The keeper is gone, and with it the node: nobody is to be told that anything is durable.
            std::future::pending::<()>().await;
        }
    }

    async fn write(&self, bound: Stamp, peers: &Peers) -> Result<(), StorageError> {
        let (lives, revision) = peers.lives();
        let erased_serial = self.erased_serial();
        let note = NodeNote { bound, peers: lives, lives: self.lives.clone(), erased_serial };
        let (done, told) = oneshot::channel();
        let done = Completion::Signal(Box::new(move |outcome| {
            // Nobody listens any more when the chore was stopped meanwhile.
            let _ = done.send(outcome);
        }));
        self.journal.mark(NODE_GROUP, Mark::Note(note.encode()), done)?;
        told.await.unwrap_or(Err(StorageError::Stopped))?;
        self.revision.send_if_modified(|kept| {
            let grows = revision > *kept;
            *kept = (*kept).max(revision);
            grows
        });
        Ok(())
    }
}
