//! The bulkhead of one node: how much may wait for it at once.
//!
//! **Invariant.** What one slow node holds of this client is bounded, in operations and in bytes. One operation larger
//! than the limit of bytes passes alone.

use crate::failure::Failure;
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Debug, Default)]
struct Load {
    operations: usize,
    bytes: usize,
}

/// Admits operations to one node.
#[derive(Debug)]
pub(crate) struct Gate {
    load: Mutex<Load>,
    operations_max: usize,
    bytes_max: usize,
}

/// Room for one operation; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    pub(crate) fn new(operations_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(Gate { load: Mutex::default(), operations_max, bytes_max })
    }

    /// Room for an operation of `bytes`. Who is refused lets others run first: one that asks again at once, and for
    /// ever, would keep those inside from ever coming out.
    ///
    /// # Errors
    /// There is none: the failure names the limit.
    pub(crate) async fn admit(self: &Arc<Self>, bytes: usize, node: &str) -> Result<Pass, Failure> {
        let admitted = self.enter(bytes, node);
        if admitted.is_err() {
            tokio::task::yield_now().await;
        }
        admitted
    }

    fn enter(self: &Arc<Self>, bytes: usize, node: &str) -> Result<Pass, Failure> {
        let mut load = self.load.lock();
        if load.operations >= self.operations_max {
            return Err(Failure::overloaded("in_flight_operations_max", self.operations_max, node));
        }
        if load.bytes > 0 && load.bytes + bytes > self.bytes_max {
            return Err(Failure::overloaded("in_flight_bytes_max", self.bytes_max, node));
        }
        load.operations += 1;
        load.bytes += bytes;
        drop(load);
        Ok(Pass { gate: self.clone(), bytes })
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut load = self.gate.load.lock();
        load.operations -= 1;
        load.bytes -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FailureKind;
    use kvorum_api::Effect;

    #[test]
    fn over_the_limit_is_refused_with_its_name_and_room_comes_back() {
        let gate = Gate::new(2, 100);
        let first = gate.enter(60, "n1").unwrap();
        let refused = gate.enter(41, "n1").unwrap_err();
        assert_eq!((refused.limit.as_deref(), refused.kind), (Some("in_flight_bytes_max"), FailureKind::Throttled));
        assert_eq!(refused.effect, Effect::None);
        let second = gate.enter(40, "n1").unwrap();
        let refused = gate.enter(0, "n1").unwrap_err();
        assert_eq!(refused.limit.as_deref(), Some("in_flight_operations_max"));
        drop((first, second));
        let alone = gate.enter(1_000, "n1").unwrap();
        assert!(gate.enter(1, "n1").is_err(), "what is larger than the limit passes alone");
        drop(alone);
    }

    /// On one thread, a caller that never gives up and the one it waits for.
    #[tokio::test]
    async fn who_asks_again_at_once_lets_those_inside_come_out() {
        let gate = Gate::new(1, 100);
        let inside = gate.enter(1, "n1").unwrap();
        let mut leaving = tokio::task::JoinSet::new();
        leaving.spawn(async move { drop(inside) });
        let asking = async {
            for attempt in 0..1_000 {
                if gate.admit(1, "n1").await.is_ok() {
                    return attempt;
                }
            }
            panic!("nobody came out");
        };
        assert!(asking.await > 0);
        leaving.join_all().await;
    }
}
