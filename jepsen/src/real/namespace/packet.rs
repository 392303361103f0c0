//! What a packet says on its outside: from whom, to whom, and whether it resets a connection.
//!
//! **Invariant.** Any bytes can be looked at: what is no packet of the fourth version is none.

use std::net::Ipv4Addr;

const TCP: u8 = 6;

/// The bit of TCP's flags that resets.
const RESET: u8 = 0x04;

/// The outside of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Who sent it.
    pub from: Ipv4Addr,
    /// Who shall have it.
    pub to: Ipv4Addr,
    /// Whether it breaks a connection.
    pub is_reset: bool,
}

impl Outside {
    /// Reads it.
    pub fn of(packet: &[u8]) -> Option<Self> {
        let header = packet.first_chunk::<20>()?;
        if header[0] >> 4 != 4 {
            return None;
        }
        let length = usize::from(header[0] & 0x0f) * 4;
        // Only the first fragment has a header of TCP.
        let is_first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
        let flags = packet.get(length + 13).filter(|_| header[9] == TCP && is_first);
        Some(Outside {
            from: Ipv4Addr::new(header[12], header[13], header[14], header[15]),
            to: Ipv4Addr::new(header[16], header[17], header[18], header[19]),
            is_reset: flags.is_some_and(|flags| flags & RESET != 0),
        })
    }
}

/// A packet as tests need it: TCP with these flags, and so many bytes in it.
#[cfg(test)]
pub fn invented(from: Ipv4Addr, to: Ipv4Addr, flags: u8, payload_bytes: usize) -> Vec<u8> {
    let mut packet = vec![0; 40 + payload_bytes];
    packet[0] = 0x45;
    packet[9] = TCP;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[33] = flags;
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FROM: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
    const TO: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

    #[test]
    fn a_reset_is_told_from_an_acknowledgement_and_from_a_fragment() {
        let read = |flags| Outside::of(&invented(FROM, TO, flags, 10)).unwrap();
        assert_eq!(read(0x10), Outside { from: FROM, to: TO, is_reset: false });
        assert!(read(0x14).is_reset);
        let mut fragment = invented(FROM, TO, RESET, 10);
        fragment[7] = 1;
        assert!(!Outside::of(&fragment).unwrap().is_reset, "these bytes are somebody's data");
        let mut other = invented(FROM, TO, RESET, 10);
        other[0] = 0x60;
        assert_eq!(Outside::of(&other), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(Outside::of(&bytes).is_none_or(|outside| outside.to.octets() == bytes[16..20]));
        }
    }
}
