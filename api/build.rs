//! Compiles the `.proto` files in pure Rust, so that nobody installs `protoc`.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

const FILES: &[&str] = &["kv.proto", "admin.proto", "peer.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
