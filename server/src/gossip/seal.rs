//! The seal of gossip: a datagram only those can read or make who know the cluster's key.
//!
//! ```text
//!   format 1 · nonce (24, random) · XChaCha20-Poly1305 of the message, bound to the cluster's id
//! ```
//!
//! **Invariant.** What was not sealed with the key, for this cluster, opens to nothing.
//!
//! **Deliberately absent.** Refusing repeats: an old datagram that is sent again says nothing that a newer one does not
//! outdo, and lives are told apart by their number.

use crate::cluster_key::{ClusterKey, KEY_BYTES};
use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _, Payload},
};
use kvorum_api::ClusterId;
use rand::{TryRngCore as _, rngs::OsRng};

const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// What the key of the seal is derived for.
const PURPOSE: &str = "kvorum gossip 1";

/// Bytes the seal adds to a message.
pub const OVERHEAD_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// Seals and opens datagrams of one cluster.
pub struct Seal {
    cipher: XChaCha20Poly1305,
    bound_to: Vec<u8>,
}

impl Seal {
    /// With the cluster's key, for the cluster.
    #[must_use]
    pub fn new(key: &ClusterKey, cluster: ClusterId) -> Self {
        let key: [u8; KEY_BYTES] = key.derive(PURPOSE);
        let bound_to = [&[FORMAT], cluster.0.as_slice()].concat();
        Seal { cipher: XChaCha20Poly1305::new(&key.into()), bound_to }
    }

    /// Seals a message; `None` = the system gives no random numbers.
    #[must_use]
    pub fn close(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        OsRng.try_fill_bytes(&mut nonce).ok()?;
        let payload = Payload { msg: message, aad: &self.bound_to };
        let sealed = self.cipher.encrypt(XNonce::from_slice(&nonce), payload).ok()?;
        Some([&[FORMAT], nonce.as_slice(), &sealed].concat())
    }

    /// Opens a datagram; `None` = it was not sealed with this key for this cluster.
    #[must_use]
    pub fn open(&self, datagram: &[u8]) -> Option<Vec<u8>> {
        let (format, rest) = datagram.split_first()?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES).filter(|_| *format == FORMAT)?;
        self.cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: &self.bound_to }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::spoiled;
    use std::panic::AssertUnwindSafe;

    fn seal(key: u8, cluster: u8) -> Seal {
        Seal::new(&ClusterKey::new([key; KEY_BYTES]), ClusterId([cluster; 16]))
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_for_the_same_cluster_only() {
        let sealed = seal(1, 1).close(b"message").unwrap();
        assert_eq!(sealed.len(), b"message".len() + OVERHEAD_BYTES);
        assert!(!sealed.windows(7).any(|part| part == b"message"));
        assert_eq!(seal(1, 1).open(&sealed).as_deref(), Some(&b"message"[..]));
        assert_eq!(seal(2, 1).open(&sealed), None);
        assert_eq!(seal(1, 2).open(&sealed), None);
        assert_ne!(seal(1, 1).close(b"message").unwrap(), sealed, "every datagram has a nonce of its own");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealed = seal(1, 1).close(b"message").unwrap();
        for index in 0..sealed.len() {
            for bit in 0..8 {
                let mut bytes = sealed.clone();
                bytes[index] ^= 1 << bit;
                assert_eq!(seal(1, 1).open(&bytes), None, "bit {bit} of byte {index}");
            }
            assert_eq!(seal(1, 1).open(&sealed[..index]), None, "cut at {index}");
        }
    }

    #[test]
    fn fuzz_no_bytes_open_but_those_that_were_sealed() {
        let (seal, sealed) = (AssertUnwindSafe(seal(1, 1)), seal(1, 1).close(b"message").unwrap());
        bolero::check!().with_iterations(2_000).with_max_len(200).for_each(|input: &[u8]| {
            assert_eq!(seal.open(input), None);
            let spoiled = spoiled(&sealed, input);
            assert_eq!(seal.open(&spoiled).is_some(), spoiled == sealed);
        });
    }
}
