//! Sessions that wander: each operation goes to another node, with the token of all before.

use super::{
    Call, Caller, Workload,
    caller::{told_get, told_write},
};
use crate::real::cluster::SPREAD;
use anyhow::Result;
use bytes::Bytes;
use futures::future::BoxFuture;
use kvorum_client::{ClientError, Cp, ReadLevel, Session};
use parking_lot::Mutex;
use rand::Rng as _;
use std::collections::BTreeMap;

/// Keys all sessions share.
const KEYS: u32 = 6;

/// Wandering sessions.
#[derive(Default)]
pub struct Sessions {
    tokens: Mutex<BTreeMap<u64, Bytes>>,
}

impl Sessions {
    /// This caller's session, as a process on another machine would go on with it.
    fn resume(&self, caller: &mut Caller) -> Result<Session<Cp>, ClientError> {
        let node = caller.any_node();
        let keyspace = caller.keyspace_at(SPREAD, node);
        match self.tokens.lock().get(&caller.number).filter(|token| !token.is_empty()) {
            Some(token) => Session::from_token(&keyspace, token),
            None => Ok(keyspace.session()),
        }
    }
}

impl Workload for Sessions {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let key = format!("session/{}", caller.chance.random_range(0..KEYS));
            let name = Some(format!("session {}", caller.number));
            let session = self.resume(caller).expect("a token that a session gave is one");
            if caller.chance.random_bool(0.6) {
                let level = Some(ReadLevel::Session);
                let call = Call { session: name, level, ..Call::read(key.as_str()) };
                caller.record(call, told_get(session.get(key.as_str()))).await;
            } else {
                let value = caller.unique();
                let call = Call { session: name, ..Call::write("write", key.as_str(), value) };
                caller.record(call, told_write(session.put(key.as_str(), value.to_string()))).await;
            }
            self.tokens.lock().insert(caller.number, session.token());
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for key in (0..KEYS).map(|key| format!("session/{key}")) {
                let read = |caller: &Caller| told_get(caller.keyspace(SPREAD).get(key.as_str()));
                caller.insist(Call::read(key.as_str()), read).await?;
            }
            Ok(())
        })
    }
}
