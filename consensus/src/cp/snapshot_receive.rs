//! Receiving a snapshot: chunk by chunk into a stage, verified there, and only then handed to openraft.
//!
//! ```text
//!   message ─▶ step ─▶ the same one is under way or done? wait for its answer
//!                  └─▶ else a task of this replica takes it; the message only waits for its answer
//! ```
//!
//! **Invariant.** openraft is given a snapshot only after everything it would panic about has been checked: that it is
//! complete, that it is what was announced, and that it contradicts neither the sender's vote nor what is committed
//! here. A call that is given up by its sender ends nothing: a step that was begun is carried out once, and a repeated
//! message joins it. One step runs at a time, so a stage is removed only when nobody writes to it.

use super::{
    codec::raft::decode_stored_membership,
    codec::transfer::{SnapshotBegin, SnapshotChunk, SnapshotFinish, SnapshotProgress},
    core::Core,
    state_machine::{SnapshotBytes, StateMachine},
    types::{LogId, SnapshotMeta, Types, Vote, log_id},
};
use futures::future::BoxFuture;
use kvorum_storage::{
    StorageError,
    shard::{SnapshotReceiver, StagedSnapshot},
};
use openraft::{Raft, Snapshot};
use parking_lot::Mutex;
use std::{cmp::Ordering, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// How long an unfinished snapshot is kept without news of its sender.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(120);

type Answer = Result<SnapshotProgress, String>;

/// One snapshot on its way in.
struct Arriving {
    begin: SnapshotBegin,
    from: u64,
    next: u64,
    touched: Instant,
    stage: u64,
    /// Away while a chunk is being put.
    receiver: Option<SnapshotReceiver>,
}

/// What a message asks for: the same message again asks for the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Step {
    from: u64,
    session: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Begin,
    Chunk(u64),
    Finish,
}

/// The newest step a task has taken, and its answer once it is there.
struct Work {
    of: Step,
    told: watch::Receiver<Option<Answer>>,
}

impl Work {
    fn is_running(&self) -> bool {
        self.told.borrow().is_none() && self.told.has_changed().is_ok()
    }
}

/// What becomes of a message.
enum Plan {
    Answered(Answer),
    Begun(BoxFuture<'static, Answer>),
}

#[derive(Default)]
struct State {
    arriving: Option<Arriving>,
    work: Option<Work>,
    /// The sender and the session of the newest snapshot that was installed, or not needed any more: its sender asks
    /// again if the reply got lost.
    finished: Option<(u64, u64)>,
}

/// What the steps work on.
struct Stages {
    core: Arc<Core>,
    state: Mutex<State>,
}

/// What this replica is receiving: at most one snapshot at a time, the newest attempt wins until it is being installed.
pub(super) struct Receiving {
    stages: Arc<Stages>,
    /// The step under way: it ends with the group, not with the call that began it.
    tasks: Mutex<JoinSet<()>>,
}

impl Receiving {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let stages = Arc::new(Stages { core, state: Mutex::default() });
        Receiving { stages, tasks: Mutex::new(JoinSet::new()) }
    }

    /// Begins to receive. A sender with an older vote is told so at once.
    pub(super) async fn begin(&self, from: u64, begin: SnapshotBegin) -> Answer {
        let vote = self.stages.vote();
        if vote.partial_cmp(&begin.vote) == Some(Ordering::Greater) {
            return Ok(SnapshotProgress { vote, next: 0 });
        }
        let of = Step { from, session: begin.session, what: What::Begin };
        self.touch(from, begin.session);
        let plan = |state: &mut State| {
            let known = state.arriving.as_ref().filter(|known| known.begin == begin && known.from == from);
            if let Some(known) = known {
                return Plan::Answered(Ok(SnapshotProgress { vote, next: known.next }));
            }
            Plan::Begun(Box::pin(self.stages.clone().begin(state.arriving.take(), from, begin)))
        };
        self.step(of, plan).await
    }

