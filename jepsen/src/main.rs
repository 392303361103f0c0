//! `jepsen`: tries to break the house, and says how to see it again.

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use kvorum_jepsen::{
    campaign::command::{self as campaigns, Campaign},
    check::{
        Verdict,
        command::{self, Request},
    },
    experiment::command as experiments,
    history::Format,
    planted::command::{self as planting, RANGES},
    real::{directory::HOME, fabric::Choice},
    sim::{
        command as simulation,
        replay::{self, Options},
    },
};
use kvorum_storage::planted::{self, COMPILED_IN};
use std::{ops::RangeInclusive, path::PathBuf, process::ExitCode, time::Duration};

/// Tries to break Kvorum.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Simulates three nodes in one thread: crashes, lost messages, skewed clocks, slow disks, all drawn from a seed.
    Sim(Sim),
    /// Judges a history file. Ends with 0 ok, 1 violation, 2 malformed or misused, 3 unknown, 4 vacuous.
    Check(Check),
    /// Attacks a cluster of real nodes on this machine and judges what its clients saw. Ends with 0 ok, 1 violation, 2
    /// no verdict, 3 unknown, 4 vacuous.
    Run(Run),
    /// Simulates many seeds, then runs experiments in turn, and writes every result into a ledger as soon as it is
    /// known. Ends like `run`, with the worst there was.
    Campaign(CampaignArguments),
    /// Shows which seeds find each bug that is planted in this build; `jepsen/planted.sh` makes such a build. Ends
    /// with 0 if each is found in most ranges of seeds, 1 if one is not, 2 if there is no such bug.
    Planted(Planted),
    /// Adds up what a ledger says, by commit.
    Ledger(LedgerArguments),
    /// Lists experiments, workloads, faults and probes.
    List,
    /// Ends what killed runs left running, and removes what their nodes stored and their networks.
    Clean(Clean),
}

#[derive(Args)]
struct Run {
    /// A name of `jepsen list`, or a file.
    experiment: String,
    /// How long faults happen, instead of what the experiment says.
    #[arg(long)]
    seconds: Option<u64>,
    /// What faults and clients are drawn from; any, unless given. It is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How many nodes, instead of what the experiment says.
    #[arg(long)]
    nodes: Option<u64>,
    /// The program kvd; the one beside this program, unless given.
    #[arg(long)]
    kvd: Option<PathBuf>,
    /// The library loaded into kvd for faults of disks and clocks; the one built with this program, unless given.
    #[arg(long)]
    shim: Option<PathBuf>,
    /// Where histories, logs and the report go; a new directory under .local/jepsen, unless given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// What connects nodes and clients.
    #[arg(long, value_enum, default_value_t)]
    network: Choice,
}

#[derive(Args)]
struct CampaignArguments {
    /// How many seeds to simulate, or which ones: `50`, `100..150`; `0` = none.
    #[arg(long, default_value = "0", value_parser = parse_seeds_or_none)]
    seeds: SeedsOrNone,
    /// How long clients of each simulated world work while things go wrong, simulated seconds.
    #[arg(long, default_value_t = replay::LENGTH.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many seeds run at the same time; as many as there are processors, unless given.
    #[arg(long)]
    jobs: Option<usize>,
    /// How many experiments run on real nodes.
    #[arg(long, default_value_t = 0)]
    runs: u64,
    /// Which ones, in turn, separated by commas; all of `jepsen list` unless given.
    #[arg(long, value_delimiter = ',')]
    experiments: Vec<String>,
    /// The seed of the first of them; the others count on.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// How long faults happen in each.
    #[arg(long, default_value_t = 60)]
    run_seconds: u64,
    /// The program kvd; the one beside this program, unless given.
    #[arg(long)]
    kvd: Option<PathBuf>,
    /// The library that is loaded into kvd for faults of disks and clocks; the one built with this program, unless
    /// given.
    #[arg(long)]
    shim: Option<PathBuf>,
    /// What connects nodes and clients.
    #[arg(long, value_enum, default_value_t)]
    network: Choice,
    /// The ledger: a line is appended for every fifty seeds and every run.
    #[arg(long, default_value = LEDGER)]
    ledger: PathBuf,
}

#[derive(Args)]
struct LedgerArguments {
    /// The ledger.
    #[arg(default_value = LEDGER)]
    file: PathBuf,
}

#[derive(Args)]
struct Planted {
    /// Only these bugs; all of this build unless given.
    #[arg(long = "bug", value_delimiter = ',')]
    bugs: Vec<String>,
    /// In which seeds to look for each, range by range.
    #[arg(long, value_delimiter = ',', default_value = RANGES, value_parser = parse_seeds)]
    ranges: Vec<RangeInclusive<u64>>,
    /// How long clients of each simulated world work while things go wrong, simulated seconds.
    #[arg(long, default_value_t = replay::LENGTH.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How many seeds run at the same time; as many as there are processors, unless given.
    #[arg(long)]
    jobs: Option<usize>,
}

