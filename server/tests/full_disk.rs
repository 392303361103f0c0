//! A node that starts on a disk without a byte free. The disk is a file system in memory, which only root can make;
//! where that cannot be had, the test says so.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests panic and print as tests do")]

mod cluster;

use cluster::{Kvd, calls, until};
use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};
use tonic::Code;

const MIB: u64 = 1 << 20;

/// A small file system for the data directory alone, so that the log has room; unmounted at the end.
struct SmallDisk {
    root: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` = it cannot be had here.
    fn mount(mib: u64) -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}M"), "tmpfs"])
            .arg(root.path().join("data"))
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk { root }),
            Ok(output) => {
                println!("SKIPPED: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIPPED: mount: {error}");
                None
            }
        }
    }

    /// Where a node lives whose data directory it is.
    fn home(&self) -> &Path {
        self.root.path()
    }

    /// Takes every byte there is.
    fn fill(&self) -> PathBuf {
        let path = self.home().join("data/filler");
        let mut filler = File::create(&path).unwrap();
        for bytes in [MIB as usize, 4096, 1] {
            while filler.write(&vec![1; bytes]).is_ok_and(|written| written > 0) {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The mount goes when nobody uses it any more; the directory under it is removed afterwards.
        let _ = Command::new("umount").arg("-l").arg(self.home().join("data")).status();
    }
}

async fn value(node: &Kvd, key: &str) -> Option<Vec<u8>> {
    calls::value(&mut node.kv(), key).await.unwrap()
}

/// Rule S5: killed on a full disk, with every spare segment used up, a node starts again: it gives its ballast up
/// before it opens anything, needs no whole segment for the journal, serves reads and takes deletes.
#[tokio::test]
async fn a_node_starts_on_a_full_disk_and_serves_what_needs_no_room() {
    let Some(disk) = SmallDisk::mount(160) else { return };
    let mut node = Kvd::new(1, disk.home());
    node.configure(
        "[storage]\njournal_segment = \"34MiB\"\nballast = \"8MiB\"\nlow_water = \"8MiB\"\n[log]\nformat = \"text\"\n",
    );
    node.start();
    node.ready().await;
    let ballast = node.data().join("ballast");
    until("the ballast", || async { ballast.exists().then_some(()) }).await;
    for key in ["kept", "deleted"] {
        node.kv().put(calls::put(key, "v")).await.unwrap();
    }
    node.kill();
    for entry in fs::read_dir(node.data().join("journal")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("spare-") {
            fs::remove_file(path).unwrap();
        }
    }
    disk.fill();

    node.start();
    node.ready().await;
    assert!(!ballast.exists());
    assert_eq!(value(&node, "kept").await.as_deref(), Some(&b"v"[..]));
    let refused = calls::refusal(node.kv().put(calls::put("more", "v")).await);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "DISK_FULL"));
    assert!(node.kv().delete(calls::delete("deleted")).await.unwrap().into_inner().applied);
    assert_eq!(value(&node, "deleted").await, None);
    assert_eq!(node.log_count("a shorter one is tried"), 3, "34 MiB, 17 MiB and 8.5 MiB are too many");

    // Without the ballast there is nothing to begin with: it says what to do.
    node.kill();
    let filler = disk.fill();
    node.start();
    assert_eq!(node.exit().await.code(), Some(1));
    assert!(node.last_words().contains("No space left on device"), "{}", node.last_words());
    assert!(node.last_words().contains(&node.data().display().to_string()), "{}", node.last_words());

    fs::remove_file(filler).unwrap();
    node.start();
    node.ready().await;
    until("the recovery", || async { node.kv().put(calls::put("more", "v")).await.ok() }).await;
    assert_eq!(value(&node, "kept").await.as_deref(), Some(&b"v"[..]));
}
