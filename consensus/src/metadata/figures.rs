//! Figures: about how many bytes each shard has, learned by whoever leads the metadata; and what is foreseen with them.
//!
//! ```text
//!   leads group 0:  every 10 s ── figures? ──▶ every node that lives ──▶ bytes of the replicas it holds
//!                                                                         the largest of a shard's replicas counts
//!   anybody:        what if? ──▶ whoever leads group 0 ──▶ forecast, from the newest map and these figures
//! ```
//!
//! **Invariant.** Figures are hints: the balancer weighs by them and people read them, nothing is promised by them.
//! What is foreseen is refused for the same reasons as the change itself.

use super::{
    MetadataCommand,
    balance::Facts,
    forecast::{Forecast, forecast},
    study::Study,
    wire::{Answer, Ask, Verdict},
};
use futures::future::join_all;
use kvorum_api::{AdminError, Effect, NodeId, ShardId};
use kvorum_storage::{engine::Column, keys};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// How long one node may take to weigh what it holds.
const WEIGH_PATIENCE: Duration = Duration::from_secs(2);

/// Between two searches for whoever leads.
const SEARCH_PACE: Duration = Duration::from_millis(100);

/// What was learned, and when it was asked for last.
#[derive(Debug, Default)]
pub(super) struct Figures {
    asked: Option<Instant>,
    shards: BTreeMap<ShardId, u64>,
}

impl Study {
    /// About how many bytes of rows each replica here has.
    pub async fn weigh(&self) -> BTreeMap<ShardId, u64> {
        let (map, me, engine) = (self.map(), self.me, Arc::clone(&self.env.engine));
        let weigh = move || {
            let held = map.shards.values().filter(|row| row.replicas.iter().any(|replica| replica.node == me));
            let (shards, ranges): (Vec<ShardId>, Vec<_>) =
                held.map(|row| (row.shard, keys::data_range(row.keyspace, &row.range))).unzip();
            shards.into_iter().zip(engine.estimate(Column::Data, &ranges)).collect()
        };
        self.env.blocking.run(weigh).await
    }

    /// Asks the nodes that live how much they hold, if it is time to. Of who does not answer, the last word counts.
    pub(super) async fn learn_figures(&self) {
        let now = Instant::now();
        let is_due = self.figures.lock().asked.is_none_or(|asked| now.duration_since(asked) >= ASK_EVERY);
        if !is_due {
            return;
        }
        self.figures.lock().asked = Some(now);
        let map = self.map();
        let living = map.nodes.keys().copied().filter(|node| *node != self.me && !self.is_lost(*node));
        let told = join_all(living.map(|node| self.figures_of(node))).await;
        let mut shards: BTreeMap<ShardId, u64> = BTreeMap::new();
        for (shard, bytes) in told.into_iter().flatten().chain([self.weigh().await]).flatten() {
            let largest = shards.entry(shard).or_default();
            *largest = bytes.max(*largest);
        }
        let mut figures = self.figures.lock();
        figures.shards.retain(|shard, _| map.shards.contains_key(shard));
        figures.shards.extend(shards);
    }

    /// What the balancer is told; whoever begins to lead learns it anew.
    pub(super) fn facts(&self) -> Facts {
        Facts { lost: self.lost_for(), bytes: self.figures.lock().shards.clone() }
    }

    /// Nobody who does not lead needs them.
    pub(super) fn forget_figures(&self) {
        *self.figures.lock() = Figures::default();
    }

    async fn figures_of(&self, node: NodeId) -> Option<BTreeMap<ShardId, u64>> {
        match self.ask(node, &Ask::Figures, WEIGH_PATIENCE).await {
            Ok(Answer::Figures(figures)) => Some(figures),
            // An older build does not know the question, and a silent node answers nothing: its last word counts.
            Ok(_) | Err(_) => None,
        }
    }

    /// What a change would lead to, asked of whoever leads the metadata. Nothing is changed.
    ///
    /// # Errors
    /// As the change itself; `Unavailable` never has an effect.
    pub async fn forecast(&self, command: MetadataCommand, patience: Duration) -> Result<Forecast, AdminError> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = match self.leads() {
                true => Ok(self.foresee(&command).await),
                false => match self.find_leader(deadline).await {
                    Ok(node) => self.ask(node, &Ask::Foresee(command.clone()), left).await,
                    Err(why) => Err(why),
                },
            };
            let why = match answer {
                Ok(Answer::Forecast(forecast)) => return Ok(forecast),
                Ok(Answer::Verdict(Verdict::Refused(error))) => return Err(error),
                Ok(Answer::Verdict(Verdict::NotDone(why)) | Answer::Verdict(Verdict::Unknown(why))) => why,
                Ok(other) => format!("the metadata's leader answered {other:?}"),
                Err(why) => why,
            };
            if Instant::now() + SEARCH_PACE >= deadline {
                return Err(AdminError::Unavailable { why, effect: Effect::None });
            }
            sleep(SEARCH_PACE).await;
        }
    }

    /// The same here, if this node leads.
    pub(super) async fn foresee(&self, command: &MetadataCommand) -> Answer {
        if !self.leads() {
            return Answer::Verdict(Verdict::NotDone("this node does not lead the metadata".to_owned()));
        }
        let (map, command, facts) = (self.map(), command.clone(), self.facts());
        match self.env.blocking.run(move || forecast(&map, &command, &facts)).await {
            Ok(forecast) => Answer::Forecast(forecast),
            Err(error) => Answer::Verdict(Verdict::Refused(error)),
        }
    }
}
