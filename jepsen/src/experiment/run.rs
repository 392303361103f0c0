//! One run of an experiment, from the first process to the last read.
//!
//! ```text
//!   start · prepare ├ warm-up ┤├ faults ┤ heal ├ quiet ┤ last reads · hashes
//!                   └──────── callers at work ─────────┘
//! ```
//!
//! **Invariant.** Everything this starts ends with it, however it ends: callers, proxies and nodes are owned by the
//! future of the run.

use super::{
    measure::{Stretch, has_writes, recovery_ms},
    nemeses::{Tried, carry_out},
    progress,
    spec::{Experiment, Load},
};
use crate::{
    history::{Kind, Process, Rank, Receipt, Record, Value, write_jsonl},
    real::{
        affairs::Endings,
        cluster::{Cluster, PATIENCE},
        directory::RunDirectory,
        fabric::{self, Choice, Made},
        nemesis::Needs,
        node::Downfall,
        observer::{Hash, Observer},
        schedule::{self, Event},
        shim::{Preload, layout::Part},
    },
    workload::{Caller, Recorder, Sample, Setting, Workload},
};
use anyhow::{Context, Result};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// How long replicas have, once nobody writes any more, to show their hashes at one position.
const SETTLE: Duration = Duration::from_secs(2);

/// So much longer than an operation may take is calm: none that began in trouble is still to end.
const CALM_MORE: Duration = Duration::from_millis(500);

/// What to run.
pub struct Request {
    /// The experiment.
    pub experiment: Experiment,
    /// What everything is drawn from.
    pub seed: u64,
    /// The program.
    pub kvd: PathBuf,
    /// Which network.
    pub network: Choice,
    /// The library that faults of disks and clocks need; the one beside this program, unless given.
    pub shim: Option<PathBuf>,
    /// Whether what happens is told on stderr.
    pub is_told: bool,
}

/// The network a run had.
#[derive(Clone, Debug)]
pub struct Network {
    /// The fabric's name.
    pub name: String,
    /// What a real network does that it cannot, if anything.
    pub weaker_because: Option<String>,
    /// Why it is not the stronger one, although that would have been taken.
    pub instead_because: Option<String>,
}

impl Network {
    /// `loopback proxies, because …; weaker than a network: …`.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut sentence = self.name.clone();
        if let Some(why) = &self.instead_because {
            sentence.push_str(&format!(", and not network namespaces because {why}"));
        }
        if let Some(why) = &self.weaker_because {
            sentence.push_str(&format!("; weaker than a network: {why}"));
        }
        sentence
    }
}

/// One workload, done.
pub struct Done {
    /// What clients did.
    pub load: Load,
    /// The file with the history.
    pub path: PathBuf,
    /// The history.
    pub records: Vec<Record>,
}

/// What a run has to show.
pub struct Shown {
    /// Where it lies.
    pub directory: PathBuf,
    /// What connected nodes and clients.
    pub network: Network,
    /// The schedule as drawn.
    pub events: Vec<Event>,
    /// By workload.
    pub done: Vec<Done>,
    /// Of all workloads, by end.
    pub samples: Vec<Sample>,
    /// Every fault that was tried.
    pub tried: Vec<Tried>,
    /// What the shim stood before, if faults needed it.
    pub shim: Option<String>,
    /// Before, during and after the faults.
    pub phases: [Stretch; 3],
    /// The history of hashes, and its file.
    pub hashes: (PathBuf, Vec<Record>),
    /// From healing to the end of a while, longer than any operation takes, in which every write was acknowledged.
    pub calm_after_ms: u64,
    /// How operators ended, by what they were for; none if nobody asked anything of the cluster.
    pub operators: BTreeMap<String, Endings>,
    /// Nodes that ended although nobody ended them, or promised nothing more.
    pub downfalls: Vec<Downfall>,
    /// What nodes and clients could not do although everything was whole again.
    pub failures: Vec<String>,
    /// Lines of logs that no node should ever write.
    pub panics: Vec<String>,
}

/// The one clock of a run, and all its histories.
pub struct Clockwork {
    begun: Instant,
    recorders: Vec<Arc<Recorder>>,
    is_told: bool,
}

