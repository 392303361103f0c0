//! One client of a workload: its connections, its place in the history, its chance.
//!
//! **Invariant.** A caller has one operation under way. After one of unknown outcome it goes on as another process: the
//! old one may still take effect at any time.

use super::recorder::Recorder;
use crate::history::{Kind, Process, Rank, Receipt, Record, Value};
use anyhow::{Result, bail};
use kvorum_client::{Client, ClientError, Cp, Effect, Keyspace, Options, ReadLevel};
use rand::{Rng as _, rngs::SmallRng};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Of the longest wait for one operation that much is for one node's answer to it, as by default.
const ATTEMPT_PART: f64 = 0.4;
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// How long a last read is tried: everything is whole by then.
const LAST_MAX: Duration = Duration::from_secs(30);

/// What all callers of a workload share.
#[derive(Clone)]
pub struct Setting {
    /// Where clients dial each node, by number from 1.
    pub endpoints: Vec<String>,
    /// Whether a client that is bound to one knows the others as well.
    pub knows_all: bool,
    /// Longest wait for one operation.
    pub deadline: Duration,
    /// The history.
    pub recorder: Arc<Recorder>,
    /// How many callers there are, over all workloads of the history.
    pub callers: u64,
}

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// `read`, `write`, …
    pub operation: &'static str,
    /// On which key.
    pub key: Option<String>,
    /// With what.
    pub value: Value,
    /// At which level, if the call names one.
    pub level: Option<ReadLevel>,
    /// In whose session.
    pub session: Option<String>,
    /// Whether it writes.
    pub is_write: bool,
}

impl Call {
    /// A read.
    #[must_use]
    pub fn read(key: impl Into<String>) -> Self {
        Call { operation: "read", key: Some(key.into()), ..Call::default() }
    }

    /// Something that writes.
    #[must_use]
    pub fn write(operation: &'static str, key: impl Into<String>, value: impl Into<Value>) -> Self {
        Call { operation, key: Some(key.into()), value: value.into(), is_write: true, ..Call::default() }
    }
}

/// What a call was told.
pub type Told = Result<(Value, Option<kvorum_client::Receipt>), ClientError>;

/// One client.
pub struct Caller {
    /// Its number among all callers, from 0.
    pub number: u64,
    /// Its chance.
    pub chance: SmallRng,
    setting: Setting,
    process: u64,
    clients: Vec<Client>,
    values: i64,
}

impl Caller {
    /// A client with a connection of its own to each node.
    pub fn new(number: u64, chance: SmallRng, setting: Setting) -> Result<Self> {
        let options = Options {
            timeout: setting.deadline,
            attempt_timeout: setting.deadline.mul_f64(ATTEMPT_PART),
            connect_timeout: CONNECT_MAX,
            ..Options::default()
        };
        let clients = setting.endpoints.iter().map(|endpoint| {
            let others = setting.endpoints.iter().filter(|other| setting.knows_all && *other != endpoint);
            Client::new([endpoint].into_iter().chain(others).map(String::as_str), options.clone())
        });
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        Ok(Caller { number, chance, process: number, clients, setting, values: 0 })
    }

    /// A keyspace, asked through the node this client is bound to.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Keyspace<Cp> {
        self.keyspace_at(name, self.number as usize)
    }

    /// A keyspace, asked through another node; nodes are counted from 0, round and round.
    #[must_use]
    pub fn keyspace_at(&self, name: &str, node: usize) -> Keyspace<Cp> {
        self.clients[node % self.clients.len()].keyspace(name)
    }

    /// Any node.
    pub fn any_node(&mut self) -> usize {
        self.chance.random_range(0..self.clients.len())
    }

    /// A value that nobody else ever writes.
    pub fn unique(&mut self) -> i64 {
        self.values += 1;
        self.values * 10_000 + i64::try_from(self.number).unwrap_or_default()
    }

    /// Records that a call begins, makes it, records how it ended.
    pub async fn record(&mut self, call: Call, made: impl Future<Output = Told>) -> Option<Value> {
        let record = |kind| Record {
            key: call.key.clone(),
            session: call.session.clone(),
            ..Record::new(0, Process::Client(self.process), kind, call.operation)
        };
        let invoked = Record { value: call.value.clone(), level: call.level, ..record(Kind::Invoke) };
        let invoked_ns = self.setting.recorder.write(invoked);
        let (ended, shard, told) = match made.await {
            Ok((value, receipt)) => {
                let shard = receipt.as_ref().map(|receipt| receipt.shard.0);
                let receipt = receipt.as_ref().map(receipt_of);
                (Record { value: value.clone(), receipt, ..record(Kind::Ok) }, shard, Some(value))
            }
            Err(error) => {
                // A read has no effect, whatever became of it.
                let effect = if call.is_write { error.effect() } else { Effect::None };
                let kind = if effect == Effect::None { Kind::Fail } else { Kind::Info };
                let reason = error.failure().map_or_else(|| error.to_string(), |failure| failure.reason.clone());
                (Record { error: Some(reason), effect: Some(effect), ..record(kind) }, None, None)
            }
        };
        let is_unknown = ended.kind == Kind::Info;
        self.setting.recorder.end(ended, invoked_ns, call.is_write, shard);
        if is_unknown {
            self.process += self.setting.callers;
        }
        told
    }

    /// Repeats a last read until it is answered.
    pub async fn insist<F: Future<Output = Told>>(&mut self, call: Call, make: impl Fn(&Self) -> F) -> Result<Value> {
        let until = Instant::now() + LAST_MAX;
        loop {
            let made = make(self);
            if let Some(value) = self.record(call.clone(), made).await {
                return Ok(value);
            }
            if Instant::now() > until {
                let key = call.key.unwrap_or_default();
                bail!("{} of {key:?} was not answered within {} s", call.operation, LAST_MAX.as_secs());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A receipt as it is written down.
#[must_use]
pub fn receipt_of(receipt: &kvorum_client::Receipt) -> Receipt {
    // Rounded up: a claim must not become better by being written down.
    let within_ms = receipt.staleness.map(|staleness| staleness.as_micros().div_ceil(1_000) as u64);
    let version = receipt.version.map(|version| {
        let actor = version.actor;
        Rank(vec![version.stamp.0, actor.node.0, actor.start.0])
    });
    Receipt {
        level: receipt.level,
        within_ms,
        version,
        shard: Some(format!("s{}", receipt.shard.0)),
        position: Some(Rank(vec![receipt.position.term, receipt.position.index])),
        node: Some(format!("n{}", receipt.node.0)),
    }
}

/// A value as it was stored: a number if it is one, else the text that should not be there.
#[must_use]
pub fn value_of(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    text.parse::<i64>().map_or_else(|_| Value::Text(text.into_owned()), Value::Int)
}

/// What a get was told.
pub async fn told_get(get: kvorum_client::Get) -> Told {
    let reply = get.await?;
    let value = reply.entry.map(|entry| value_of(&entry.value)).unwrap_or_default();
    Ok((value, Some(reply.receipt)))
}

/// What a write was told: nothing but that it happened.
pub async fn told_write<F: Future<Output = Result<kvorum_client::Written, ClientError>>>(
    write: impl IntoFuture<IntoFuture = F, Output = Result<kvorum_client::Written, ClientError>>,
) -> Told {
    let written = write.await?;
    Ok((Value::Nil, Some(written.receipt)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_recorded_as_it_is() {
        assert_eq!(value_of(b"-12"), Value::Int(-12));
        assert_eq!(value_of(b"1x\xff"), Value::Text("1x\u{fffd}".to_owned()));
    }
}
