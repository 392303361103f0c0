//! Who dials: which of our processes holds the other end of a connection.
//!
//! ```text
//!   /proc/net/tcp: from → to is socket 4711        /proc/PID/fd/*: socket:[4711]
//! ```
//!
//! **Invariant.** Nobody is guessed: a connection whose process cannot be found is nobody's.

use std::{fs, net::SocketAddr};

/// The process among `known` that dialled `to` from `from`.
pub fn who(from: SocketAddr, to: SocketAddr, known: &[u32]) -> Option<u32> {
    let inode = inode(&fs::read_to_string("/proc/net/tcp").ok()?, from, to)?;
    let wanted = format!("socket:[{inode}]");
    known.iter().copied().find(|process| holds(*process, &wanted))
}

fn holds(process: u32, socket: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == socket))
}

/// The socket between two addresses, as its dialler's row of the table names it.
fn inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (written(local)?, written(remote)?);
    let row = table.lines().skip(1).find(|row| {
        let mut columns = row.split_ascii_whitespace().skip(1);
        columns.next() == Some(&local) && columns.next() == Some(&remote)
    })?;
    row.split_ascii_whitespace().nth(9)?.parse().ok().filter(|inode| *inode > 0)
}

/// An address as the table writes it: the bytes of the host as one number of this machine, in hexadecimal.
fn written(address: SocketAddr) -> Option<String> {
    match address {
        SocketAddr::V4(address) => {
            Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()))
        }
        SocketAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_table_names_the_socket_of_the_dialler() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 11 1\n\
                     1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 12 1\n";
        let (door, from): (SocketAddr, SocketAddr) =
            ("127.0.0.1:8080".parse().unwrap(), "127.0.0.1:50000".parse().unwrap());
        assert_eq!(inode(table, from, door), Some(12));
        assert_eq!(inode(table, "127.0.0.1:50001".parse().unwrap(), door), None);
    }

    #[test]
    fn this_process_is_found_and_others_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = listener.local_addr().unwrap();
        let _dialled = TcpStream::connect(door).unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(who(from, door, &[1, std::process::id()]), Some(std::process::id()));
        assert_eq!(who(from, door, &[]), None);
    }
}
