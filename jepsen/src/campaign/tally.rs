//! What one run on real nodes counts for, from its `result.json`.
//!
//! **Invariant.** Only faults that were seen to take hold are counted.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its experiment.
    pub experiment: String,
    /// What it was drawn from.
    pub seed: u64,
    /// How long faults happened.
    pub seconds: u64,
    /// How many nodes there were.
    pub nodes: u64,
    /// What connected them.
    pub network: String,
    /// `ok`, `violation`, `unknown`, `vacuous`, or `none`: the harness failed.
    pub verdict: String,
    /// Why it is not ok.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Operations that were judged.
    pub operations: u64,
    /// Processes ended by `kill -9`.
    pub kills: u64,
    /// Nodes that lost power.
    pub power_losses: u64,
    /// By fault: how often it was installed, skipped, indeterminate.
    pub faults: BTreeMap<String, [u64; 3]>,
    /// By what operators were for: how many there were, were carried out, given up, called off.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub operators: BTreeMap<String, [u64; 4]>,
    /// From each kill of a leader to the next acknowledged write on a shard it led; `null` = never.
    pub leader_kill_recoveries_ms: Vec<Option<u64>>,
    /// The command that runs it again.
    pub replay: String,
}

impl Run {
    /// Reads a result.
    ///
    /// # Errors
    /// A field that is missing, named.
    pub fn of(result: &Json) -> Result<Self> {
        let text = |name: &str| {
            result[name].as_str().map(str::to_owned).with_context(|| format!("the result says nothing of its {name}"))
        };
        let number =
            |name: &str| result[name].as_u64().with_context(|| format!("the result says nothing of its {name}"));
        let operations = ["ok", "fail", "unknown"].iter().filter_map(|kind| result["operations"][kind].as_u64()).sum();
        let mut run = Run {
            experiment: text("experiment")?,
            seed: number("seed")?,
            seconds: number("seconds")?,
            nodes: number("nodes")?,
            network: result["network"]["name"].as_str().unwrap_or_default().to_owned(),
            verdict: text("verdict")?,
            operations,
            replay: text("replay")?,
            ..Run::default()
        };
        let reasons = result["reasons"].as_array().into_iter().flatten();
        let bad = reasons.filter(|reason| reason["verdict"] != "ok").find_map(|reason| reason["reason"].as_str());
        run.reason = bad.map(str::to_owned);
        for fault in result["faults"].as_array().context("the result says nothing of its faults")? {
            run.count(fault);
        }
        for ended in result["operators"].as_array().into_iter().flatten() {
            let what = ended["what"].as_str().unwrap_or_default().to_owned();
            run.operators
                .insert(what, ["count", "done", "failed", "cancelled"].map(|of| ended[of].as_u64().unwrap_or(0)));
        }
        Ok(run)
    }

    fn count(&mut self, fault: &Json) {
        let name = fault["fault"].as_str().unwrap_or_default();
        let place = match fault["outcome"].as_str() {
            Some("installed") => 0,
            Some("skipped") => 1,
            _ => 2,
        };
        self.faults.entry(name.to_owned()).or_default()[place] += 1;
        if place != 0 {
            return;
        }
        let nodes = fault["told"]["nodes"].as_array().map_or(0, |nodes| nodes.len() as u64);
        match name.split(' ').next() {
            Some("kill" | "replace" | "grow-and-drain") => {
                self.kills += nodes;
                if fault["leader_of_shards"].as_array().is_some_and(|shards| !shards.is_empty()) {
                    self.leader_kill_recoveries_ms.push(fault["recovery_ms"].as_u64());
                }
            }
            Some("flip-journal" | "flip-engine") => self.kills += nodes,
            Some("restart-storm") => self.kills += fault["told"]["restarts"].as_u64().unwrap_or(0),
            Some("power-loss") => self.power_losses += nodes,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result(faults: &Json) -> Json {
        json!({
            "experiment": "mixture", "seed": 5, "replay": "jepsen run mixture --seed 5", "verdict": "violation",
            "reasons": [{"verdict": "ok", "reason": "x"}, {"verdict": "violation", "reason": "a stale read"}],
            "nodes": 3, "seconds": 60, "network": {"name": "loopback proxies"},
            "operations": {"ok": 90, "fail": 8, "unknown": 2}, "faults": faults,
        })
    }

    #[test]
    fn what_took_hold_is_counted() {
        let run = Run::of(&result(&json!([
            {"fault": "kill leader", "outcome": "installed", "told": {"nodes": ["n2"]}, "leader_of_shards": [1],
             "recovery_ms": 850},
            {"fault": "kill all", "outcome": "installed", "told": {"nodes": ["n1", "n2", "n3"]},
             "leader_of_shards": [1], "recovery_ms": null},
            {"fault": "kill one", "outcome": "installed", "told": {"nodes": ["n3"]}, "leader_of_shards": []},
            {"fault": "kill leader", "outcome": "skipped", "told": "nobody leads", "leader_of_shards": []},
            {"fault": "power-loss all", "outcome": "installed", "told": {"nodes": ["n1", "n2", "n3"]}},
            {"fault": "power-loss one", "outcome": "indeterminate", "told": "killed, and nothing lost"},
            {"fault": "restart-storm all", "outcome": "installed", "told": {"nodes": ["n1"], "restarts": 6}},
            {"fault": "grow-and-drain all", "outcome": "installed", "told": {"nodes": ["n3"]}, "leader_of_shards": [1],
             "recovery_ms": 1200},
            {"fault": "replace one", "outcome": "installed", "told": {"nodes": ["n3"]}, "leader_of_shards": []},
            {"fault": "drain one", "outcome": "installed", "told": {"nodes": [], "drained": "n2"}},
        ])))
        .unwrap();
        assert_eq!((run.kills, run.power_losses, run.operations), (13, 3, 100));
        assert_eq!(run.leader_kill_recoveries_ms, [Some(850), None, Some(1200)]);
        assert_eq!((run.faults["kill leader"], run.faults["power-loss one"]), ([1, 1, 0], [0, 0, 1]));
        assert_eq!((run.verdict.as_str(), run.reason.as_deref()), ("violation", Some("a stale read")));
    }

    #[test]
    fn operators_are_counted_by_what_they_were_for() {
        let mut told = result(&json!([]));
        assert!(Run::of(&told).unwrap().operators.is_empty());
        told["operators"] = json!([{"what": "move lead", "count": 4, "done": 2, "failed": 1, "cancelled": 1}]);
        assert_eq!(Run::of(&told).unwrap().operators["move lead"], [4, 2, 1, 1]);
    }

    #[test]
    fn a_result_without_faults_is_no_result() {
        let mut broken = result(&json!([]));
        broken.as_object_mut().unwrap().remove("faults");
        assert!(Run::of(&broken).unwrap_err().to_string().contains("faults"));
    }
}