/// Where campaigns are written down.
const LEDGER: &str = "docs/campaigns.jsonl";

#[derive(Args)]
struct Clean {
    /// Where runs lie.
    #[arg(long, default_value = HOME)]
    dir: PathBuf,
}

#[derive(Args)]
struct Check {
    /// The history: JSON Lines, Jepsen's EDN, or a log of Porcupine's test data.
    file: PathBuf,
    /// By which model; several are separated by commas. Without it: the one that fits the operations.
    #[arg(long = "model", value_delimiter = ',')]
    models: Vec<String>,
    /// How the file is written.
    #[arg(long, value_enum, default_value_t = FormatName::Auto)]
    format: FormatName,
    /// Writes a timeline to this file: open it in a browser.
    #[arg(long)]
    html: Option<PathBuf>,
    /// Memory for what searches remember; beyond it the verdict is unknown.
    #[arg(long, default_value = "1GiB", value_parser = command::parse_bytes)]
    memory: u64,
    /// Seconds for each model; beyond them the verdict is unknown.
    #[arg(long)]
    seconds: Option<u64>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    Auto,
    Jsonl,
    Edn,
    PorcupineEtcd,
    PorcupineKv,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Args)]
struct Sim {
    /// The one seed to run.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// How many seeds to run, or which ones: `50`, `100..150`.
    #[arg(long, value_parser = parse_seeds)]
    seeds: Option<RangeInclusive<u64>>,
    /// How long clients work while things go wrong, simulated seconds.
    #[arg(long, default_value_t = replay::LENGTH.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Runs each seed once, instead of twice to compare the traces.
    #[arg(long)]
    once: bool,
    /// Where the history of clients goes, as history.jsonl; of several seeds, into a directory each.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How many seeds run at the same time, each in a process of its own; one a processor, unless given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Within the limits of one of many, and not for longer than this.
    #[arg(long, hide = true)]
    cpu_seconds_max: Option<u64>,
    /// Tells every event on stderr, and what the nodes log as far as `RUST_LOG` asks for it.
    #[arg(long)]
    trace: bool,
}

/// Which seeds to run.
enum Seeds {
    One(u64),
    Many(RangeInclusive<u64>),
}

