//! Two connections joined: what comes in at one goes out at the other, as the links allow.
//!
//! ```text
//!   read ─▶ piece, due at … ─▶ queue ─▶ wait until due ─▶ wait until the link is open ─▶ write
//! ```
//!
//! A cut holds back what is under way. When it heals, a coin decides whether the connection goes on with all that was
//! held (it was only late) or breaks (it had timed out): both happen in real networks, and the first shows what a
//! message of long ago does.
//!
//! **Invariant.** Order within a connection is kept. A piece leaves only while its link is open.

use super::links::{Fate, Links};
use crate::real::fabric::Link;
use std::io;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// Bytes of one piece.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces on their way: beyond them the sender waits, as it does for a full window.
const PIECES_MAX: usize = 64;

struct Piece {
    due: Instant,
    bytes: Vec<u8>,
}

/// Carries both directions until one side ends, or a link breaks the connection.
pub async fn join(dialler: TcpStream, node: TcpStream, there: Link, back: Link, links: &Links) {
    // Without it a small message waits for the other side's word on the one before.
    let _ = (dialler.set_nodelay(true), node.set_nodelay(true));
    let (from_dialler, to_dialler) = dialler.into_split();
    let (from_node, to_node) = node.into_split();
    // Whichever direction ends first ends both: an HTTP/2 connection that is half closed is of no use.
    tokio::select! {
        biased;
        _ = carry(from_dialler, to_node, there, links) => {}
        _ = carry(from_node, to_dialler, back, links) => {}
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    link: Link,
    links: &Links,
) -> io::Result<()> {
    let (queue, mut pieces) = mpsc::channel::<Piece>(PIECES_MAX);
    let reading = async {
        let mut due = Instant::now();
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                // What was said before goes out first; the silence of a cut link swallows the end as well.
                drop(queue);
                return io::Result::Ok(());
            }
            let Fate::Arrives(wait) = links.fate(link) else {
                links.count(link, |carried| {
                    carried.resets += 1;
                    carried.dropped_bytes += length as u64;
                });
                return Err(io::ErrorKind::ConnectionReset.into());
            };
            if !wait.is_zero() {
                links.count(link, |carried| carried.disturbed += 1);
            }
            due = due.max(Instant::now() + wait);
            if queue.send(Piece { due, bytes: buffer[..length].to_vec() }).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some(piece) = pieces.recv().await {
            // A timer rounds up to a millisecond, also for a moment that has passed.
            if piece.due > Instant::now() {
                sleep_until(piece.due).await;
            }
            let length = piece.bytes.len() as u64;
            if links.state(link).is_cut() {
                links.count(link, |carried| carried.held_bytes += length);
            }
            if links.until_open(link).await && links.coin() {
                links.count(link, |carried| {
                    carried.resets += 1;
                    carried.dropped_bytes += length;
                });
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            to.write_all(&piece.bytes).await?;
            links.count(link, |carried| carried.passed_bytes += length);
        }
        io::Result::Ok(())
    };
    tokio::try_join!(reading, writing).map(drop)
}
