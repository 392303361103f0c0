//! The routing copy: the newest map of the cluster this node has seen, on its own disk.
//!
//! ```text
//!   map            magic "KVMP" · format 1 · cluster (16) · revision (8) · length (4) · the map · CRC-32 of all before
//!   map.previous   the one before it
//! ```
//!
//! A node that starts while nobody who holds the metadata is up finds its shards and its peers by it.
//!
//! **Invariant.** A map is whole or not there: a torn or rotten file is passed over with a warning, and the one before
//! it is taken. An older map is harmless, because a node catches up from whatever revision it has.
//!
//! **Deliberately absent.** The bytes of the map itself: they are `consensus`'s own codec.

use crate::durable;
use bytes::{Buf as _, BufMut as _, Bytes};
use kvorum_api::ClusterId;
use kvorum_consensus::metadata::ClusterMap;
use kvorum_storage::Blocking;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::sleep};

const FILE: &str = "map";
const FILE_PREVIOUS: &str = "map.previous";

const MAGIC: &[u8; 4] = b"KVMP";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 4 + 1 + 16 + 8 + 4;
const CRC_BYTES: usize = 4;

/// Before a map that could not be written is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// One map as it lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    cluster: ClusterId,
    revision: u64,
    map: Bytes,
}

/// The routing copies of one data directory.
#[derive(Clone, Debug)]
pub struct RoutingCopy {
    directory: PathBuf,
    cluster: ClusterId,
}

impl RoutingCopy {
    /// Those of this directory, which belongs to this cluster.
    #[must_use]
    pub fn new(directory: &Path, cluster: ClusterId) -> Self {
        RoutingCopy { directory: directory.to_owned(), cluster }
    }

    /// The newest map there is; `None` = there is none. What cannot be read is warned about.
    #[must_use]
    pub fn load(&self) -> Option<ClusterMap> {
        [FILE, FILE_PREVIOUS].into_iter().find_map(|name| {
            let found = self.read(name).and_then(|found| found.map(understand).transpose());
            found.unwrap_or_else(|why| {
                let file = self.directory.join(name);
                tracing::warn!(file = %file.display(), %why, "a copy of the cluster's map is passed over");
                None
            })
        })
    }

    fn read(&self, name: &str) -> Result<Option<Stored>, String> {
        let bytes = match fs::read(self.directory.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let stored = decode(Bytes::from(bytes))?;
        match stored.cluster == self.cluster {
            true => Ok(Some(stored)),
            false => Err(format!("it is of cluster {}, and this node of {}", stored.cluster, self.cluster)),
        }
    }

    /// Keeps a map, durably, and the one before it.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, map: &ClusterMap) -> io::Result<()> {
        // Only a good copy is worth keeping: a rotten one must not replace the good one before it.
        if matches!(self.read(FILE), Ok(Some(_))) {
            durable::rename(&self.directory, FILE, FILE_PREVIOUS)?;
        }
        let stored = Stored { cluster: self.cluster, revision: map.revision, map: map.encode() };
        durable::replace(&self.directory, FILE, &encode(&stored))
    }
}

/// Keeps every newer map, until nobody changes it any more. Changes that come while one is written are written as one.
pub async fn keep(copy: RoutingCopy, mut maps: watch::Receiver<Arc<ClusterMap>>, blocking: Blocking) {
    let mut kept: Option<u64> = None;
    loop {
        let map = Arc::clone(&maps.borrow_and_update());
        // What begins a cluster has no revision yet: it is in the configuration.
        if map.revision > 0 && kept != Some(map.revision) {
            let (copy, map_to_keep) = (copy.clone(), Arc::clone(&map));
            match blocking.run(move || copy.save(&map_to_keep)).await {
                Ok(()) => kept = Some(map.revision),
                Err(error) => {
                    tracing::warn!(%error, "the cluster's map cannot be kept, and this is tried again");
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
        }
        if maps.changed().await.is_err() {
            return;
        }
    }
}

fn understand(stored: Stored) -> Result<ClusterMap, String> {
    let map = ClusterMap::decode(stored.map).map_err(|error| error.to_string())?;
    match map.revision == stored.revision {
        true => Ok(map),
        false => Err(format!("it says revision {} and holds {}", stored.revision, map.revision)),
    }
}

fn encode(stored: &Stored) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + stored.map.len() + CRC_BYTES);
    bytes.put_slice(MAGIC);
    bytes.put_u8(FORMAT);
    bytes.put_slice(&stored.cluster.0);
    bytes.put_u64(stored.revision);
    bytes.put_u32(u32::try_from(stored.map.len()).expect("a map is far below 4 GiB"));
    bytes.put_slice(&stored.map);
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32(crc);
    bytes
}