impl Clockwork {
    /// Writes what the nemesis did into every history; says when.
    pub fn note(&self, name: &str, value: Value) -> u64 {
        let times = self.recorders.iter().map(|recorder| recorder.note_fault(name, value.clone()));
        times.min().unwrap_or_else(|| self.now_ns())
    }

    /// Tells whoever watches.
    pub fn say(&self, text: &str) {
        if self.is_told {
            progress::line(&format!("{:5.1} s  {text}", self.begun.elapsed().as_secs_f64()));
        }
    }

    /// When a moment was.
    #[must_use]
    pub fn at_ns(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn samples(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = self.recorders.iter().flat_map(|recorder| recorder.samples_from(0)).collect();
        samples.sort_by_key(|sample| sample.ended_ns);
        samples
    }
}

/// Runs it.
///
/// # Errors
/// Something in the harness, the machine or the programs; nothing of it is a verdict.
pub async fn run(request: &Request, directory: RunDirectory) -> Result<Shown> {
    let Request { experiment, seed, .. } = request;
    let events = schedule::draw(*seed, &experiment.faults, experiment.length, experiment.may_overlap);
    let Made { fabric, instead_because } =
        fabric::make(request.network, experiment.nodes + experiment.joiners, *seed).await?;
    let network =
        Network { name: fabric.name().to_owned(), weaker_because: fabric.is_weaker_because(), instead_because };
    if request.is_told {
        progress::line(&format!("network: {}", network.sentence()));
    }
    let preload = preload(request);
    let program = (request.kvd.as_path(), &preload);
    let count = (experiment.nodes, experiment.joiners);
    let mut cluster = Cluster::start(directory, fabric, program, count, experiment.has_leases).await?;
    let mut crew = Crew::gather(experiment, *seed, &cluster, request.is_told)?;
    if let Preload::Missing(why) = &preload {
        crew.clockwork.say(&format!("faults of disks and clocks will be skipped: {why}"));
    }
    crew.prepare().await?;
    let begun_ns = crew.clockwork.now_ns();
    crew.set_to_work();
    crew.clockwork.say(&format!("warm-up of {} s", experiment.warm_up.as_secs()));
    sleep(experiment.warm_up).await;

    let attacked_ns = crew.clockwork.now_ns();
    let attacked = Instant::now();
    crew.clockwork.say(&format!("{} faults over {} s", events.len(), experiment.length.as_secs()));
    for event in &events {
        let (at, hold) = (event.begin.as_secs_f64(), event.hold.as_secs_f64());
        crew.clockwork.say(&format!("  at +{at:.1} s for {hold:.1} s: {}", experiment.faults[event.fault].plan.name()));
    }
    let tried = carry_out(&mut cluster, &experiment.faults, &events, attacked, &crew.clockwork).await?;
    sleep_until(attacked + experiment.length).await;
    let mut failures = cluster.heal().await?;
    let healed_ns = crew.clockwork.now_ns();
    for (what, endings) in &cluster.affairs.endings {
        crew.clockwork.say(&format!("operators, {what}: {}", endings.sentence()));
    }
    crew.clockwork.say(&format!("healed, quiet for {} s", experiment.quiet.as_secs()));
    // Elections and reconnections that healing caused come to an end, and how soon is a figure of its own.
    failures.extend(crew.until_calm(healed_ns).await);
    let quiet_ns = crew.clockwork.now_ns();
    crew.clockwork.say(&format!("calm after {} ms", (quiet_ns - healed_ns) / 1_000_000));
    sleep(experiment.quiet).await;
    let ended_ns = crew.clockwork.now_ns();

    failures.extend(crew.stop().await?);
    sleep(SETTLE).await;
    cluster.look().await?;
    let samples = crew.clockwork.samples();
    let mut phases = [(begun_ns, attacked_ns), (attacked_ns, healed_ns), (quiet_ns, ended_ns)]
        .map(|(from_ns, until_ns)| Stretch::of(&samples, from_ns, until_ns));
    phases[1].recoveries_ms = recoveries(&samples, &tried);
    let path = cluster.path().to_owned();
    Ok(Shown {
        network,
        events,
        done: crew.finish()?,
        samples,
        tried,
        shim: covered(&cluster, &preload),
        phases,
        hashes: hashes(&path, &cluster.observer)?,
        calm_after_ms: (quiet_ns - healed_ns) / 1_000_000,
        failures,
        operators: cluster.affairs.endings.clone(),
        downfalls: cluster.nodes.iter().flat_map(|node| node.downfalls().to_vec()).collect(),
        panics: cluster.nodes.iter().flat_map(|node| node.panics()).collect(),
        directory: path,
    })
}

/// How nodes are started, so that every fault of the experiment can happen.
fn preload(request: &Request) -> Preload {
    let needs = request.experiment.faults.iter().map(|fault| fault.plan.kind.needs).max();
    match needs.unwrap_or(Needs::Nothing) {
        Needs::Nothing => Preload::NotWanted,
        needs => Preload::find(request.shim.as_deref(), &request.kvd, needs == Needs::Recording),
    }
}

/// Which parts of nodes the shim stood before, for the report.
fn covered(cluster: &Cluster, preload: &Preload) -> Option<String> {
    match preload {
        Preload::NotWanted => None,
        Preload::Missing(why) => Some(why.clone()),
        Preload::Library { is_recording, .. } => {
            let shims: Vec<_> = cluster.nodes.iter().filter_map(|node| node.shim().ok()).collect();
            let part = |name: &str, part| {
                let seen =
                    shims.iter().map(|shim| shim.seen(part)).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
                format!("{name}: {} syncs and {} writes", seen.0, seen.1)
            };
            let parts = [("journal", Part::Journal), ("engine", Part::Engine), ("other files", Part::Other)];
            let parts = parts.map(|(name, of)| part(name, of)).join(", ");
            let gap = shims.iter().find_map(|shim| shim.is_not_covered()).map(|why| format!("; not covered: {why}"));
            let recorded = if *is_recording { ", whatever was not synced written down" } else { "" };
            Some(format!(
                "in {} of {} nodes{recorded}; {parts}{}",
                shims.len(),
                cluster.nodes.len(),
                gap.unwrap_or_default()
            ))
        }
    }
}

fn recoveries(samples: &[Sample], tried: &[Tried]) -> Vec<f64> {
    let stopped = tried.iter().filter(|fault| has_writes(samples, &fault.shards) && !fault.name.starts_with("weather"));
    let mut recoveries: Vec<f64> =
        stopped.map(|fault| recovery_ms(samples, fault.struck_ns, &fault.shards).unwrap_or(f64::INFINITY)).collect();
    recoveries.sort_by(f64::total_cmp);
    recoveries
}

/// Rolling hashes as a history: no operation, only what was told.
fn hashes(directory: &Path, observer: &Observer) -> Result<(PathBuf, Vec<Record>)> {
    let record = |(time, hash): (usize, Hash)| {
        let receipt = Receipt {
            position: Some(Rank(vec![hash.applied_index])),
            node: Some(format!("n{}", hash.node)),
            ..Receipt::default()
        };
        let record = Record::new(time as u64, Process::Client(hash.node), Kind::Ok, "hash");
        Record { receipt: Some(receipt), ..record.with_key(&format!("s{}", hash.shard)).with_value(hash.hash.as_str()) }
    };
    let records: Vec<Record> = observer.hashes().into_iter().enumerate().map(record).collect();
    let path = directory.join("history-hashes.jsonl");
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    write_jsonl(&mut file, &records)?;
    Ok((path, records))
}

/// One workload and its clients.
struct Gang {
    load: Load,
    workload: Arc<dyn Workload>,
    recorder: Arc<Recorder>,
    /// Who prepares and reads last.
    first: Caller,
    others: Vec<Caller>,
}

/// Everybody who works.
struct Crew {
    gangs: Vec<Gang>,
    /// Longest wait for one operation.
    deadline: Duration,
    clockwork: Clockwork,
    at_work: JoinSet<()>,
    is_over: watch::Sender<bool>,
}

impl Crew {
    fn gather(experiment: &Experiment, seed: u64, cluster: &Cluster, is_told: bool) -> Result<Self> {
        let begun = Instant::now();
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut gangs = Vec::new();
        for load in &experiment.loads {
            let name = match experiment.loads.len() {
                1 => "history.jsonl".to_owned(),
                _ => format!("history-{}.jsonl", load.kind.name),
            };
            let recorder = Arc::new(Recorder::create(&cluster.path().join(name), begun)?);
            let setting = Setting {
                endpoints: cluster.endpoints(),
                // Where nodes go for good, nobody lives by one address.
                knows_all: experiment.joiners > 0,
                deadline: experiment.deadline,
                recorder: recorder.clone(),
                callers: load.clients + 1,
            };
            let mut caller = |number| Caller::new(number, SmallRng::seed_from_u64(chance.random()), setting.clone());
            let first = caller(load.clients)?;
            let others = (0..load.clients).map(caller).collect::<Result<_>>()?;
            gangs.push(Gang { load: load.clone(), workload: (load.kind.make)().into(), recorder, first, others });
        }
        let recorders = gangs.iter().map(|gang| gang.recorder.clone()).collect();
        let clockwork = Clockwork { begun, recorders, is_told };
        Ok(Crew {
            gangs,
            deadline: experiment.deadline,
            clockwork,
            at_work: JoinSet::new(),
            is_over: watch::Sender::new(false),
        })
    }

