//! The cluster's key: 32 bytes that every node of a cluster knows and nobody else.
//!
//! ```text
//!   --cluster-key FILE ▸ cluster.key_file ▸ <data>/cluster.key        the first that is there
//!        │
//!        ├─ proof of a joining node   HMAC-SHA256
//!        └─ seal of gossip            a key derived from it
//! ```
//!
//! **Invariant.** The key never travels, is never logged, and lies in files that only their owner may read.
//!
//! **Deliberately absent.** Changing it while the cluster runs.

use crate::durable;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};
use thiserror::Error;

/// Where a data directory keeps its key.
pub const FILE: &str = "cluster.key";

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Bits of a mode that let others than the owner in.
const MODE_OTHERS: u32 = 0o077;

/// Why there is no key. Each is one sentence.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The system refused.
    #[error("cluster key {}: cannot {operation}: {why}", .file.display())]
    Io {
        /// Which.
        file: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        why: io::Error,
    },
    /// The file holds no key.
    #[error("cluster key {} must hold {} hexadecimal digits and nothing else: make one with `kvd --new-cluster-key FILE`", .0.display(), 2 * KEY_BYTES)]
    NoKey(PathBuf),
    /// Others than its owner may read it.
    #[error("cluster key {} may be read by others than its owner: run `chmod 600 {}`", .0.display(), .0.display())]
    Open(PathBuf),
    /// Several nodes found a cluster, and nobody gave them a key.
    #[error(
        "cluster.key_file is missing: every founding node is given the same file, make one with `kvd --new-cluster-key \
         FILE`"
    )]
    MissingForFounders,
    /// A node joins, and nobody gave it the key.
    #[error(
        "--join needs --cluster-key FILE (or cluster.key_file): the key of the cluster to join, from a node that is in"
    )]
    MissingToJoin,
    /// The directory keeps another key than the one that is given.
    #[error(
        "cluster key {} is another than {}, which this node has: leave it out, or give the key of this node's cluster",
        .given.display(),
        .kept.display()
    )]
    Other {
        /// What the command line or the configuration names.
        given: PathBuf,
        /// What the data directory keeps.
        kept: PathBuf,
    },
    /// A node that is in lost its key.
    #[error("{} is gone: start with --cluster-key FILE, the key of any other node of the cluster", .0.display())]
    Gone(PathBuf),
}

/// The key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey([u8; KEY_BYTES]);

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(secret)")
    }
}

