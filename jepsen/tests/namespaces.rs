//! Network namespaces on this machine: cut, lossy, healed, and gone afterwards.
//!
//! Where namespaces cannot be made, these tests say so and show nothing. What answers in a namespace is its kernel: a
//! connection to a port nobody listens at is refused, which takes a packet there and a packet back.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests panic and print as tests do")]

use kvorum_jepsen::real::{
    fabric::{self, Carried, Choice, End, Fabric, Link, Made, Weather},
    namespace::Host,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};

/// Long enough for a refusal on an idle machine and a busy one.
const LONG: Duration = Duration::from_secs(30);

/// A fabric for two nodes, or the sentence that says why there is none.
async fn namespaces() -> Option<Arc<dyn Fabric>> {
    match fabric::make(Choice::Namespaces, 2, 7).await {
        Ok(Made { fabric, .. }) => Some(fabric),
        // Whatever else goes wrong is a defect.
        Err(refused) if Host::here().ip().is_err() || refused.to_string().contains("capabilit") => {
            println!("SKIPPED: {refused:#}");
            None
        }
        Err(defect) => panic!("{defect:#}"),
    }
}

/// Names of namespaces made by a process.
fn made_by(process_id: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("kvorum-{process_id}-"))).collect()
}

fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How long a refusal takes; `None` = nobody answers.
async fn refusal(address: SocketAddr, patience: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let refused = timeout(patience, TcpStream::connect(address)).await.ok()?;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    Some(begun.elapsed())
}