    async fn prepare(&mut self) -> Result<()> {
        for gang in &mut self.gangs {
            let prepared = gang.workload.prepare(&mut gang.first).await;
            prepared.with_context(|| format!("{} cannot be prepared", gang.load.kind.name))?;
        }
        Ok(())
    }

    fn set_to_work(&mut self) {
        for gang in &mut self.gangs {
            let interval = Duration::from_secs_f64(gang.load.clients as f64 / gang.load.rate);
            for caller in gang.others.drain(..) {
                let (workload, is_over) = (gang.workload.clone(), self.is_over.subscribe());
                self.at_work.spawn(work(workload, caller, interval, is_over));
            }
        }
        if self.clockwork.is_told {
            let (recorders, begun) = (self.clockwork.recorders.clone(), self.clockwork.begun);
            self.at_work.spawn(progress::watch(recorders, begun, self.is_over.subscribe()));
        }
    }

    /// Waits for a while after a moment in which writes were acknowledged, and all of them; says so if there is none.
    async fn until_calm(&self, from_ns: u64) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        let calm = self.deadline + CALM_MORE;
        let calm_ns = u64::try_from(calm.as_nanos()).unwrap_or(u64::MAX);
        while Instant::now() < until {
            sleep(Duration::from_millis(50)).await;
            let now_ns = self.clockwork.now_ns();
            let latest = Stretch::of(&self.clockwork.samples(), now_ns.saturating_sub(calm_ns), now_ns);
            let mut writes = latest.samples.iter().filter(|sample| sample.is_write).peekable();
            let is_calm = writes.peek().is_some() && writes.all(|sample| sample.kind == Kind::Ok);
            if is_calm && now_ns >= from_ns + calm_ns {
                return None;
            }
        }
        let (seconds, calm) = (PATIENCE.as_secs(), calm.as_secs_f64());
        Some(format!("within {seconds} s of healing there were no {calm} s in which every write was acknowledged"))
    }

