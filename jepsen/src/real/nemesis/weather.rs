//! Bad weather on the links between nodes: delay, jitter, loss.

use super::{Cluster, Nemesis, Outcome, Wish, aim, count, partition::meanwhile, told};
use crate::{
    history::Value,
    real::{
        fabric::{Link, Observed, Weather},
        units,
    },
};
use anyhow::{Context, Result, bail};
use futures::future::BoxFuture;
use rand::rngs::SmallRng;
use std::time::Duration;

/// Weather on some links.
pub struct BadWeather {
    target: String,
    chance: SmallRng,
    weather: Weather,
    links: Vec<Link>,
    before: Observed,
}

impl BadWeather {
    /// Changes nothing yet. Refuses weather that is none.
    pub fn new(wish: &Wish, target: &str, chance: SmallRng) -> Result<Self> {
        let read = |field: &Option<String>, name: &str| match field {
            None => Ok(Duration::ZERO),
            Some(text) => units::duration(text).with_context(|| format!("faults: weather: {name}")),
        };
        let weather = Weather {
            delay: read(&wish.delay, "delay")?,
            jitter: read(&wish.jitter, "jitter")?,
            loss_percent: wish.loss_percent.unwrap_or_default(),
        };
        if !(0.0..=100.0).contains(&weather.loss_percent) {
            bail!("faults: weather: loss_percent is {}: write 0 to 100", weather.loss_percent);
        }
        if weather == Weather::default() {
            bail!("faults: weather without delay, jitter or loss_percent does nothing");
        }
        let (links, before) = (Vec::new(), Observed::default());
        Ok(BadWeather { target: target.to_owned(), chance, weather, links, before })
    }
}

impl Nemesis for BadWeather {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let under = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            let numbers = cluster.numbers();
            let pairs = numbers.iter().flat_map(|one| numbers.iter().map(|other| (*one, *other)));
            let hit = pairs.filter(|(one, other)| one != other && (under.contains(one) || under.contains(other)));
            self.links = hit.map(|(one, other)| Link::between(one, other)).collect();
            self.before = cluster.fabric.observed();
            self.links.iter().for_each(|link| cluster.fabric.degrade(*link, self.weather));
            let Weather { delay, jitter, loss_percent } = self.weather;
            let weather = format!("{} ms + {} ms, {loss_percent} % lost", delay.as_millis(), jitter.as_millis());
            Ok(Outcome::Installed(told(&under, [("weather", Value::Text(weather))])))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move {
            let carried = meanwhile(&self.links, &self.before, &cluster.fabric.observed());
            self.links.iter().for_each(|link| cluster.fabric.degrade(*link, Weather::default()));
            let seen = [
                ("disturbed", count(carried.disturbed)),
                ("resets", count(carried.resets)),
                ("dropped_bytes", count(carried.dropped_bytes)),
            ];
            Ok(told(&[], seen))
        })
    }
}
