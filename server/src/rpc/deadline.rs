//! Deadlines: how long a request may take, from `grpc-timeout` and the configuration.
//!
//! ```text
//!   grpc-timeout ─┬─ at most request_timeout_max ──▶ budget ──▶ minus the way back ──▶ what the shard is given
//!        absent ──┘  request_timeout_default
//! ```
//!
//! **Invariant.** The shard's answer has time to travel: tonic cuts a request off at the client's own deadline, and an
//! answer that was cut off could not say whether the write happened.

use crate::config::Limits;
use kvorum_api::Refused;
use std::time::Duration;
use tonic::metadata::MetadataMap;

/// What the way back takes at most of a budget, and at most at all.
const WAY_BACK_SHARE: u32 = 10;
const WAY_BACK_MAX: Duration = Duration::from_millis(50);

/// How long one request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// What the shard is given.
    pub shard: Duration,
    /// When the door answers in the shard's place.
    pub door: Duration,
}

impl Budget {
    fn new(whole: Duration) -> Self {
        let way_back = (whole / WAY_BACK_SHARE).min(WAY_BACK_MAX);
        Budget { shard: whole - way_back, door: whole - way_back / 2 }
    }
}

/// The budget of a unary request.
///
/// # Errors
/// A `grpc-timeout` that cannot be read.
pub fn unary(metadata: &MetadataMap, limits: &Limits) -> Result<Budget, Refused> {
    let asked = grpc_timeout(metadata)?.unwrap_or(limits.request_timeout_default);
    Ok(Budget::new(asked.min(limits.request_timeout_max)))
}

/// The budget of a call within a frame; 0 = it names none.
#[must_use]
pub fn call(deadline_ms: u32, limits: &Limits) -> Budget {
    let asked = match deadline_ms {
        0 => limits.request_timeout_default,
        ms => Duration::from_millis(ms.into()),
    };
    Budget::new(asked.min(limits.request_timeout_max))
}

/// How long a scan may hold its view.
///
/// # Errors
/// A `grpc-timeout` that cannot be read.
pub fn scan(metadata: &MetadataMap, limits: &Limits) -> Result<Duration, Refused> {
    let asked = grpc_timeout(metadata)?.unwrap_or(limits.scan_timeout_max);
    Ok(asked.min(limits.scan_timeout_max))
}

/// At most eight digits and a unit, as the gRPC protocol has it.
fn grpc_timeout(metadata: &MetadataMap) -> Result<Option<Duration>, Refused> {
    let Some(header) = metadata.get("grpc-timeout") else { return Ok(None) };
    let read = || {
        let text = header.to_str().ok()?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let number: u64 = digits.parse().ok()?;
        Some(match unit {
            "H" => Duration::from_secs(number * 3_600),
            "M" => Duration::from_secs(number * 60),
            "S" => Duration::from_secs(number),
            "m" => Duration::from_millis(number),
            "u" => Duration::from_micros(number),
            "n" => Duration::from_nanos(number),
            _ => return None,
        })
    };
    read().map(Some).ok_or_else(|| Refused::Malformed {
        field: "grpc-timeout",
        problem: "is no timeout: write at most eight digits and one of H M S m u n, e.g. 500m".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn limits() -> Limits {
        Config::parse(None, []).unwrap().limits
    }

    fn header(text: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        metadata
    }

    #[test]
    fn the_client_chooses_within_the_maximum() {
        let budget = unary(&header("100m"), &limits()).unwrap();
        assert_eq!(budget, Budget { shard: Duration::from_millis(90), door: Duration::from_millis(95) });
        let longest = unary(&header("9H"), &limits()).unwrap();
        assert_eq!(longest.shard, limits().request_timeout_max - WAY_BACK_MAX);
        let default = unary(&MetadataMap::new(), &limits()).unwrap();
        assert_eq!(default.shard, limits().request_timeout_default - WAY_BACK_MAX);
        assert_eq!(scan(&MetadataMap::new(), &limits()).unwrap(), limits().scan_timeout_max);
        assert_eq!(call(100, &limits()), budget);
        assert_eq!(call(0, &limits()), default);
        assert_eq!(call(u32::MAX, &limits()), longest);
    }

    #[test]
    fn a_timeout_that_cannot_be_read_is_refused() {
        for text in ["", "S", "5", "5x", "123456789S", "-1S"] {
            let refused = unary(&header(text), &limits());
            assert!(matches!(refused, Err(Refused::Malformed { field: "grpc-timeout", .. })), "{text:?}");
        }
    }
}