/// Whether node 2 is refused by node 1 within two seconds: a program in the place of one, the kernel of the other.
async fn is_heard(fabric: &Arc<dyn Fabric>) -> bool {
    let peer = fabric.addresses(1).peer;
    let mut command = fabric.command(2, Path::new("/bin/bash"));
    command.arg("-c").arg(format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{}/{}'", peer.ip(), peer.port()));
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let is_refused = said.contains("Connection refused");
    assert!(is_refused || output.status.code() == Some(124), "{said}");
    is_refused
}

fn carried(fabric: &Arc<dyn Fabric>, link: Link) -> Carried {
    fabric.observed()[&link]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_one_way_weather_is_felt_and_nothing_is_left() {
    let Some(fabric) = namespaces().await else { return };
    let (there, back) = (Link::between(2, 1), Link::between(1, 2));
    assert!(is_heard(&fabric).await);
    assert!(carried(&fabric, there).passed_bytes >= 40 && carried(&fabric, back).resets == 1);

    fabric.cut(there);
    let (before, before_back) = (carried(&fabric, there), carried(&fabric, back));
    assert!(!is_heard(&fabric).await);
    let meanwhile = carried(&fabric, there).since(&before);
    assert!(meanwhile.passed_bytes == 0 && meanwhile.dropped_bytes > 0, "{meanwhile:?}");
    assert_eq!(carried(&fabric, back), before_back, "nobody was asked, nobody answered");
    fabric.mend(there);

    fabric.cut(back);
    let (before, before_back) = (carried(&fabric, there), carried(&fabric, back));
    assert!(!is_heard(&fabric).await);
    assert!(carried(&fabric, there).since(&before).passed_bytes > 0, "the question arrives");
    assert!(carried(&fabric, back).since(&before_back).dropped_bytes > 0, "the answer does not");
    fabric.heal();
    assert!(is_heard(&fabric).await);

    clients_have_weather(&fabric).await;
    let names = made_by(std::process::id());
    assert_eq!(names.len(), 2, "{names:?}");
    let number = names[0].split('-').nth(3).unwrap().to_owned();
    assert!(printed("ip", &["link"]).contains(&format!("kvorum{number}-c")));
    drop(fabric);
    assert!(made_by(std::process::id()).is_empty());
    assert!(!printed("ip", &["link"]).contains(&format!("kvorum{number}-")));
}

async fn clients_have_weather(fabric: &Arc<dyn Fabric>) {
    let link = Link { from: End::Clients, to: End::Node(1) };
    let door = fabric.addresses(1).client;
    fabric.degrade(link, Weather { loss_percent: 50.0, ..Weather::default() });
    let mut asking = JoinSet::new();
    for _ in 0..100 {
        asking.spawn(refusal(door, Duration::from_millis(600)));
    }
    let answered = asking.join_all().await.into_iter().flatten().count();
    assert!((10..90).contains(&answered), "{answered} of 100, half of the questions get lost");
    assert!(carried(fabric, link).disturbed > 10);

    let delay = Duration::from_millis(120);
    fabric.degrade(link, Weather { delay, ..Weather::default() });
    assert!(refusal(door, LONG).await.unwrap() >= delay);
    fabric.degrade(link, Weather { duplicate_percent: 100.0, ..Weather::default() });
    let before = carried(fabric, Link { from: link.to, to: link.from });
    refusal(door, LONG).await.unwrap();
    assert_eq!(carried(fabric, link).duplicated, 1);
    let until = Instant::now() + LONG;
    // The second answer comes after the first; that is all there is to wait for.
    while carried(fabric, Link { from: link.to, to: link.from }).since(&before).resets < 2 {
        assert!(Instant::now() < until, "what came twice is answered twice");
        sleep(Duration::from_millis(5)).await;
    }

    fabric.cut(link);
    assert_eq!(refusal(door, Duration::from_millis(300)).await, None);
    assert!(refusal(fabric.addresses(1).watch, LONG).await.is_some(), "who watches is past every fault");
    assert!(refusal(fabric.addresses(1).listen_admin, LONG).await.is_some());
    fabric.heal();
    assert!(refusal(door, LONG).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_networks_side_by_side_do_not_meet() {
    let (Some(first), Some(second)) = (namespaces().await, namespaces().await) else { return };
    assert_ne!(first.addresses(1).peer, second.addresses(1).peer);
    first.cut(Link::between(2, 1));
    assert!(is_heard(&second).await && !is_heard(&first).await);
}

/// A program that makes a key and otherwise never gets ready.
fn idle_kvd(directory: &Path) -> String {
    let path = directory.join("kvd-that-idles");
    fs::write(&path, "#!/bin/sh\n[ \"$1\" = --new-cluster-key ] && exec touch \"$2\"\nexec sleep 600\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// The program, waiting for such nodes to get ready.
async fn harness_at_work(home: &Path) -> Child {
    let mut harness = Command::new(env!("CARGO_BIN_EXE_jepsen"))
        .current_dir(home)
        .args(["run", "smoke", "--network", "namespaces", "--kvd", &idle_kvd(home)])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + LONG;
    let are_up = |process_id| {
        let names = made_by(process_id);
        names.len() == 3 && names.iter().all(|name| !printed("ip", &["netns", "pids", name]).is_empty())
    };
    while !are_up(harness.id()) {
        assert!(harness.try_wait().unwrap().is_none() && Instant::now() < until, "the nodes do not start");
        sleep(Duration::from_millis(20)).await;
    }
    harness
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_harness_leaves_nothing() {
    if let Err(refused) = Host::here().ip() {
        println!("SKIPPED: {refused:#}");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    for signal in [Signal::INT, Signal::TERM] {
        let mut harness = harness_at_work(home.path()).await;
        let names = made_by(harness.id());
        let processes: String = names.iter().map(|name| printed("ip", &["netns", "pids", name])).collect();
        kill_process(Pid::from_child(&harness), signal).unwrap();
        assert_eq!(harness.wait().unwrap().code(), Some(2), "no verdict");
        assert!(made_by(harness.id()).is_empty());
        let left = processes.split_whitespace().filter(|id| Path::new("/proc").join(id).exists());
        assert_eq!(left.count(), 0, "nodes went first: {processes}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_harness_leaves_is_cleaned_up() {
    if let Err(refused) = Host::here().ip() {
        println!("SKIPPED: {refused:#}");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut harness = harness_at_work(home.path()).await;
    harness.kill().unwrap();
    harness.wait().unwrap();
    assert_eq!(made_by(harness.id()).len(), 3, "it had no time to clean up");
    let number = made_by(harness.id())[0].split('-').nth(3).unwrap().to_owned();
    let output = Command::new(env!("CARGO_BIN_EXE_jepsen")).current_dir(home.path()).arg("clean").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("network namespaces"), "{told}");
    assert!(made_by(harness.id()).is_empty());
    assert!(!printed("ip", &["link"]).contains(&format!("kvorum{number}-")), "devices went with their owner");
}

#[test]
fn namespaces_that_cannot_be_had_are_refused_or_replaced_and_said() {
    let home = tempfile::tempdir().unwrap();
    let run = |network: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jepsen"));
        // Without a PATH there is no program `ip`, whoever runs this.
        command.current_dir(home.path()).env("PATH", "").args(["run", "smoke", "--kvd", "/bin/false"]);
        let output = command.args(["--network", network]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let refused = run("namespaces");
    assert!(refused.contains("error: no network of namespaces") && refused.contains("--network proxies"), "{refused}");
    assert!(refused.contains("install iproute2") || refused.contains("run jepsen as root"), "{refused}");
    let replaced = run("auto");
    assert!(replaced.contains("network: loopback proxies, and not network namespaces because"), "{replaced}");
    assert!(replaced.contains("makes no cluster key"), "it went on: {replaced}");
    assert!(run("tunnels").contains("possible values: auto, namespaces, proxies"));
}