    /// Sends everybody home; then the last reads. What was not answered is told.
    async fn stop(&mut self) -> Result<Vec<String>> {
        self.is_over.send_replace(true);
        while let Some(ended) = self.at_work.join_next().await {
            ended.context("a client of the harness failed")?;
        }
        let mut unanswered = Vec::new();
        for gang in &mut self.gangs {
            if let Err(error) = gang.workload.last(&mut gang.first).await {
                unanswered.push(format!("{}: after everything was whole again: {error:#}", gang.load.kind.name));
            }
        }
        Ok(unanswered)
    }

    fn finish(self) -> Result<Vec<Done>> {
        let done = self.gangs.into_iter().map(|gang| {
            let path = gang.recorder.path().to_owned();
            Ok(Done { load: gang.load, path, records: gang.recorder.finish()? })
        });
        done.collect()
    }
}

/// One client: an operation about every `interval`, however long the last one took.
async fn work(workload: Arc<dyn Workload>, mut caller: Caller, interval: Duration, is_over: watch::Receiver<bool>) {
    let mut next = Instant::now() + interval.mul_f64(caller.chance.random());
    while !*is_over.borrow() {
        sleep_until(next).await;
        workload.step(&mut caller).await;
        // Who was held up does not catch up in a burst.
        next = (next + interval.mul_f64(caller.chance.random_range(0.5..1.5))).max(Instant::now());
    }
}