    /// Puts one chunk. A repeated one is acknowledged and not put again.
    pub(super) async fn chunk(&self, from: u64, chunk: SnapshotChunk) -> Answer {
        let of = Step { from, session: chunk.session, what: What::Chunk(chunk.number) };
        self.touch(from, chunk.session);
        let plan = |state: &mut State| {
            let is_of = |known: &&mut Arriving| known.begin.session == chunk.session && known.from == from;
            let Some(known) = state.arriving.as_mut().filter(is_of) else {
                return Plan::Answered(Err("this snapshot is not being received: begin again".to_owned()));
            };
            if chunk.number.checked_add(1) == Some(known.next) {
                return Plan::Answered(Ok(SnapshotProgress { vote: self.stages.vote(), next: known.next }));
            }
            if chunk.number != known.next {
                let why = format!("chunk {} arrived instead of chunk {}", chunk.number, known.next);
                return Plan::Answered(Err(why));
            }
            match known.receiver.take() {
                Some(receiver) => Plan::Begun(Box::pin(self.stages.clone().put(receiver, chunk))),
                None => Plan::Answered(Err("an earlier chunk of this snapshot failed: begin again".to_owned())),
            }
        };
        self.step(of, plan).await
    }

    /// Verifies the whole and has it installed, which may take far longer than a call does.
    pub(super) async fn finish(&self, from: u64, finish: SnapshotFinish, raft: &Raft<Types, StateMachine>) -> Answer {
        let of = Step { from, session: finish.session, what: What::Finish };
        let plan = |state: &mut State| {
            if state.finished == Some((from, finish.session)) {
                return Plan::Answered(Ok(SnapshotProgress { vote: self.stages.vote(), next: finish.chunks }));
            }
            let is_this = |known: &mut Arriving| {
                known.begin.session == finish.session && known.from == from && known.next == finish.chunks
            };
            match state.arriving.take_if(is_this) {
                Some(arriving) => Plan::Begun(Box::pin(self.stages.clone().finish(arriving, raft.clone()))),
                None => Plan::Answered(Err("this snapshot is not complete here: begin again".to_owned())),
            }
        };
        self.step(of, plan).await
    }

    /// Its sender lives: one that waits for its turn says so by repeating what is here already.
    fn touch(&self, from: u64, session: u64) {
        let mut state = self.stages.state.lock();
        if let Some(known) =
            state.arriving.as_mut().filter(|known| known.from == from && known.begin.session == session)
        {
            known.touched = Instant::now();
        }
    }

    /// Joins the step if it is under way or done; else waits for its turn and takes it as planned.
    async fn step(&self, of: Step, plan: impl FnOnce(&mut State) -> Plan) -> Answer {
        let mut told = loop {
            let mut other = {
                let mut state = self.stages.state.lock();
                match &state.work {
                    Some(work) if work.of == of => break work.told.clone(),
                    Some(work) if work.is_running() && work.of.what == What::Finish => {
                        return Err("a snapshot is being installed: ask later".to_owned());
                    }
                    Some(work) if work.is_running() => work.told.clone(),
                    Some(_) | None => match plan(&mut state) {
                        Plan::Answered(answer) => return answer,
                        Plan::Begun(work) => {
                            let told = self.spawn(work);
                            state.work = Some(Work { of, told: told.clone() });
                            break told;
                        }
                    },
                }
            };
            // Whatever it came to: it is over.
            let _ = other.wait_for(Option::is_some).await;
        };
        let answer = told.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or_else(|| Err("receiving a snapshot was broken off: begin again".to_owned()))
    }

    fn spawn(&self, work: BoxFuture<'static, Answer>) -> watch::Receiver<Option<Answer>> {
        let (tell, told) = watch::channel(None);
        let mut tasks = self.tasks.lock();
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(group = %self.stages.core.group, %error, "receiving a snapshot ended badly");
            }
        }
        tasks.spawn(async move {
            let answer = work.await;
            tell.send_replace(Some(answer));
        });
        told
    }

    /// Whether a snapshot is being received or installed.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.stages.state.lock();
        state.arriving.is_some() || state.work.as_ref().is_some_and(Work::is_running)
    }

    /// Gives up a snapshot nobody has sent a chunk of for a while.
    pub(super) async fn sweep(&self) {
        let idle = {
            let mut state = self.stages.state.lock();
            if state.work.as_ref().is_some_and(Work::is_running) {
                return;
            }
            state.arriving.take_if(|known| known.touched.elapsed() > IDLE_MAX)
        };
        if let Some(Arriving { stage, receiver, .. }) = idle {
            self.stages.discard(stage, receiver).await;
        }
    }

    /// Ends the step under way. What it leaves behind is removed, or finished, by the next start.
    pub(super) async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

impl Stages {
    fn vote(&self) -> Vote {
        self.core.look(|metrics| metrics.vote).unwrap_or_else(|| Vote::new(0, self.core.replica.0))
    }

