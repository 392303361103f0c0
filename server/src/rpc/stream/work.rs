//! What is in flight for a stream: gets, each by itself, and the writes of a frame to one shard, together.
//!
//! **Invariant.** Every call of a frame becomes one answer: refused at once, or answered when its work is done or its
//! deadline has passed. Its share of the node is given back at that moment.

use crate::{
    admission::Permit,
    metrics::{Op, StreamFigures},
    rpc::{
        calls::{Changes, Get, Patience, no_answer},
        convert::{answer, asked::AskedId},
        deadline,
        door::{Asked, Door, Entered},
        status,
    },
};
use futures::future::BoxFuture;
use kvorum_api::{
    ReadError, Refused, ShardId, Stamp, WriteError,
    frame::{Answer, Body, Call, Failure, Operation, Outcome, Request, RequestParts},
};
use kvorum_consensus::{Replicator, Written};
use kvorum_storage::WriteCommand;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::{Instant, timeout_at};

/// A call that was let in.
pub struct Admitted {
    /// What the client calls it.
    id: u64,
    /// What it is.
    pub op: Op,
    /// Its bytes in its frame.
    pub bytes: usize,
    /// When its frame was read.
    pub started: Instant,
    patience: Patience,
    _permit: Permit,
}

/// An answer, and the call that it answers.
pub struct Answered {
    /// Its call.
    pub call: Admitted,
    /// The answer.
    pub answer: Answer,
}

/// What came of waiting.
pub struct Done {
    /// Answers.
    pub answered: Vec<Answered>,
    /// What else is waited for.
    pub rest: Option<Work>,
}

/// Something in flight.
pub enum Work {
    /// One read.
    Get(Box<Getting>),
    /// Writes of one frame to one shard.
    Writes(Writing),
}

/// One read.
pub struct Getting {
    entered: Arc<Entered>,
    call: Admitted,
    get: Get,
}

/// Writes of one frame to one shard.
pub struct Writing {
    entered: Arc<Entered>,
    shard: ShardId,
    /// In the order in which they were handed over; `None` = answered already.
    calls: Vec<Option<Admitted>>,
    deciding: BoxFuture<'static, Vec<Result<Written, WriteError>>>,
}

/// What became of a frame.
pub struct Begun {
    /// Answers that are known at once.
    pub refused: Vec<Answer>,
    /// What is in flight now.
    pub work: Vec<Work>,
}

/// Writes to one shard, before they are handed over.
struct Gathered {
    replicator: Arc<dyn Replicator>,
    route: Arc<crate::router::ShardRoute>,
    calls: Vec<Option<Admitted>>,
    commands: Vec<WriteCommand>,
}

/// What a frame says for all of its calls.
struct Frame<'a> {
    door: &'a Door,
    entered: Arc<Entered>,
    client: u128,
    lowest_unanswered: u64,
    started: Instant,
    /// Whether the stamp of every first attempt is fine.
    has_fine_stamps: bool,
}

/// Lets the calls of a frame in, shows them the way and hands them over.
#[must_use]
pub fn begin(door: &Door, request: Request, figures: &StreamFigures) -> Begun {
    let started = Instant::now();
    let newest = request.calls.iter().map(first_sent).max().unwrap_or_default();
    let asked = Asked {
        keyspace: request.keyspace,
        stamp: request.stamp,
        trace: request.traceparent,
        session_token: request.session_token,
    };
    let mut begun = Begun { refused: Vec::new(), work: Vec::new() };
    let mut entered = match door.enter(asked) {
        Ok(entered) => entered,
        Err(refused) => {
            let failure = status::refusal(&refused);
            let refuse = |call: &Call| refusal(call.id, op_of(&call.body), started, failure.clone(), figures);
            begun.refused.extend(request.calls.iter().map(refuse));
            return begun;
        }
    };
    let has_fine_stamps = door.observe(newest).is_ok();
    if has_fine_stamps {
        entered.stamp = entered.stamp.max(newest);
    }
    let frame = Frame {
        door,
        entered: Arc::new(entered),
        client: request.client,
        lowest_unanswered: request.lowest_unanswered,
        started,
        has_fine_stamps,
    };
    let mut gathered = BTreeMap::new();
    for call in request.calls {
        let (id, op) = (call.id, op_of(&call.body));
        match frame.prepare(call, &mut gathered) {
            Ok(Some(get)) => begun.work.push(get),
            Ok(None) => {}
            Err(failure) => begun.refused.push(refusal(id, op, started, failure, figures)),
        }
    }
    begun.work.extend(gathered.into_iter().map(|((_, epoch), writes)| frame.hand_over(writes, epoch)));
    begun
}

fn refusal(id: u64, op: Op, started: Instant, failure: Failure, figures: &StreamFigures) -> Answer {
    let outcome = Outcome::Failed(failure);
    figures.answered(op, started, &outcome);
    Answer { id, outcome }
}

fn first_sent(call: &Call) -> Stamp {
    match &call.body {
        Body::Get { .. } => Stamp::default(),
        Body::Single { request, .. } | Body::Batch { request, .. } => {
            request.map_or(Stamp::default(), |parts| parts.first_sent)
        }
    }
}

fn op_of(body: &Body) -> Op {
    match body {
        Body::Get { .. } => Op::Get,
        Body::Single { operation: Operation::Put { .. }, .. } => Op::Put,
        Body::Single { operation: Operation::Delete { .. }, .. } => Op::Delete,
        Body::Single { operation: Operation::Increment { .. }, .. } => Op::Increment,
        Body::Batch { .. } => Op::Batch,
    }
}

