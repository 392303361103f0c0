//! The door: what every request passes before it crosses the hall.
//!
//! ```text
//!   draining? ─▶ header ─▶ stamp (T1) ─▶ keyspace ─▶ deadline ─▶ permit ─▶ work
//! ```
//!
//! **Invariant.** A request that is refused here has touched nothing: `Effect::None`.

use super::deadline;
use crate::{
    admission::{Admission, Permit},
    config::Limits,
    router::{Keyspace, Router},
};
use kvorum_api::{ClusterId, NodeId, Refused, Stamp, limits, proto};
use kvorum_consensus::{Node, RequestContext};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;

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
    /// Tasks that feed scans; waited for at an orderly stop.
    pub scans: TaskTracker,
    /// Whether new requests are refused.
    pub is_draining: AtomicBool,
}

/// A unary request that was let in.
pub struct Entered {
    /// Its keyspace.
    pub keyspace: Arc<Keyspace>,
    /// What the shard is told.
    pub context: RequestContext,
    /// When the door answers in the shard's place.
    pub deadline: Instant,
    /// Its share of the node, until it is answered.
    pub permit: Permit,
}

/// A scan that was let in.
pub struct EnteredScan {
    /// Its keyspace.
    pub keyspace: Arc<Keyspace>,
    /// What the shards are told.
    pub context: RequestContext,
    /// When its view is let go.
    pub deadline: Instant,
    /// Its share of the node, until the last message was taken.
    pub permit: Permit,
}

impl Door {
    /// Lets a unary request of `bytes` bytes in.
    ///
    /// # Errors
    /// Why not.
    pub fn enter(
        &self,
        metadata: &MetadataMap,
        header: Option<proto::RequestHeader>,
        newest: Stamp,
        bytes: usize,
    ) -> Result<Entered, Refused> {
        let (keyspace, stamp, trace) = self.header(header, newest)?;
        let budget = deadline::unary(metadata, &self.limits)?;
        let permit = self.admission.request(bytes as u64)?;
        let context = RequestContext { timeout: budget.shard, stamp, trace, ..RequestContext::default() };
        Ok(Entered { keyspace, context, deadline: Instant::now() + budget.door, permit })
    }

    /// Lets a scan in.
    ///
    /// # Errors
    /// Why not.
    pub fn enter_scan(
        &self,
        metadata: &MetadataMap,
        header: Option<proto::RequestHeader>,
    ) -> Result<EnteredScan, Refused> {
        let (keyspace, stamp, trace) = self.header(header, Stamp::default())?;
        let whole = deadline::scan(metadata, &self.limits)?;
        // One message on the wire, one waiting.
        let permit = self.admission.scan(2 * limits::SCAN_MESSAGE_BYTES_MAX as u64)?;
        let timeout = whole.min(self.limits.request_timeout_max);
        let context = RequestContext { timeout, stamp, trace, ..RequestContext::default() };
        Ok(EnteredScan { keyspace, context, deadline: Instant::now() + whole, permit })
    }

    /// Adopts a stamp a client brought (rule T1); 0 = it has none yet.
    ///
    /// # Errors
    /// It is too far ahead, or the node is draining.
    pub fn observe(&self, stamp: Stamp) -> Result<(), Refused> {
        if self.is_draining.load(Ordering::Acquire) {
            return Err(Refused::Draining);
        }
        if stamp == Stamp::default() {
            return Ok(());
        }
        self.node
            .observe(stamp)
            .map_err(|ahead_ms| Refused::StampAhead { ahead_ms, max_ms: self.clock_offset_max.as_millis() as u64 })
    }

    fn header(
        &self,
        header: Option<proto::RequestHeader>,
        newest: Stamp,
    ) -> Result<(Arc<Keyspace>, Stamp, String), Refused> {
        let header = header.ok_or_else(|| Refused::Malformed {
            field: "header",
            problem: "is missing: it names the keyspace".into(),
        })?;
        if header.traceparent.len() > limits::TRACEPARENT_BYTES_MAX {
            return Err(Refused::OverLimit {
                field: "header.traceparent",
                actual: header.traceparent.len() as u64,
                limit: "traceparent_bytes_max",
                max: limits::TRACEPARENT_BYTES_MAX as u64,
                fix: "a W3C trace context has 55 bytes",
            });
        }
        let stamp = Stamp(header.stamp).max(newest);
        self.observe(stamp)?;
        Ok((self.router.keyspace(&header.keyspace)?.clone(), stamp, header.traceparent))
    }
}
