//! # Cuda: a query as one kernel over all chunks, on a device
//!
//! ```text
//!   Query + layouts ─shape─▶ words a group ─source─▶ kernel ─▶ device: compile (cached), move what is missing, launch
//!                                                                │
//!   Partial ◀── words ◀───────────────────────────────────────── one thread owns the device; others send it requests
//! ```
//!
//! **Invariant.** Whatever goes wrong on the way, from a driver that is not there to a device that is lost, is
//! [`ScanError::Unable`], never a panic: another kernel answers. Everything kept on the device is whole numbers, so the
//! same query gives the same bits.
//!
//! **Deliberately absent.** Sketches, variances, sums of f64 expressions, groups by f64: they are left to the
//! processor.

mod device;
mod engine;
mod layout;
mod shape;
mod source;

use super::{Cost, Kernel, ScanError};
use crate::{aggregate::Partial, chunk::Chunk, limits::Limits, query::Query};
use engine::Engine;
use std::sync::{
    Arc,
    mpsc::{SyncSender, sync_channel},
};

/// Requests that may wait for the device.
const WAITING_MAX: usize = 64;

/// The kernel for a device, as a handle on the thread that owns it.
#[derive(Clone, Debug)]
pub struct Cuda {
    requests: SyncSender<Request>,
    name: String,
}

/// One scan, and where its answer goes.
struct Request {
    query: Query,
    chunks: Vec<Arc<Chunk>>,
    limits: Limits,
    reply: SyncSender<Result<(Partial, Cost), ScanError>>,
}

/// What has to be implemented to run kernels somewhere: memory of 64-bit words, and launches over it.
///
/// Two do: the driver (`device`), and in tests a C++ compiler for the processor.
pub(crate) trait Device {
    /// What it is called.
    fn name(&self) -> String;
    /// Words that may be kept there.
    fn words_max(&self) -> u64;
    /// Room for words; where it is.
    fn allocate(&mut self, words: usize) -> Result<u64, String>;
    /// Fills room from its beginning. May return before the words are there; launches wait for them.
    fn write(&mut self, address: u64, words: &[u64]) -> Result<(), String>;
    /// Runs the kernel `scan` of a source over a table of chunks.
    fn launch(&mut self, source: &str, table: u64, chunks: u64, out: u64, error: u64) -> Result<(), String>;
    /// Waits for everything, and reads room from its beginning.
    fn read(&mut self, address: u64, words: usize) -> Result<Vec<u64>, String>;
    /// Gives room back.
    fn free(&mut self, address: u64);
}

/// Looks for a driver and a device, and starts the thread that owns it.
///
/// # Errors
/// Says why there is none.
pub fn open() -> Result<Cuda, String> {
    start(|| device::Driver::open().map(|driver| Box::new(driver) as Box<dyn Device>))
}

/// Starts the thread that owns a device; the device is made there, since it may not move.
fn start(make: impl FnOnce() -> Result<Box<dyn Device>, String> + Send + 'static) -> Result<Cuda, String> {
    let (requests, received) = sync_channel::<Request>(WAITING_MAX);
    let (ready, is_ready) = sync_channel(1);
    let work = move || {
        let mut engine = match make() {
            Ok(device) => {
                let _ = ready.send(Ok(device.name()));
                Engine::new(device)
            }
            Err(reason) => {
                let _ = ready.send(Err(reason));
                return;
            }
        };
        // Ends when the last handle is gone.
        for request in received {
            let answer = engine.scan(&request.query, &request.chunks, &request.limits);
            let _nobody_waits = request.reply.send(answer);
        }
    };
    std::thread::Builder::new().name("cuda".to_owned()).spawn(work).map_err(|error| error.to_string())?;
    let name = is_ready.recv().map_err(|_| "the driver gave up".to_owned())??;
    Ok(Cuda { requests, name })
}

impl Cuda {
    /// What the device is called.
    #[must_use]
    pub fn device_name(&self) -> &str {
        &self.name
    }
}

impl Kernel for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn scan(&self, query: &Query, chunks: &[Arc<Chunk>], limits: &Limits) -> Result<(Partial, Cost), ScanError> {
        let lost = || ScanError::Unable("the thread that owns the device is gone".to_owned());
        let (reply, answer) = sync_channel(1);
        let request = Request { query: query.clone(), chunks: chunks.to_vec(), limits: *limits, reply };
        self.requests.send(request).map_err(|_| lost())?;
        answer.recv().map_err(|_| lost())?
    }
}

#[cfg(test)]
mod tests;