impl Frame<'_> {
    /// Prepares a call: a get is work by itself, a write joins those of its shard.
    fn prepare(&self, call: Call, gathered: &mut BTreeMap<(ShardId, u64), Gathered>) -> Result<Option<Work>, Failure> {
        if !self.has_fine_stamps {
            self.door.observe(first_sent(&call)).map_err(|refused| status::refusal(&refused))?;
        }
        let admitted = self.admit(&call).map_err(|refused| status::refusal(&refused))?;
        let hall = Some(self.entered.hall.as_ref());
        let (parts, changes) = match call.body {
            Body::Get { key, level } => {
                let get = self.door.prepare_get(&self.entered, &key, level, call.epoch);
                let get = get.map_err(|error| status::read_failure(&error, hall))?;
                let getting = Getting { entered: self.entered.clone(), call: admitted, get };
                return Ok(Some(Work::Get(Box::new(getting))));
            }
            Body::Single { request, operation } => (request, Changes::Single(operation)),
            Body::Batch { request, operations } => (request, Changes::Batch(operations)),
        };
        let id = parts.map(|parts| self.request_id(parts));
        let write = self.door.prepare_write(&self.entered, id, changes, call.epoch);
        let write = write.map_err(|error| status::write_failure(&error, hall))?;
        let writes = gathered.entry((write.route.row.shard, write.epoch)).or_insert_with(|| Gathered {
            replicator: write.replicator,
            route: write.route,
            calls: Vec::new(),
            commands: Vec::new(),
        });
        writes.calls.push(Some(admitted));
        writes.commands.push(write.command);
        Ok(None)
    }

    fn admit(&self, call: &Call) -> Result<Admitted, Refused> {
        let budget = deadline::call(call.deadline_ms, &self.door.limits);
        let bytes = call.size();
        Ok(Admitted {
            id: call.id,
            op: op_of(&call.body),
            bytes,
            started: self.started,
            patience: Patience { shard: budget.shard, until: self.started + budget.door },
            _permit: self.door.admit(bytes)?,
        })
    }

    fn request_id(&self, parts: RequestParts) -> AskedId {
        AskedId { client: self.client, lowest_unanswered: self.lowest_unanswered, parts }
    }

    /// The shard is given the longest patience of them; shorter ones are answered by the door when theirs ends.
    fn hand_over(&self, writes: Gathered, epoch: u64) -> Work {
        let patience = writes.calls.iter().flatten().map(|call| call.patience.shard).max().unwrap_or_default();
        let context = self.entered.context(&writes.route, epoch, patience);
        let Gathered { replicator, commands, route, calls } = writes;
        Work::Writes(Writing {
            entered: self.entered.clone(),
            shard: route.row.shard,
            calls,
            deciding: Box::pin(async move { replicator.write_many(commands, context).await }),
        })
    }
}

impl Work {
    /// Calls in it.
    #[must_use]
    pub fn calls(&self) -> usize {
        match self {
            Work::Get(_) => 1,
            Work::Writes(writing) => writing.calls.iter().flatten().count(),
        }
    }

    /// Bytes of its calls.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Work::Get(getting) => getting.call.bytes,
            Work::Writes(writing) => writing.calls.iter().flatten().map(|call| call.bytes).sum(),
        }
    }

    /// Waits until something of it is answered.
    pub async fn run(self) -> Done {
        match self {
            Work::Get(getting) => getting.run().await,
            Work::Writes(writing) => writing.run().await,
        }
    }
}

impl Getting {
    async fn run(self) -> Done {
        let Getting { entered, call, get } = self;
        let read = get.run(&entered, call.patience).await;
        let failed = |error: ReadError| Outcome::Failed(status::read_failure(&error, Some(&entered.hall)));
        let answer = Answer { id: call.id, outcome: read.unwrap_or_else(failed) };
        Done { answered: vec![Answered { call, answer }], rest: None }
    }
}

impl Writing {
    async fn run(mut self) -> Done {
        let first = self.calls.iter().flatten().map(|call| call.patience.until).min();
        let first = first.expect("what is waited for has a call that is not answered");
        match timeout_at(first, &mut self.deciding).await {
            Ok(decided) => self.decided(decided),
            Err(_) => self.overdue(),
        }
    }

    fn decided(self, decided: Vec<Result<Written, WriteError>>) -> Done {
        assert_eq!(decided.len(), self.calls.len(), "a shard answers every command it is handed");
        let keyspace = self.entered.keyspace_id();
        let pairs = self.calls.into_iter().zip(decided);
        let answered = pairs.filter_map(|(call, written)| {
            let outcome = written.and_then(|written| answer::written(written, keyspace));
            Some(answer_write(call?, outcome, &self.entered))
        });
        Done { answered: answered.collect(), rest: None }
    }

    /// Answers those whose time is up with what is known of them, which is nothing.
    fn overdue(mut self) -> Done {
        let now = Instant::now();
        let mut answered = Vec::new();
        for place in &mut self.calls {
            if let Some(call) = place.take_if(|call| call.patience.until <= now) {
                let error = no_answer(self.shard, call.patience);
                answered.push(answer_write(call, Err(error), &self.entered));
            }
        }
        let is_over = self.calls.iter().all(Option::is_none);
        Done { answered, rest: (!is_over).then_some(Work::Writes(self)) }
    }
}

fn answer_write(call: Admitted, written: Result<Outcome, WriteError>, entered: &Entered) -> Answered {
    let failed = |error: WriteError| Outcome::Failed(status::write_failure(&error, Some(&entered.hall)));
    let answer = Answer { id: call.id, outcome: written.unwrap_or_else(failed) };
    Answered { call, answer }
}
