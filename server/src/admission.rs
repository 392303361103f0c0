//! Admission: how many requests, and how many bytes of them, are being worked on at once.
//!
//! **Invariant.** A permit is taken before work begins and given back when it ends, however it ends. Nobody waits here:
//! a queue at the door would only hide the overload from the one who could go elsewhere.

use kvorum_api::Refused;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bytes every request costs besides its content: headers, tasks, bookkeeping.
pub const REQUEST_BYTES_MIN: u64 = 1 << 10;

/// One bounded quantity.
#[derive(Debug)]
struct Gauge {
    name: &'static str,
    max: u64,
    used: AtomicU64,
}

impl Gauge {
    fn new(name: &'static str, max: u64) -> Self {
        Gauge { name, max, used: AtomicU64::new(0) }
    }

    fn take(&self, amount: u64) -> Result<(), Refused> {
        let fits = |used: u64| used.checked_add(amount).filter(|sum| *sum <= self.max);
        match self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refused::Overloaded { limit: self.name, max: self.max }),
        }
    }

    fn give_back(&self, amount: u64) {
        let before = self.used.fetch_sub(amount, Ordering::AcqRel);
        assert!(before >= amount, "{}: more is given back than was taken", self.name);
    }
}

/// What the doors of one node admit.
#[derive(Debug)]
pub struct Admission {
    bytes: Gauge,
    requests: Gauge,
    scans: Gauge,
}

/// What is in use now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Bytes of requests.
    pub bytes: u64,
    /// Requests.
    pub requests: u64,
    /// Scans among them.
    pub scans: u64,
}

/// What one request may use, until dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    bytes: u64,
    is_scan: bool,
}

impl Admission {
    /// Nothing in use.
    #[must_use]
    pub fn new(bytes_max: u64, requests_max: u64, scans_max: u64) -> Arc<Self> {
        Arc::new(Admission {
            bytes: Gauge::new("request_bytes_in_flight_max", bytes_max),
            requests: Gauge::new("requests_in_flight_max", requests_max),
            scans: Gauge::new("scans_max", scans_max),
        })
    }

    /// Admits a request of that many bytes.
    ///
    /// # Errors
    /// `Overloaded`, naming the limit.
    pub fn request(self: &Arc<Self>, bytes: u64) -> Result<Permit, Refused> {
        self.take(bytes + REQUEST_BYTES_MIN, false)
    }

    /// Admits a scan that holds at most that many bytes at a time.
    ///
    /// # Errors
    /// `Overloaded`, naming the limit.
    pub fn scan(self: &Arc<Self>, bytes: u64) -> Result<Permit, Refused> {
        self.take(bytes + REQUEST_BYTES_MIN, true)
    }

    fn take(self: &Arc<Self>, bytes: u64, is_scan: bool) -> Result<Permit, Refused> {
        self.requests.take(1)?;
        let rest = self.bytes.take(bytes).and_then(|()| {
            let scans = self.scans.take(u64::from(is_scan));
            scans.inspect_err(|_| self.bytes.give_back(bytes))
        });
        rest.inspect_err(|_| self.requests.give_back(1))?;
        Ok(Permit { admission: self.clone(), bytes, is_scan })
    }

    /// What is in use now.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        InFlight {
            bytes: self.bytes.used.load(Ordering::Relaxed),
            requests: self.requests.used.load(Ordering::Relaxed),
            scans: self.scans.used.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.scans.give_back(u64::from(self.is_scan));
        self.admission.bytes.give_back(self.bytes);
        self.admission.requests.give_back(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_of(refused: Result<Permit, Refused>) -> &'static str {
        match refused {
            Err(Refused::Overloaded { limit, .. }) => limit,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn what_is_over_a_limit_is_refused_by_its_name_and_costs_nothing() {
        let admission = Admission::new(10 << 10, 3, 1);
        let first = admission.request(8 << 10).unwrap();
        assert_eq!(limit_of(admission.request(1 << 10)), "request_bytes_in_flight_max");
        let scan = admission.scan(0).unwrap();
        drop(first);
        assert_eq!(limit_of(admission.scan(0)), "scans_max");
        let (_second, _third) = (admission.request(0).unwrap(), admission.request(0).unwrap());
        assert_eq!(limit_of(admission.request(0)), "requests_in_flight_max");
        drop(scan);
        assert_eq!(admission.in_flight(), InFlight { bytes: 2 << 10, requests: 2, scans: 0 });
    }

    #[test]
    fn a_permit_is_given_back_however_the_work_ends() {
        let admission = Admission::new(1 << 20, 10, 10);
        let permit = admission.request(100).unwrap();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _held = permit;
            panic!("work failed");
        }));
        assert!(panicked.is_err());
        assert_eq!(admission.in_flight(), InFlight { bytes: 0, requests: 0, scans: 0 });
    }

    #[test]
    fn a_size_near_the_end_of_the_numbers_is_refused_not_wrapped() {
        let admission = Admission::new(1 << 20, 10, 10);
        let _held = admission.request(100).unwrap();
        assert!(admission.request(u64::MAX - 2_000).is_err());
    }
}
