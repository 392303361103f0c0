//! `jepsen-planted`: the program `jepsen` with planted bugs, under a name of its own, so that nobody takes it for the
//! other one and no build of the other one is replaced by it.

#[path = "../main.rs"]
mod program;

fn main() -> anyhow::Result<std::process::ExitCode> {
    program::main()
}
