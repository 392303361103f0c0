//! The real `kvctl`: one run, what it printed, how it ended.

use super::Cluster;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// One run of kvctl.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Ended with 0; gives itself back.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Ended with this code, and said why.
    #[track_caller]
    pub fn code_is(self, code: i32) {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{self:?}");
        assert!(self.err.contains("error: "), "{self:?}");
    }

    /// Wrong in itself (exit code 2), and the sentence names all of `parts`.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) {
        assert_eq!(self.code, 2, "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "{part} is not named: {self:?}");
        }
        assert_eq!(self.out, "", "data goes to stdout, nothing else");
    }
}

/// The program beside `kvd`: cargo builds both when it builds the workspace.
pub fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_kvd")).with_file_name("kvctl");
    assert!(path.exists(), "{} is missing: build it with `cargo build -p kvorum-client --bin kvctl`", path.display());
    path
}

/// Runs kvctl against `endpoints`, without the environment of whoever runs the tests.
pub async fn at(endpoints: &[String], arguments: &[&str]) -> Run {
    let mut command = Command::new(program());
    command.env_clear().env("KVCTL_ENDPOINTS", endpoints.join(",")).args(arguments).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    Run {
        code: output.status.code().expect("ends by itself"),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs kvctl against a cluster.
pub async fn kvctl(cluster: &Cluster, arguments: &[&str]) -> Run {
    at(&cluster.endpoints(), arguments).await
}

/// The same with an answer for programs, which must come.
pub async fn told(cluster: &Cluster, arguments: &[&str]) -> Value {
    let run = kvctl(cluster, &[arguments, &["-o", "json"]].concat()).await;
    run.ok().json()
}
