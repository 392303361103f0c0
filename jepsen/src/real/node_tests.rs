//! Processes that are no nodes: scripts that run, end, and say something.

use super::*;
use std::process::Command;

/// A node whose process is a script.
fn running(directory: &Path, script: &str) -> Node {
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let [listen_client, listen_peer, listen_admin, client, peer, watch] = [nobody; 6];
    let addresses = Addresses { listen_client, listen_peer, listen_admin, client, peer, watch };
    let mut node = Node::new(1, directory.to_owned(), addresses).unwrap();
    let log = File::options().create(true).append(true).open(node.log()).unwrap();
    node.log_bytes = usize::try_from(log.metadata().unwrap().len()).unwrap();
    node.child = Some(Command::new("/bin/sh").arg("-c").arg(script).stdout(log).spawn().unwrap());
    node
}

async fn until_down(node: &Node) {
    while node.is_running() {
        sleep(Duration::from_millis(2)).await;
    }
}

fn falls(node: &Node) -> Vec<(&str, Option<&str>)> {
    node.downfalls().iter().map(|fall| (fall.how.as_str(), fall.excuse.as_deref())).collect()
}

#[tokio::test]
async fn who_ends_by_itself_is_noted_with_status_and_last_words_and_who_is_killed_is_not() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("kvd.log"), "kvd: said at an earlier start\n").unwrap();
    let mut node = running(directory.path(), "echo 'kvd: out of luck'; echo more; exit 3");
    until_down(&node).await;
    assert!(!node.kill().unwrap(), "there was nobody to kill");
    assert_eq!(falls(&node), [("ended by itself (exit status: 3): kvd: out of luck", None)]);
    let mut node = running(directory.path(), "kill -SEGV $$");
    until_down(&node).await;
    node.look().unwrap();
    assert!(falls(&node)[0].0.starts_with("ended by itself (signal: 11"), "{:?}", falls(&node));
    assert!(falls(&node)[0].0.ends_with("it said nothing"), "not what it said before");
    let mut node = running(directory.path(), "exec sleep 100");
    assert!(node.kill().unwrap());
    assert_eq!((falls(&node), node.is_running()), (Vec::new(), false));
}

#[tokio::test]
async fn who_is_killed_after_it_gave_up_had_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = running(directory.path(), "echo 'ERROR the journal is poisoned why=x'; exec sleep 100");
    while node.said(POISONED).is_none() {
        sleep(Duration::from_millis(2)).await;
    }
    assert!(node.kill().unwrap());
    let how = "promised nothing more when it was killed: ERROR the journal is poisoned why=x";
    assert_eq!(falls(&node), [(how, None)]);
}

#[tokio::test]
async fn whose_disk_was_bad_since_its_start_may_end() {
    let directory = tempfile::tempdir().unwrap();
    for (seat, excuse) in [(Seat::FailSync, Some("its syncs failed")), (Seat::SlowSync, None), (Seat::Clock, None)] {
        let mut node = running(directory.path(), "exit 1");
        node.take(seat);
        node.release(seat);
        until_down(&node).await;
        node.look().unwrap();
        assert_eq!(node.downfalls()[0].excuse.as_deref(), excuse);
    }
}

#[tokio::test]
async fn a_crash_has_no_excuse() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = running(directory.path(), "kill -ABRT $$");
    node.take(Seat::Engine);
    until_down(&node).await;
    node.look().unwrap();
    assert_eq!(node.downfalls()[0].excuse, None);
}

#[tokio::test]
async fn who_is_stopped_in_order_has_not_fallen_and_who_does_not_stop_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = running(directory.path(), "exec sleep 100");
    // The system's own end by this signal is no orderly one.
    assert!(node.stop_in_order(Duration::from_secs(10)).await.unwrap());
    assert!(falls(&node)[0].0.starts_with("ended by itself (signal: 15"), "{:?}", falls(&node));
    let mut node = running(directory.path(), "trap 'exit 0' TERM; echo set; while :; do sleep 0.01; done");
    while node.said("set").is_none() {
        sleep(Duration::from_millis(2)).await;
    }
    assert!(node.stop_in_order(Duration::from_secs(10)).await.unwrap());
    assert_eq!((falls(&node), node.is_running()), (Vec::new(), false));
    let mut node = running(directory.path(), "trap '' TERM; echo deaf; while :; do sleep 0.01; done");
    while node.said("deaf").is_none() {
        sleep(Duration::from_millis(2)).await;
    }
    assert!(!node.stop_in_order(Duration::from_millis(20)).await.unwrap());
    assert_eq!((falls(&node), node.is_running()), (Vec::new(), false));
}

#[tokio::test]
async fn what_one_fault_has_taken_no_other_gets_before_it_is_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = running(directory.path(), "exec sleep 100");
    node.take(Seat::Clock);
    assert_eq!(node.is_free(Seat::Clock), Err("n1's clock is already wrong".to_owned()));
    assert_eq!(node.is_free(Seat::SlowSync), Ok(()));
    node.release(Seat::Clock);
    assert_eq!(node.is_free(Seat::Clock), Ok(()));
}

#[tokio::test]
async fn who_is_struck_dies_before_anybody_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut nodes = [0, 1].map(|_| running(directory.path(), "exec sleep 100"));
    assert!(nodes.iter_mut().all(|node| node.strike().unwrap()));
    for node in &mut nodes {
        until_down(node).await;
        node.bury().unwrap();
        assert!(node.downfalls().is_empty());
    }
}
