//! What is told on stderr while an experiment runs: a line a second.

use super::measure::Stretch;
use crate::{history::Kind, workload::Recorder};
use std::{io::IsTerminal as _, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, interval},
};

/// One line on stderr.
#[expect(clippy::print_stderr, reason = "progress is told where results are not")]
pub fn line(text: &str) {
    eprintln!("{text}");
}

/// Tells how operations go, every second, until it is over. Only to people: a log of a pipeline needs no heartbeat.
pub async fn watch(recorders: Vec<Arc<Recorder>>, begun: Instant, mut is_over: watch::Receiver<bool>) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let mut seconds = interval(Duration::from_secs(1));
    let mut known = vec![0; recorders.len()];
    loop {
        // The end first: nobody waits for a line that says nothing new.
        tokio::select! {
            biased;
            _ = is_over.wait_for(|is_over| *is_over) => return,
            _ = seconds.tick() => {}
        }
        let mut stretch = Stretch::default();
        for (recorder, known) in recorders.iter().zip(&mut known) {
            let fresh = recorder.samples_from(*known);
            *known += fresh.len();
            stretch.samples.extend(fresh);
        }
        line(&format!("{:5.1} s  {}", begun.elapsed().as_secs_f64(), sentence(&stretch)));
    }
}

fn sentence(stretch: &Stretch) -> String {
    let latency = stretch.latency_ms(99, |_| true).map(|ms| format!(", p99 {ms:.0} ms")).unwrap_or_default();
    format!(
        "{} answered, {} failed, {} unknown{latency}",
        stretch.count(Kind::Ok),
        stretch.count(Kind::Fail),
        stretch.count(Kind::Info),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Sample;

    #[test]
    fn a_second_is_told_in_a_line() {
        let sample = Sample { invoked_ns: 0, ended_ns: 7_000_000, kind: Kind::Ok, is_write: true, shard: None };
        let stretch = Stretch { samples: vec![sample, Sample { kind: Kind::Info, ..sample }], ..Stretch::default() };
        assert_eq!(sentence(&stretch), "1 answered, 0 failed, 1 unknown, p99 7 ms");
        assert_eq!(sentence(&Stretch::default()), "0 answered, 0 failed, 0 unknown");
    }
}
