//! Stages of the engine in memory: the same files, sizes and checksums as on a real disk, in a map.
//!
//! ```text
//!   file   row row row …        row   u32 key bytes │ u32 value bytes │ key │ value        (big-endian)
//! ```
//!
//! **Invariant.** A file is on the disk as soon as it is complete, whole; the manifest exists after the last one only.

use super::disk::MemDisk;
use crate::{
    engine::{
        Column, Stage, StageFile, StageManifest,
        order::{Admitted, RowOrder},
    },
    error::StorageError,
};
use bytes::{Buf, BufMut, Bytes};
use std::collections::BTreeMap;

/// A file is completed when it has grown beyond this.
const FILE_BYTES: usize = 256 * 1024;

/// The files of one stage, by name.
pub(super) type MemFiles = BTreeMap<String, Vec<u8>>;

/// Writes one stage.
pub(super) struct MemStage {
    disk: MemDisk,
    life: u64,
    order: RowOrder,
    open: Option<(Column, Vec<u8>)>,
    manifest: StageManifest,
}

impl MemStage {
    pub(super) fn begin(disk: MemDisk, life: u64, id: u64) -> Result<Box<dyn Stage>, StorageError> {
        disk.of_life(life, |state| {
            state.take_power()?;
            state.stages.insert(id, MemFiles::new());
            Ok(())
        })?;
        let manifest = StageManifest { id, files: Vec::new() };
        Ok(Box::new(MemStage { disk, life, order: RowOrder::default(), open: None, manifest }))
    }

    fn complete_file(&mut self) -> Result<(), StorageError> {
        let Some((column, bytes)) = self.open.take() else { return Ok(()) };
        let name = format!("{:03}.rows", self.manifest.files.len());
        let crc = crc32fast::hash(&bytes);
        self.manifest.files.push(StageFile { column, name: name.clone(), bytes: bytes.len() as u64, crc });
        self.disk.of_life(self.life, |state| {
            state.take_power()?;
            // A stage that was discarded while it was written is gone for good.
            let Some(files) = state.stages.get_mut(&self.manifest.id) else {
                return Err(StorageError::Engine(format!("stage {} was discarded", self.manifest.id)));
            };
            files.insert(name, bytes);
            Ok(())
        })
    }
}

impl Stage for MemStage {
    fn put(&mut self, column: Column, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let is_full = self.open.as_ref().is_some_and(|(_, bytes)| bytes.len() >= FILE_BYTES);
        if self.order.admit(column, key)? == Admitted::FirstOfColumn || is_full {
            self.complete_file()?;
        }
        let (_, bytes) = self.open.get_or_insert_with(|| (column, Vec::new()));
        bytes.put_u32(u32::try_from(key.len()).expect("keys are far below 4 GiB"));
        bytes.put_u32(u32::try_from(value.len()).expect("values are far below 4 GiB"));
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<StageManifest, StorageError> {
        self.complete_file()?;
        Ok(self.manifest)
    }
}

/// Checks every file of a manifest against the disk.
pub(super) fn verify(stages: &BTreeMap<u64, MemFiles>, manifest: &StageManifest) -> Result<(), StorageError> {
    for file in &manifest.files {
        let bytes = bytes_of(stages, manifest.id, file)?;
        if bytes.len() as u64 != file.bytes {
            return Err(corrupt(manifest.id, file, format!("{} bytes instead of {}", bytes.len(), file.bytes)));
        }
        if crc32fast::hash(bytes) != file.crc {
            return Err(corrupt(manifest.id, file, "its checksum differs".to_owned()));
        }
    }
    Ok(())
}

/// The rows of a manifest's files, in their order.
pub(super) fn rows(
    stages: &BTreeMap<u64, MemFiles>,
    manifest: &StageManifest,
) -> Result<Vec<(Column, Bytes, Bytes)>, StorageError> {
    let mut rows = Vec::new();
    for file in &manifest.files {
        let mut rest = Bytes::copy_from_slice(bytes_of(stages, manifest.id, file)?);
        while rest.has_remaining() {
            let (key, value) =
                take_row(&mut rest).ok_or_else(|| corrupt(manifest.id, file, "a row ends too early".to_owned()))?;
            rows.push((file.column, key, value));
        }
    }
    Ok(rows)
}

fn take_row(rest: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let key_bytes = rest.try_get_u32().ok()? as usize;
    let value_bytes = rest.try_get_u32().ok()? as usize;
    (rest.remaining() >= key_bytes + value_bytes).then(|| (rest.split_to(key_bytes), rest.split_to(value_bytes)))
}

fn bytes_of<'a>(stages: &'a BTreeMap<u64, MemFiles>, id: u64, file: &StageFile) -> Result<&'a Vec<u8>, StorageError> {
    let found = stages.get(&id).and_then(|files| files.get(&file.name));
    found.ok_or_else(|| corrupt(id, file, "it is missing".to_owned()))
}

fn corrupt(id: u64, file: &StageFile, why: String) -> StorageError {
    StorageError::Corrupt { file: format!("stage/{id}/{}", file.name), offset: 0, why }
}
