//! Bad weather on the links between nodes: delay, jitter, loss, duplicates, reordering.

use super::{Cluster, Nemesis, Outcome, Seen, Wish, aim, count, partition::meanwhile, told};
use crate::{
    history::Value,
    real::{
        fabric::{Carried, Link, Observed, Weather},
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
        let share = |field: Option<f64>, name: &str| match field.unwrap_or_default() {
            percent if (0.0..=100.0).contains(&percent) => Ok(percent),
            percent => bail!("faults: weather: {name} is {percent}: write 0 to 100"),
        };
        let weather = Weather {
            delay: read(&wish.delay, "delay")?,
            jitter: read(&wish.jitter, "jitter")?,
            loss_percent: share(wish.loss_percent, "loss_percent")?,
            duplicate_percent: share(wish.duplicate_percent, "duplicate_percent")?,
            reorder_percent: share(wish.reorder_percent, "reorder_percent")?,
        };
        if weather == Weather::default() {
            bail!("faults: weather without delay, jitter or any percent does nothing");
        }
        let (links, before) = (Vec::new(), Observed::default());
        Ok(BadWeather { target: target.to_owned(), chance, weather, links, before })
    }
}

/// Whether nothing that was said meanwhile was disturbed in any way.
fn is_unmet(carried: &Carried) -> bool {
    let Carried { disturbed, dropped_bytes, resets, duplicated, overtaken, .. } = carried;
    [disturbed, dropped_bytes, resets, duplicated, overtaken].iter().all(|seen| **seen == 0)
}

/// `40 ms + 60 ms, 5 % lost`.
fn words(weather: &Weather) -> String {
    let mut words = format!("{} ms + {} ms", weather.delay.as_millis(), weather.jitter.as_millis());
    let shares = [
        (weather.loss_percent, "lost"),
        (weather.duplicate_percent, "doubled"),
        (weather.reorder_percent, "held back"),
    ];
    for (percent, what) in shares.iter().filter(|(percent, _)| *percent > 0.0) {
        words.push_str(&format!(", {percent} % {what}"));
    }
    words
}

impl Nemesis for BadWeather {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            if let Some(reason) = cluster.fabric.cannot(&self.weather) {
                return Ok(Outcome::Skipped(reason));
            }
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
            let weather = words(&self.weather);
            Ok(Outcome::Installed(told(&under, [("weather", Value::Text(weather))])))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            let carried = meanwhile(&self.links, &self.before, &cluster.fabric.observed());
            self.links.iter().for_each(|link| cluster.fabric.degrade(*link, Weather::default()));
            let seen = [
                ("disturbed", count(carried.disturbed)),
                ("resets", count(carried.resets)),
                ("dropped_bytes", count(carried.dropped_bytes)),
                ("duplicated", count(carried.duplicated)),
                ("overtaken", count(carried.overtaken)),
            ];
            let doubt = is_unmet(&carried).then(|| "no message met this weather".to_owned());
            Ok(Seen { value: told(&[], seen), doubt })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn weather_that_nobody_met_is_no_weather() {
        assert!(is_unmet(&Carried { passed_bytes: 5_000, ..Carried::default() }));
        assert!(!is_unmet(&Carried { disturbed: 1, ..Carried::default() }));
    }

    #[test]
    fn weather_is_read_checked_and_told() {
        let read = |field: &str| {
            let wish = format!(r#"{{"fault": "weather", "every": "5s", "hold": "1s", {field}}}"#);
            BadWeather::new(&serde_json::from_str(&wish).unwrap(), "all", SmallRng::seed_from_u64(1))
        };
        let weather = read(r#""delay": "40ms", "duplicate_percent": 5"#).unwrap().weather;
        assert_eq!(words(&weather), "40 ms + 0 ms, 5 % doubled");
        for field in ["loss_percent", "duplicate_percent", "reorder_percent"] {
            let refused = read(&format!(r#""{field}": 101"#)).err().unwrap().to_string();
            assert!(refused.contains(field) && refused.contains("0 to 100"), "{refused}");
        }
    }
}