pub fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Err(unknown) = planted::acting() {
        return Ok(tell(Err(unknown.into())));
    }
    match arguments.command {
        Command::Sim(sim) => simulate(&sim),
        Command::Check(check) => Ok(judge(check)),
        Command::Run(run) => Ok(attack(run)),
        Command::Campaign(arguments) => Ok(campaign(arguments)),
        Command::Planted(arguments) => Ok(hunt(arguments)),
        Command::Ledger(LedgerArguments { file }) => Ok(tell(campaigns::totals(&file).map(|text| (text, Verdict::Ok)))),
        Command::List => {
            line(&experiments::list());
            Ok(ExitCode::SUCCESS)
        }
        Command::Clean(clean) => {
            let cleaned = experiments::clean_up(&clean.dir)?;
            line(&format!("{cleaned} killed runs cleaned up"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What went wrong before there was a verdict must not look like one.
fn judge(check: Check) -> ExitCode {
    let format = match check.format {
        FormatName::Auto => Format::Auto,
        FormatName::Jsonl => Format::Jsonl,
        FormatName::Edn => Format::Edn,
        FormatName::PorcupineEtcd => Format::PorcupineEtcd,
        FormatName::PorcupineKv => Format::PorcupineKv,
    };
    let request = Request {
        file: check.file,
        models: check.models,
        format,
        html: check.html,
        memory_bytes_max: check.memory,
        time_max: check.seconds.map(Duration::from_secs),
        is_json: check.output == Output::Json,
    };
    tell(command::run(&request).map(|answer| (answer.text, answer.verdict)))
}

/// A verdict is the exit code; a failure of the harness is none.
#[expect(clippy::print_stderr, reason = "why there is no verdict is told where verdicts are not")]
fn tell(answer: Result<(String, Verdict)>) -> ExitCode {
    match answer {
        Ok((text, verdict)) => {
            line(&text);
            ExitCode::from(verdict.exit_code())
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// What goes wrong in the harness must not look like a verdict.
fn attack(run: Run) -> ExitCode {
    let Run { experiment, seconds, seed, nodes, kvd, shim, out, network } = run;
    let wish = experiments::Wish { experiment, seconds, seed, nodes, kvd, shim, out, network };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let answer = runtime
        .context("no threads to run on")
        .and_then(|runtime| runtime.block_on(experiments::run_experiment(&wish)));
    tell(answer.map(|answer| (answer.text, answer.verdict)))
}

/// Something without verdict among the results is no verdict, but all are told.
fn campaign(arguments: CampaignArguments) -> ExitCode {
    let options = Options { length: Duration::from_secs(arguments.seconds), prints: false };
    let campaign = Campaign {
        seeds: arguments.seeds.0,
        simulation: simulation::Request { options, is_once: true, out: None },
        jobs: arguments.jobs.unwrap_or_else(simulation::jobs),
        runs: arguments.runs,
        experiments: arguments.experiments,
        first_seed: arguments.first_seed,
        run_seconds: arguments.run_seconds,
        kvd: arguments.kvd,
        shim: arguments.shim,
        network: arguments.network,
        ledger: arguments.ledger,
    };
    if campaign.seeds.is_none() && campaign.runs == 0 {
        return tell(Err(anyhow!("nothing to do: say how many --seeds to simulate, how many --runs on real nodes")));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done =
        runtime.context("no threads to run on").and_then(|runtime| runtime.block_on(campaigns::run(&campaign, &line)));
    match done {
        Ok((text, Some(verdict))) => tell(Ok((text, verdict))),
        Ok((text, None)) => {
            line(&text);
            tell(Err(anyhow!("some runs have no verdict: see above")))
        }
        Err(error) => tell(Err(error)),
    }
}

/// A bug that is not found is a violation of what the harness promises.
fn hunt(arguments: Planted) -> ExitCode {
    let options = Options { length: Duration::from_secs(arguments.seconds), prints: false };
    let request = planting::Request {
        bugs: arguments.bugs,
        ranges: arguments.ranges,
        simulation: simulation::Request { options, is_once: true, out: None },
        jobs: arguments.jobs.unwrap_or_else(simulation::jobs),
    };
    match planting::run(&request, COMPILED_IN, &line) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => tell(Err(error)),
    }
}

fn simulate(sim: &Sim) -> Result<ExitCode> {
    if sim.trace && std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    let options = Options { length: Duration::from_secs(sim.seconds), prints: sim.trace };
    let seeds = match (sim.seed, &sim.seeds) {
        (Some(seed), _) => Seeds::One(seed),
        (None, Some(seeds)) => Seeds::Many(seeds.clone()),
        (None, None) => bail!("name a seed with --seed, or several with --seeds"),
    };
    let request = simulation::Request { options, is_once: sim.once, out: sim.out.clone() };
    let is_clean = match seeds {
        Seeds::One(seed) => {
            let limits = sim.cpu_seconds_max.map(|cpu_s_max| simulation::Limits { cpu_s_max });
            simulation::one(seed, &request, limits, &line)?
        }
        Seeds::Many(seeds) => {
            let jobs = sim.jobs.unwrap_or_else(simulation::jobs);
            simulation::many(seeds, &request, jobs, &line)?.failed.is_empty()
        }
    };
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Seeds, if any.
#[derive(Clone)]
struct SeedsOrNone(Option<RangeInclusive<u64>>);

fn parse_seeds_or_none(text: &str) -> Result<SeedsOrNone> {
    if text == "0" { Ok(SeedsOrNone(None)) } else { parse_seeds(text).map(|seeds| SeedsOrNone(Some(seeds))) }
}

/// `5` is 1 to 5, `7..9` is 7 and 8.
fn parse_seeds(text: &str) -> Result<RangeInclusive<u64>> {
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("{text:?} is not a number"));
    match text.split_once("..") {
        None => Ok(1..=number(text)?),
        Some((first, beyond)) => {
            let (first, beyond) = (number(first)?, number(beyond)?);
            if beyond <= first {
                bail!("{text:?} names no seed: the second number is the first one that does not run");
            }
            Ok(first..=beyond - 1)
        }
    }
}

#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn line(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_counted_or_named() {
        assert_eq!(parse_seeds("5").unwrap(), 1..=5);
        assert_eq!(parse_seeds("7..9").unwrap(), 7..=8);
        assert!(parse_seeds("9..9").is_err());
        assert!(parse_seeds("x").is_err());
    }

    fn planted(arguments: &[&str]) -> Result<Planted, clap::Error> {
        let arguments = ["jepsen", "planted"].iter().chain(arguments);
        Arguments::try_parse_from(arguments).map(|arguments| match arguments.command {
            Command::Planted(planted) => planted,
            _ => unreachable!("it was asked for"),
        })
    }

    #[test]
    fn planted_bugs_are_hunted_in_three_ranges_unless_others_are_named() {
        assert_eq!(planted(&[]).unwrap().ranges, [1..=200, 1001..=1200, 2001..=2200]);
        let narrow = planted(&["--ranges", "5..7,9..10", "--bug", "a,b", "--bug", "c", "--seconds", "3"]).unwrap();
        assert_eq!(narrow.ranges, [5..=6, 9..=9]);
        assert_eq!(narrow.bugs, ["a", "b", "c"]);
        assert_eq!(narrow.seconds, 3);
        for wrong in ["7..5", "1..5;7..9", "", "a..b", "1..5,"] {
            assert!(planted(&["--ranges", wrong]).is_err(), "{wrong:?}");
        }
        assert!(planted(&["--seconds", "0"]).is_err());
    }
}
