//! Options: every wait of the client has a number.

use std::time::Duration;

/// How a [`crate::Client`] behaves. Start from [`Options::default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Total time of one call over all its attempts, unless the call says otherwise. For a scan: the time to its first
    /// message, and the longest silence after it.
    pub timeout: Duration,
    /// Longest wait for one node's answer (sent along as `grpc-timeout`) before the same request (writes: under the same
    /// id) goes to another node.
    pub attempt_timeout: Duration,
    /// Longest wait for a connection and the first words on it.
    pub connect_timeout: Duration,
    /// First pause between two rounds of attempts; doubles up to [`Options::backoff_max`], with jitter.
    pub backoff_min: Duration,
    /// Longest pause between two rounds of attempts.
    pub backoff_max: Duration,
    /// How long a node that kept silent is passed over while there are others, also when they still name it as leader.
    pub avoid: Duration,
    /// W3C trace context sent with every request; `None` sends none.
    pub traceparent: Option<String>,
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
            traceparent: None,
        }
    }
}
