//! Addresses of nodes and clients: two subnets, of which one is attacked.
//!
//! ```text
//!   198.18.6.0/24  attacked: nodes and clients talk here     .1 node 1  .2 node 2 …  .254 clients
//!   198.18.7.0/24  watched: nodes are asked here how they are, past every fault
//! ```
//!
//! 198.18.0.0/15 is set apart for tests of networks (RFC 2544): a machine has it in use only if somebody tests there.
//!
//! **Invariant.** An address is one end's, on one of the two.

use crate::real::fabric::End;
use std::net::Ipv4Addr;

/// Pairs of subnets there are.
pub const COUNT: u16 = 256;

/// How many leading bits of an address name its subnet.
pub const PREFIX: u8 = 24;

/// The last number of the clients.
const CLIENTS: u8 = 254;

/// Which of the two subnets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Faults happen here.
    Attacked,
    /// Nothing ever happens here.
    Watched,
}

/// A pair of subnets, by its number below [`COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnets(pub u16);

impl Subnets {
    fn base(self, plane: Plane) -> [u8; 3] {
        let number = self.0 * 2 + u16::from(plane == Plane::Watched);
        [198, 18 + (number >> 8) as u8, number as u8]
    }

    /// Where an end is.
    pub fn address(self, plane: Plane, end: End) -> Ipv4Addr {
        let [first, second, third] = self.base(plane);
        let last = match end {
            End::Clients => CLIENTS,
            End::Node(node) => u8::try_from(node).expect("a run has a handful of nodes"),
        };
        Ipv4Addr::new(first, second, third, last)
    }

    /// Who is there, if it is an address of ours.
    pub fn end(self, address: Ipv4Addr) -> Option<(Plane, End)> {
        let [first, second, third, last] = address.octets();
        let planes = [Plane::Attacked, Plane::Watched];
        let plane = planes.into_iter().find(|plane| self.base(*plane) == [first, second, third])?;
        match last {
            0 | 255 => None,
            CLIENTS => Some((plane, End::Clients)),
            node => Some((plane, End::Node(u64::from(node)))),
        }
    }

    /// Whether nobody has a route to any of it, by what `ip route` prints.
    pub fn is_free(self, routes: &str) -> bool {
        let ours = u32::from(self.address(Plane::Attacked, End::Node(1))) >> 9;
        let taken = routes.split_whitespace().filter_map(network);
        // A route to everywhere is nobody's network.
        taken.filter(|(_, bits)| *bits > 0).all(|(address, bits)| {
            let shared = bits.min(23);
            u32::from(address) >> (32 - shared) != (ours << 9) >> (32 - shared)
        })
    }
}

/// `10.1.0.0/16` or `10.1.2.3`, if a word is one.
fn network(word: &str) -> Option<(Ipv4Addr, u32)> {
    let (address, bits) = word.split_once('/').unwrap_or((word, "32"));
    let bits = bits.parse().ok().filter(|bits| *bits <= 32)?;
    Some((address.parse().ok()?, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_back_to_its_end() {
        for number in [0, 3, 127, 128, COUNT - 1] {
            let subnets = Subnets(number);
            for plane in [Plane::Attacked, Plane::Watched] {
                for end in [End::Clients, End::Node(1), End::Node(5)] {
                    assert_eq!(subnets.end(subnets.address(plane, end)), Some((plane, end)));
                }
            }
        }
        assert_eq!(Subnets(COUNT - 1).address(Plane::Watched, End::Node(3)), Ipv4Addr::new(198, 19, 255, 3));
        assert_eq!(Subnets(3).end(Ipv4Addr::new(198, 18, 6, 255)), None, "everybody is nobody");
        assert_eq!(Subnets(3).end(Ipv4Addr::new(198, 18, 8, 1)), None);
    }

    #[test]
    fn what_somebody_has_a_route_to_is_not_taken() {
        let routes = "default via 192.0.2.1 dev eth0\n0.0.0.0/1 via 10.8.0.1 dev tun0\n198.18.6.0/24 dev x scope link\n\
                      local 198.18.9.4 dev y\n";
        let free = |number| Subnets(number).is_free(routes);
        assert_eq!([free(2), free(3), free(4), free(5)], [true, false, false, true]);
        assert!(!Subnets(3).is_free("198.18.0.0/15 dev z"));
        assert!(Subnets(3).is_free("default via 192.0.2.1\n10.0.0.0/8 dev z"));
    }
}
