//! Options: every wait and every queue of the client has a number.

use std::time::Duration;

/// How requests travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// One stream of frames per node: what queues while a frame is on its way rides the next. A node that offers none
    /// is asked one by one.
    #[default]
    Stream,
    /// One gRPC call per request.
    Unary,
}

/// How a [`crate::Client`] behaves. Start from [`Options::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Total time of one call over all its attempts, unless the call says otherwise. For a scan: the time to its first
    /// message, and the longest silence after it.
    pub timeout: Duration,
    /// Longest wait for one node's answer (sent along as the request's deadline) before the same request (writes: under
    /// the same id) goes to another node.
    pub attempt_timeout: Duration,
    /// Longest wait for a connection and the first words on it.
    pub connect_timeout: Duration,
    /// First pause between two rounds of attempts; doubles up to [`Options::backoff_max`], with jitter.
    pub backoff_min: Duration,
    /// Longest pause between two rounds of attempts.
    pub backoff_max: Duration,
    /// How long a node that kept silent is passed over while there are others, also when they still name it as leader,
    /// before it is probed. Doubles while probes fail, three times at most.
    pub avoid: Duration,
    /// A node whose mean time to an answer is above this is asked after the others, where there is a choice.
    pub slow: Duration,
    /// W3C trace context sent with every request; `None` sends none.
    pub traceparent: Option<String>,
    /// How requests travel.
    pub transport: Transport,
    /// Operations of this client one node may hold at once, queued or sent. One more fails at once, throttled.
    pub in_flight_operations_max: usize,
    /// Bytes of keys and values of this client one node may hold at once.
    pub in_flight_bytes_max: usize,
}

impl Options {
    /// Requests travel this way.
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(500),
            avoid: Duration::from_secs(2),
            slow: Duration::from_secs(1),
            traceparent: None,
            transport: Transport::default(),
            in_flight_operations_max: 1_024,
            in_flight_bytes_max: 64 << 20,
        }
    }
}
