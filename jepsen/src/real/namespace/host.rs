//! What a machine must have for namespaces, and the program `ip`, which makes them.
//!
//! **Invariant.** A refusal says what is missing and what to do.

use anyhow::{Context, Result, bail};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// What the machine lets us do.
#[derive(Clone, Debug)]
pub struct Host {
    /// Whether this process is root's.
    pub is_root: bool,
    /// Where TUN devices come from, if the kernel has them.
    pub tun: Option<PathBuf>,
    /// The program `ip`, if it is installed.
    pub ip: Option<PathBuf>,
}

impl Host {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let tun = PathBuf::from("/dev/net/tun");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let ip = std::env::split_paths(&path).map(|place| place.join("ip")).find(|program| program.is_file());
        Host { is_root: rustix::process::geteuid().is_root(), tun: tun.exists().then_some(tun), ip }
    }

    /// The program, if everything else is there as well.
    pub fn ip(&self) -> Result<Ip> {
        if !self.is_root {
            bail!("network namespaces need root: run jepsen as root");
        }
        if self.tun.is_none() {
            bail!("/dev/net/tun is missing: load it with `modprobe tun`, or give a container `--device /dev/net/tun`");
        }
        match &self.ip {
            Some(program) => Ok(Ip(program.clone())),
            None => bail!("there is no program `ip` in PATH: install iproute2 (apt-get install iproute2)"),
        }
    }
}

/// The program `ip`.
#[derive(Clone, Debug)]
pub struct Ip(PathBuf);

impl Ip {
    /// One command; what it prints.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.0).args(arguments).stdin(Stdio::null()).output();
        self.printed(&arguments.join(" "), output)
    }

    /// Several commands at once, in a namespace or outside all.
    pub fn batch(&self, namespace: Option<&str>, lines: &[String]) -> Result<()> {
        let mut command = Command::new(&self.0);
        if let Some(namespace) = namespace {
            command.args(["-netns", namespace]);
        }
        command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let text = lines.join("\n") + "\n";
        let run = || {
            let mut child = command.spawn()?;
            // Dropped at once: the program waits for the end of what it is told.
            child.stdin.take().expect("it is piped").write_all(text.as_bytes())?;
            child.wait_with_output()
        };
        self.printed(&lines.join("; "), { run }()).map(drop)
    }

    /// How to start a program in a namespace: it replaces `ip` and keeps its process id.
    pub fn inside(&self, namespace: &str, program: &Path) -> Command {
        let mut command = Command::new(&self.0);
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    fn printed(&self, what: &str, output: std::io::Result<Output>) -> Result<String> {
        let output = output.with_context(|| format!("{} cannot be started", self.0.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim();
            let hint = match said.contains("Operation not permitted") {
                true => " (a container needs the capabilities NET_ADMIN and SYS_ADMIN)",
                false => "",
            };
            bail!("`ip {what}`: {said}{hint}");
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_what_to_do() {
        let full = Host { is_root: true, tun: Some("/dev/net/tun".into()), ip: Some("/bin/false".into()) };
        let refusal = |host: Host| host.ip().unwrap_err().to_string();
        assert!(refusal(Host { is_root: false, ..full.clone() }).contains("run jepsen as root"));
        assert!(refusal(Host { tun: None, ..full.clone() }).contains("modprobe tun"));
        assert!(refusal(Host { ip: None, ..full.clone() }).contains("install iproute2"));
        let failed = full.ip().unwrap().run(&["netns", "add", "x"]).unwrap_err().to_string();
        assert!(failed.starts_with("`ip netns add x`"), "{failed}");
    }
}
