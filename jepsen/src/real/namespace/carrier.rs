//! Carries packets from device to device, as the switch decides.
//!
//! ```text
//!   device of n1 ─ read ─▶ switch ─ now ────────────────▶ write ─ device of n2
//!                            └─ later ─▶ deliver, when due ─▶ write
//! ```
//!
//! **Invariant.** Nothing waits for a device: what it does not take at once is lost, as on a real wire, and counted.

use super::switch::{Onward, Passage, Switch};
use crate::real::fabric::End;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tun_rs::AsyncDevice;

/// Bytes of the largest packet there is.
const PACKET_BYTES_MAX: usize = 65_535;

/// The wires in this process' hands.
struct Wires {
    devices: BTreeMap<End, AsyncDevice>,
    switch: Arc<Mutex<Switch>>,
    /// Told when something is due earlier than anything before.
    sooner: Notify,
}

/// Carries until the tasks are dropped.
pub fn carry(devices: BTreeMap<End, AsyncDevice>, switch: Arc<Mutex<Switch>>) -> JoinSet<()> {
    let ends: Vec<End> = devices.keys().copied().collect();
    let wires = Arc::new(Wires { devices, switch, sooner: Notify::new() });
    let mut tasks = JoinSet::new();
    for end in ends {
        tasks.spawn(read(end, wires.clone()));
    }
    tasks.spawn(deliver(wires));
    tasks
}

async fn read(from: End, wires: Arc<Wires>) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let length = match wires.devices[&from].recv(&mut buffer).await {
            Ok(length) => length,
            Err(error) => {
                // Somebody removed the device: this end keeps silent from now on, and everybody will see that.
                tracing::error!(end = %from, %error, "device of the switch is gone");
                return;
            }
        };
        let packet = &buffer[..length];
        let onward = wires.switch.lock().take(from, packet, Instant::now());
        match onward {
            Onward::Now(passage) => wires.hand_over(&passage, packet),
            Onward::Later { is_next: true } => wires.sooner.notify_one(),
            Onward::Later { is_next: false } | Onward::Gone => {}
        }
    }
}

async fn deliver(wires: Arc<Wires>) {
    loop {
        let next = wires.switch.lock().next_due();
        // The word of something sooner first: it moves the moment that is waited for.
        tokio::select! {
            biased;
            () = wires.sooner.notified() => continue,
            () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {}
        }
        loop {
            let due = wires.switch.lock().due(Instant::now());
            let Some((passage, bytes)) = due else { break };
            wires.hand_over(&passage, &bytes);
        }
    }
}

impl Wires {
    fn hand_over(&self, passage: &Passage, packet: &[u8]) {
        let is_taken = self.devices.get(&passage.to).is_some_and(|device| device.try_send(packet).is_ok());
        let mut switch = self.switch.lock();
        match is_taken {
            true => switch.arrived(passage),
            false => switch.lost(passage),
        }
    }
}
