//! Experiments that come with the program.
//!
//! **Invariant.** Every file of `jepsen/experiments` is here, under the name it has inside.

/// By name: the texts of the files.
pub const LIBRARY: &[(&str, &str)] = &[
    ("all-killed", include_str!("../../experiments/all-killed.yaml")),
    ("astray", include_str!("../../experiments/astray.yaml")),
    ("asymmetric", include_str!("../../experiments/asymmetric.yaml")),
    ("clock-scramble", include_str!("../../experiments/clock-scramble.yaml")),
    ("disk-full", include_str!("../../experiments/disk-full.yaml")),
    ("everything", include_str!("../../experiments/everything.yaml")),
    ("failing-sync", include_str!("../../experiments/failing-sync.yaml")),
    ("grow-and-drain", include_str!("../../experiments/grow-and-drain.yaml")),
    ("leader-isolated", include_str!("../../experiments/leader-isolated.yaml")),
    ("leader-killed", include_str!("../../experiments/leader-killed.yaml")),
    ("lease-and-pause", include_str!("../../experiments/lease-and-pause.yaml")),
    ("long-pauses", include_str!("../../experiments/long-pauses.yaml")),
    ("membership", include_str!("../../experiments/membership.yaml")),
    ("mixture", include_str!("../../experiments/mixture.yaml")),
    ("moves", include_str!("../../experiments/moves.yaml")),
    ("partitions-of-five", include_str!("../../experiments/partitions-of-five.yaml")),
    ("power-loss-of-all", include_str!("../../experiments/power-loss-of-all.yaml")),
    ("power-loss", include_str!("../../experiments/power-loss.yaml")),
    ("retries", include_str!("../../experiments/retries.yaml")),
    ("rotting-engine", include_str!("../../experiments/rotting-engine.yaml")),
    ("rotting-journal", include_str!("../../experiments/rotting-journal.yaml")),
    ("sessions-wander", include_str!("../../experiments/sessions-wander.yaml")),
    ("slow-disk", include_str!("../../experiments/slow-disk.yaml")),
    ("smoke", include_str!("../../experiments/smoke.yaml")),
    ("storm", include_str!("../../experiments/storm.yaml")),
    ("unreachable", include_str!("../../experiments/unreachable.yaml")),
    ("weather", include_str!("../../experiments/weather.yaml")),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::Experiment;

    #[test]
    fn every_file_is_in_the_library_and_can_be_run() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
        let mut files: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let known: Vec<String> = LIBRARY.iter().map(|(name, _)| format!("{name}.yaml")).collect();
        assert_eq!(files, known);
        for (name, text) in LIBRARY {
            let experiment = Experiment::parse(text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
            assert_eq!(experiment.name, *name);
            assert!(!experiment.hypothesis.is_empty() && !experiment.steady_state.is_empty(), "{name}");
        }
    }
}