    async fn begin(self: Arc<Self>, former: Option<Arriving>, from: u64, begin: SnapshotBegin) -> Answer {
        if let Some(Arriving { stage, receiver, .. }) = former {
            self.discard(stage, receiver).await;
        }
        let (shard, stage) = (self.core.store.shard.clone(), self.core.store.next_stage());
        let receiver = self.core.store.blocking.run(move || shard.receive_snapshot(stage)).await;
        let receiver = Some(receiver.map_err(|error| self.failed(&error))?);
        tracing::info!(group = %self.core.group, from, last = ?begin.meta.last_log_id, "receiving a snapshot");
        let arriving = Arriving { begin, from, next: 0, touched: Instant::now(), stage, receiver };
        self.state.lock().arriving = Some(arriving);
        Ok(SnapshotProgress { vote: self.vote(), next: 0 })
    }

    async fn put(self: Arc<Self>, mut receiver: SnapshotReceiver, chunk: SnapshotChunk) -> Answer {
        let work = move || {
            let put = receiver.put_chunk(&chunk.bytes);
            (receiver, put)
        };
        let (receiver, put) = self.core.store.blocking.run(work).await;
        if let Err(error) = put {
            let failed = self.state.lock().arriving.take();
            if let Some(Arriving { stage, .. }) = failed {
                self.discard(stage, Some(receiver)).await;
            }
            return Err(self.failed(&error));
        }
        let mut state = self.state.lock();
        let known = state.arriving.as_mut().expect("nobody else changes it while a step is under way");
        known.receiver = Some(receiver);
        known.next += 1;
        known.touched = Instant::now();
        Ok(SnapshotProgress { vote: self.vote(), next: known.next })
    }

    async fn finish(self: Arc<Self>, arriving: Arriving, raft: Raft<Types, StateMachine>) -> Answer {
        let Arriving { begin, from, next, stage, receiver, .. } = arriving;
        let Some(receiver) = receiver else {
            return Err("an earlier chunk of this snapshot failed: begin again".to_owned());
        };
        let staged = self.core.store.blocking.run(move || receiver.finish()).await;
        let committed = self.core.look(|metrics| metrics.local_committed).flatten();
        let staged = staged.map_err(|error| self.failed(&error));
        let staged = match staged.and_then(|staged| check(&begin, &staged, committed).map(|()| staged)) {
            Ok(staged) => staged,
            Err(why) => {
                self.discard(stage, None).await;
                return Err(why);
            }
        };
        let snapshot = Snapshot { meta: begin.meta, snapshot: SnapshotBytes::Staged(staged) };
        let reply = raft.install_full_snapshot(begin.vote, snapshot).await.map_err(|fatal| fatal.to_string())?;
        // Installed, or not needed any more: either way nobody asks for the stage again. After a failure it stays,
        // because the next start repeats the installation from it.
        self.discard(stage, None).await;
        self.state.lock().finished = Some((from, begin.session));
        Ok(SnapshotProgress { vote: reply.vote, next })
    }

    /// Removes a stage, after whoever could still write to it.
    async fn discard(&self, stage: u64, receiver: Option<SnapshotReceiver>) {
        let engine = self.core.store.engine.clone();
        let work = move || {
            drop(receiver);
            engine.discard_stage(stage)
        };
        if let Err(error) = self.core.store.blocking.run(work).await {
            tracing::warn!(group = %self.core.group, stage, %error, "could not remove a stage, the next start will");
        }
    }

    /// What the peer got wrong is the peer's; what the disk got wrong poisons.
    fn failed(&self, error: &StorageError) -> String {
        self.core.store.poison_if_fatal(error);
        format!("snapshot not taken: {error}")
    }
}

/// What openraft would panic about.
fn check(begin: &SnapshotBegin, staged: &StagedSnapshot, committed: Option<LogId>) -> Result<(), String> {
    let membership = decode_stored_membership(staged.applied.membership.clone()).map_err(|error| error.to_string())?;
    let found = SnapshotMeta { last_log_id: staged.applied.position.map(log_id), last_membership: membership };
    if found != begin.meta {
        return Err(format!("snapshot of {found} was announced as {}", begin.meta));
    }
    let Some(last) = begin.meta.last_log_id else { return Err("snapshot of nothing".to_owned()) };
    if last.leader_id.term > begin.vote.leader_id.term || !begin.vote.committed {
        return Err(format!("snapshot up to {last} cannot come from {}", begin.vote));
    }
    match committed {
        Some(committed) if last > committed && last.index <= committed.index => {
            Err(format!("snapshot up to {last} contradicts {committed}, which is committed here"))
        }
        Some(_) | None => Ok(()),
    }
}