fn decode(bytes: Bytes) -> Result<Stored, String> {
    if bytes.len() < HEADER_BYTES + CRC_BYTES {
        return Err(format!("it has {} bytes, too few for a map", bytes.len()));
    }
    let (body, mut crc) = (bytes.slice(..bytes.len() - CRC_BYTES), bytes.slice(bytes.len() - CRC_BYTES..));
    if crc32fast::hash(&body) != crc.get_u32() {
        return Err("its checksum does not fit".into());
    }
    let mut rest = body;
    if rest.split_to(MAGIC.len()) != MAGIC.as_slice() {
        return Err("it is no map".into());
    }
    let format = rest.get_u8();
    if format != FORMAT {
        return Err(format!("it has format {format}, this build knows {FORMAT}"));
    }
    let mut cluster = [0; 16];
    rest.copy_to_slice(&mut cluster);
    let revision = rest.get_u64();
    let length = rest.get_u32() as usize;
    match rest.len() == length {
        true => Ok(Stored { cluster: ClusterId(cluster), revision, map: rest }),
        false => Err(format!("it says {length} bytes and has {}", rest.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::spoiled;

    const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");

    /// Format 1, byte for byte.
    const FIXTURE: &[u8] = b"KVMP\x010123456789abcdef\0\0\0\0\0\0\0\x07\0\0\0\x03map\x81\xcb\x05\xb9";

    fn stored() -> Stored {
        Stored { cluster: CLUSTER, revision: 7, map: Bytes::from_static(b"map") }
    }

    fn loaded(copy: &RoutingCopy) -> Option<u64> {
        copy.load().map(|map| map.revision)
    }

    fn map(revision: u64) -> ClusterMap {
        ClusterMap { revision, ..ClusterMap::default() }
    }

    #[test]
    fn format_1_is_what_it_was() {
        assert_eq!(encode(&stored()), FIXTURE);
        assert_eq!(decode(Bytes::from_static(FIXTURE)), Ok(stored()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        for index in 0..FIXTURE.len() {
            for bit in 0..8 {
                let mut bytes = FIXTURE.to_vec();
                bytes[index] ^= 1 << bit;
                assert!(decode(bytes.into()).is_err(), "bit {bit} of byte {index}");
            }
            assert!(decode(Bytes::from_static(&FIXTURE[..index])).is_err(), "cut at {index}");
        }
    }

    /// Also under a checksum that fits.
    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_exactly_what_they_say() {
        let whole = encode(&Stored { map: map(7).encode(), ..stored() });
        bolero::check!().with_iterations(2_000).with_max_len(200).for_each(|input: &[u8]| {
            assert!(decode(Bytes::copy_from_slice(input)).is_err(), "a checksum does not fit by chance");
            let body = spoiled(&whole[..whole.len() - CRC_BYTES], input);
            let bytes = Bytes::from([&body[..], &crc32fast::hash(&body).to_be_bytes()].concat());
            if let Ok(stored) = decode(bytes.clone()) {
                assert_eq!(encode(&stored), bytes);
                if let Ok(map) = understand(stored) {
                    assert_eq!(ClusterMap::decode(map.encode()).unwrap(), map);
                }
            }
        });
    }

    #[test]
    fn the_newest_map_is_given_back_and_a_rotten_one_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let copy = RoutingCopy::new(root.path(), CLUSTER);
        assert_eq!(loaded(&copy), None);
        copy.save(&map(1)).unwrap();
        copy.save(&map(2)).unwrap();
        assert_eq!(copy.load(), Some(map(2)));

        let mut rotten = fs::read(root.path().join(FILE)).unwrap();
        rotten[30] ^= 1;
        fs::write(root.path().join(FILE), &rotten).unwrap();
        assert_eq!(loaded(&copy), Some(1));
        copy.save(&map(3)).unwrap();
        fs::remove_file(root.path().join(FILE)).unwrap();
        assert_eq!(loaded(&copy), Some(1), "the rotten one replaced nothing");

        fs::write(root.path().join(FILE_PREVIOUS), b"").unwrap();
        assert_eq!(loaded(&copy), None);
    }

    /// A crash between the two renames leaves only the previous one.
    #[test]
    fn a_map_that_was_on_its_way_aside_is_found() {
        let root = tempfile::tempdir().unwrap();
        let copy = RoutingCopy::new(root.path(), CLUSTER);
        copy.save(&map(1)).unwrap();
        durable::rename(root.path(), FILE, FILE_PREVIOUS).unwrap();
        assert_eq!(loaded(&copy), Some(1));
    }

    #[test]
    fn a_map_of_another_cluster_or_one_nobody_understands_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        RoutingCopy::new(root.path(), ClusterId([1; 16])).save(&map(1)).unwrap();
        let copy = RoutingCopy::new(root.path(), CLUSTER);
        assert_eq!(loaded(&copy), None);
        copy.save(&map(2)).unwrap();
        copy.save(&map(3)).unwrap();
        fs::write(root.path().join(FILE), encode(&stored())).unwrap();
        assert_eq!(loaded(&copy), Some(2));
    }

    #[tokio::test]
    async fn every_newer_map_is_kept_until_nobody_changes_it() {
        let root = tempfile::tempdir().unwrap();
        let copy = RoutingCopy::new(root.path(), CLUSTER);
        let maps = watch::Sender::new(Arc::new(map(0)));
        let mut keeping = tokio::task::JoinSet::new();
        keeping.spawn(keep(copy.clone(), maps.subscribe(), Blocking::inline()));
        for revision in 1..=20 {
            maps.send_replace(Arc::new(map(revision)));
            tokio::task::yield_now().await;
        }
        drop(maps);
        keeping.join_next().await.unwrap().unwrap();
        assert_eq!(loaded(&copy), Some(20));
    }
}
