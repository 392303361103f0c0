//! What each fabric costs: the time of a small question and its answer, and how much one connection carries.
//!
//! ```text
//!   cargo run -p kvorum-jepsen --example network_cost        (as root, or namespaces are left out)
//! ```
//!
//! The answering side is this program again, started in the place of node 1.

#![allow(clippy::print_stdout, reason = "figures are what this program is for")]

use anyhow::{Context, Result, ensure};
use kvorum_jepsen::real::fabric::{self, Choice};
use std::{
    net::SocketAddr,
    process::{Child, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep},
};

const QUESTIONS: usize = 5_000;
const QUESTION_BYTES: usize = 100;
const BULK_BYTES: usize = 256 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    if let Some(address) = std::env::args().nth(1) {
        return serve(address.parse()?).await;
    }
    println!("{:28} {:>12} {:>12} {:>12}", "", "median, µs", "p99, µs", "MB/s");
    for (choice, is_direct) in [(Choice::Proxies, true), (Choice::Proxies, false), (Choice::Namespaces, false)] {
        let fabric = match fabric::make(choice, 3, 1).await {
            Ok(made) => made.fabric,
            Err(refused) => {
                println!("{refused:#}");
                continue;
            }
        };
        let addresses = fabric.addresses(1);
        let mut command = fabric.command(1, &std::env::current_exe()?);
        let server = Server(command.arg(addresses.listen_client.to_string()).stdout(Stdio::null()).spawn()?);
        // Readiness is asked beside the fabric, as a run asks it.
        connect(addresses.watch).await?;
        let (name, address) = match is_direct {
            true => ("loopback, nothing between", addresses.watch),
            false => (fabric.name(), addresses.client),
        };
        let (median, high) = questions(address).await?;
        println!("{name:28} {median:12.0} {high:12.0} {:12.0}", bulk(address).await?);
        drop(server);
    }
    Ok(())
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Sends everything back.
async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(async move {
            if stream.read_u8().await? == b'e' {
                let (mut read, mut write) = stream.split();
                copy(&mut read, &mut write).await?;
                return anyhow::Ok(());
            }
            // Told beforehand: proxies end both directions of a connection together.
            let length = stream.read_u64().await?;
            let bytes = copy(&mut (&mut stream).take(length), &mut tokio::io::sink()).await?;
            stream.write_u64(bytes).await?;
            Ok(())
        });
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    for _ in 0..200 {
        if let Ok(stream) = TcpStream::connect(address).await {
            stream.set_nodelay(true)?;
            return Ok(stream);
        }
        sleep(Duration::from_millis(25)).await;
    }
    TcpStream::connect(address).await.with_context(|| format!("nobody answers at {address}"))
}

/// Microseconds from a question to its answer: half are below the first, one in a hundred above the second.
async fn questions(address: SocketAddr) -> Result<(f64, f64)> {
    let mut stream = connect(address).await?;
    stream.write_u8(b'e').await?;
    let (question, mut answer) = ([7; QUESTION_BYTES], [0; QUESTION_BYTES]);
    let mut times = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        let asked = Instant::now();
        stream.write_all(&question).await?;
        stream.read_exact(&mut answer).await?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[QUESTIONS / 2], times[QUESTIONS * 99 / 100]))
}

/// Megabytes a second.
async fn bulk(address: SocketAddr) -> Result<f64> {
    let mut stream = connect(address).await?;
    stream.write_u8(b's').await?;
    stream.write_u64(BULK_BYTES as u64).await?;
    let piece = vec![7; 64 << 10];
    let begun = Instant::now();
    for _ in 0..BULK_BYTES / piece.len() {
        stream.write_all(&piece).await?;
    }
    let arrived = stream.read_u64().await?;
    ensure!(arrived == BULK_BYTES as u64, "{arrived} of {BULK_BYTES} bytes arrived");
    Ok(BULK_BYTES as f64 / 1e6 / begun.elapsed().as_secs_f64())
}