impl ClusterKey {
    /// A key of these bytes, which must be random.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        ClusterKey(bytes)
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// It cannot be read, is open to others, or holds no key.
    pub fn read(file: &Path) -> Result<Self, KeyError> {
        let failed = |operation| move |why| KeyError::Io { file: file.to_owned(), operation, why };
        let text = fs::read_to_string(file).map_err(failed("read it"))?;
        if fs::metadata(file).map_err(failed("look at it"))?.mode() & MODE_OTHERS != 0 {
            return Err(KeyError::Open(file.to_owned()));
        }
        let digits = text.trim_end();
        let byte = |at: usize| digits.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..KEY_BYTES).map(byte).collect();
        match bytes.filter(|_| digits.len() == 2 * KEY_BYTES && digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
            Some(bytes) => Ok(ClusterKey(bytes.try_into().expect("counted"))),
            None => Err(KeyError::NoKey(file.to_owned())),
        }
    }

    /// Writes it to a file that is not there yet, readable by its owner alone.
    ///
    /// # Errors
    /// The file is there, or the system's.
    pub fn write_new(&self, file: &Path) -> Result<(), KeyError> {
        let write = || {
            let mut new = File::options().write(true).create_new(true).mode(0o600).open(file)?;
            new.write_all(self.to_hex().as_bytes())?;
            new.sync_all()
        };
        write().map_err(|why| KeyError::Io { file: file.to_owned(), operation: "make it", why })
    }

    /// Keeps it in a data directory, durably.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(&self, data: &Path) -> Result<(), KeyError> {
        durable::replace_secret(data, FILE, self.to_hex().as_bytes()).map_err(|why| KeyError::Io {
            file: data.join(FILE),
            operation: "write it",
            why,
        })
    }

    /// The key a data directory keeps, if it keeps one.
    ///
    /// # Errors
    /// As [`ClusterKey::read`].
    pub fn kept(data: &Path) -> Result<Option<Self>, KeyError> {
        let file = data.join(FILE);
        match file.exists() {
            true => ClusterKey::read(&file).map(Some),
            false => Ok(None),
        }
    }

    /// A key for another purpose, from which neither this one nor that of a third purpose can be told.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; KEY_BYTES] {
        self.mac(&[purpose.as_bytes()]).finalize().into_bytes().into()
    }

    /// Proves that whoever wrote these parts, in this order and cut so, knows the key.
    #[must_use]
    pub fn prove(&self, purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
        self.mac_of(purpose, parts).finalize().into_bytes().to_vec()
    }

    /// Whether a proof fits; takes as long for a nearly right one as for any other.
    #[must_use]
    pub fn has_proven(&self, purpose: &str, parts: &[&[u8]], proof: &[u8]) -> bool {
        self.mac_of(purpose, parts).verify_slice(proof).is_ok()
    }

    fn mac_of(&self, purpose: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let lengths: Vec<[u8; 8]> = parts.iter().map(|part| (part.len() as u64).to_be_bytes()).collect();
        let mut all: Vec<&[u8]> = vec![purpose.as_bytes(), &[0]];
        all.extend(lengths.iter().zip(parts).flat_map(|(length, part)| [length.as_slice(), part]));
        self.mac(&all)
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("an HMAC takes a key of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    fn to_hex(&self) -> String {
        let mut text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn key() -> ClusterKey {
        ClusterKey::new(std::array::from_fn(|index| index as u8))
    }

    #[test]
    fn a_key_is_kept_for_its_owner_alone_and_read_back() {
        let root = tempfile::tempdir().unwrap();
        assert!(ClusterKey::kept(root.path()).unwrap().is_none());
        key().keep(root.path()).unwrap();
        assert_eq!(fs::metadata(root.path().join(FILE)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(ClusterKey::kept(root.path()).unwrap(), Some(key()));
        let file = root.path().join("new");
        key().write_new(&file).unwrap();
        assert_eq!(ClusterKey::read(&file).unwrap(), key());
        assert!(key().write_new(&file).is_err(), "a key that is there is not overwritten");
    }

    #[test]
    fn a_file_that_is_no_key_or_open_to_others_is_refused_without_showing_it() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("key");
        key().write_new(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let why = ClusterKey::read(&file).unwrap_err().to_string();
        assert!(why.contains("chmod 600") && !why.contains("000102"), "{why}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "00", &"zz".repeat(32), &"00".repeat(33), &"+0".repeat(32), &"ä".repeat(32)] {
            fs::write(&file, text).unwrap();
            assert!(matches!(ClusterKey::read(&file), Err(KeyError::NoKey(_))), "{text:?}");
        }
        assert!(!format!("{:?}", key()).contains('1'));
    }

    #[test]
    fn a_proof_fits_its_key_its_purpose_and_its_parts_as_they_were_cut() {
        let proof = key().prove("join", &[b"ab", b"c"]);
        assert_eq!(proof.len(), 32);
        assert!(key().has_proven("join", &[b"ab", b"c"], &proof));
        assert!(!key().has_proven("join", &[b"a", b"bc"], &proof));
        assert!(!key().has_proven("other", &[b"ab", b"c"], &proof));
        assert!(!key().has_proven("join", &[b"ab", b"c"], &proof[..31]));
        assert!(!key().has_proven("join", &[b"ab", b"c"], &[]));
        assert!(!ClusterKey::new([7; 32]).has_proven("join", &[b"ab", b"c"], &proof));
        assert_ne!(key().derive("gossip"), key().derive("join"));
    }

    #[test]
    fn fuzz_any_file_is_refused_or_read_as_the_key_it_holds() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("key");
        key().write_new(&file).unwrap();
        bolero::check!().with_iterations(300).with_max_len(80).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(key().to_hex().as_bytes(), input) {
                fs::write(&file, &bytes).unwrap();
                if let Ok(read) = ClusterKey::read(&file) {
                    let text = String::from_utf8(bytes.to_vec()).unwrap().to_lowercase();
                    assert_eq!(read.to_hex().trim_end(), text.trim_end());
                }
            }
        });
    }

    proptest! {
        #[test]
        fn no_changed_proof_fits(at in 0_usize..32, bit in 0_u32..8) {
            let mut proof = key().prove("join", &[b"directory"]);
            proof[at] ^= 1 << bit;
            prop_assert!(!key().has_proven("join", &[b"directory"], &proof));
        }
    }
}
