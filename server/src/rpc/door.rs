//! The door: what every request passes before it crosses the hall.
//!
//! ```text
//!   draining? ─▶ header ─▶ stamp (T1) ─▶ keyspace ─▶ session token ─▶ key ─▶ shard ─▶ epoch (C3) ─▶ permit ─▶ work
//! ```
//!
//! **Invariant.** A request that is refused here has touched nothing: `Effect::None`.

use crate::{
    admission::{Admission, Permit},
    config::Limits,
    router::{Hall, Keyspace, Router, ShardRoute},
};
use bytes::Bytes;
use kvorum_api::{ClusterId, KeyspaceId, NodeId, Refused, SessionToken, Stamp, error::LeaderHint, limits, proto};
use kvorum_consensus::{Node, RequestContext, metadata::ShardRow};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// What every handler shares.
pub struct Door {
    /// The node behind the doors.
    pub node: Arc<Node>,
    /// The hall.
    pub router: Router,
    /// What is being worked on.
    pub admission: Arc<Admission>,
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub id: NodeId,
    /// Numbers.
    pub limits: Limits,
    /// A clock further off is not trusted.
    pub clock_offset_max: Duration,
    /// Tasks that feed scans and serve streams; waited for at an orderly stop.
    pub tasks: TaskTracker,
    /// Whether new requests are refused.
    pub draining: watch::Sender<bool>,
}

/// What a header says, whatever it came in.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The keyspace, by name.
    pub keyspace: String,
    /// The highest stamp in the request.
    pub stamp: Stamp,
    /// W3C trace context, empty = none.
    pub trace: String,
    /// What the session has seen, empty = nothing.
    pub session_token: Bytes,
}

/// A header that was let in.
#[derive(Clone)]
pub struct Entered {
    /// The hall as it is for this request.
    pub hall: Arc<Hall>,
    /// Its keyspace.
    pub keyspace: Arc<Keyspace>,
    /// Its stamp.
    pub stamp: Stamp,
    /// Its trace context.
    pub trace: String,
    /// What its session has seen of this keyspace.
    pub session: Option<Arc<SessionToken>>,
}

impl Asked {
    /// The header of a unary request.
    ///
    /// # Errors
    /// It is missing.
    pub fn of(header: Option<proto::RequestHeader>) -> Result<(Self, u64), Refused> {
        let header = header.ok_or_else(|| Refused::Malformed {
            field: "header",
            problem: "is missing: it names the keyspace".into(),
        })?;
        let asked = Asked {
            keyspace: header.keyspace,
            stamp: Stamp(header.stamp),
            trace: header.traceparent,
            session_token: header.session_token,
        };
        Ok((asked, header.epoch))
    }
}

impl Door {
    /// Lets a header in.
    ///
    /// # Errors
    /// Why not.
    pub fn enter(&self, asked: Asked) -> Result<Entered, Refused> {
        if asked.trace.len() > limits::TRACEPARENT_BYTES_MAX {
            return Err(Refused::OverLimit {
                field: "header.traceparent",
                actual: asked.trace.len() as u64,
                limit: "traceparent_bytes_max",
                max: limits::TRACEPARENT_BYTES_MAX as u64,
                fix: "a W3C trace context has 55 bytes",
            });
        }
        self.observe(asked.stamp)?;
        let hall = self.router.hall();
        let keyspace = hall.keyspace(&asked.keyspace)?.clone();
        let session = session(&asked.session_token, &hall, &keyspace)?;
        Ok(Entered { hall, keyspace, stamp: asked.stamp, trace: asked.trace, session })
    }

    /// Adopts a stamp a client brought (rule T1); 0 = it has none yet.
    ///
    /// # Errors
    /// It is too far ahead, or the node is draining.
    pub fn observe(&self, stamp: Stamp) -> Result<(), Refused> {
        if self.is_draining() {
            return Err(Refused::Draining);
        }
        if stamp == Stamp::default() {
            return Ok(());
        }
        self.node
            .observe(stamp)
            .map_err(|ahead_ms| Refused::StampAhead { ahead_ms, max_ms: self.clock_offset_max.as_millis() as u64 })
    }

    /// Admits a request of that many bytes.
    ///
    /// # Errors
    /// The node is at a limit.
    pub fn admit(&self, bytes: usize) -> Result<Permit, Refused> {
        self.admission.request(bytes as u64)
    }

    /// Whether the node is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Refuses new requests from now on; streams end when what is in flight is answered.
    pub fn drain(&self) {
        self.draining.send_replace(true);
    }

    /// Where to go with a request for a shard that has no replica here: to the node that should lead it, or to one that
    /// lives.
    #[must_use]
    pub fn hint(&self, hall: &Hall, row: &ShardRow) -> Option<LeaderHint> {
        let holders = row.replicas.iter().filter(|replica| replica.is_in()).map(|replica| replica.node);
        let mut candidates: Vec<NodeId> = std::iter::once(row.leader_wish).chain(holders).collect();
        candidates.retain(|node| *node != self.id);
        let liveness = self.node.liveness();
        let best = candidates.iter().find(|node| liveness.is_alive(**node)).or(candidates.first())?;
        let address = hall.map.nodes.get(best)?.client.clone();
        Some(LeaderHint { node: *best, address })
    }
}

impl Entered {
    /// What a shard is told about a request.
    #[must_use]
    pub fn context(&self, route: &ShardRoute, epoch: u64, timeout: Duration) -> RequestContext {
        RequestContext {
            timeout,
            stamp: self.stamp,
            trace: self.trace.clone(),
            session: self.session.as_ref().map(|token| part_of(token, route)),
            epoch: (epoch > 0).then_some(epoch),
        }
    }

    /// Number of its keyspace.
    #[must_use]
    pub fn keyspace_id(&self) -> KeyspaceId {
        self.keyspace.row.id
    }
}

/// What a token says about one shard: it may name thousands.
fn part_of(token: &SessionToken, route: &ShardRoute) -> SessionToken {
    let seen = token.shards.get_key_value(&route.row.shard).map(|(shard, seen)| (*shard, *seen));
    SessionToken { keyspace: token.keyspace, stamp: token.stamp, shards: seen.into_iter().collect() }
}

/// A token is of this keyspace or of no use.
fn session(token: &Bytes, hall: &Hall, keyspace: &Keyspace) -> Result<Option<Arc<SessionToken>>, Refused> {
    if token.is_empty() {
        return Ok(None);
    }
    let malformed = |problem: String| Refused::Malformed { field: "session_token", problem };
    let token = SessionToken::decode(token).map_err(|error| malformed(error.0))?;
    let own = &keyspace.row;
    if token.keyspace == own.id {
        return Ok(Some(Arc::new(token)));
    }
    let fix = "begin a new session, or hand over a token that a reply of this keyspace carried";
    Err(malformed(match hall.map.keyspaces.get(&token.keyspace) {
        Some(other) => format!(
            "is of keyspace {} (number {}), this request is for {} (number {}): {fix}",
            other.name, other.id, own.name, own.id
        ),
        None => format!(
            "is of a keyspace that was dropped (number {}), this request is for {} (number {}): {fix}",
            token.keyspace, own.name, own.id
        ),
    }))
}
