//! Stages on a real disk: sorted files that RocksDB takes in as they are.
//!
//! ```text
//!   <dir>/stage/7/000.sst      written, synced
//!                 001.sst      written, synced, then the directory: now there is a manifest
//! ```
//!
//! **Invariant.** A manifest names files that are synced, in a directory that is synced. Files are copied into the
//! database, never moved, so that taking in can be repeated.
//!
//! **Deliberately absent.** The manifest itself: the caller keeps it, synced, in the journal.

use super::{failure::engine_error, options::Shape};
use crate::{
    engine::{
        Column, Stage, StageFile, StageManifest,
        order::{Admitted, RowOrder},
    },
    error::StorageError,
};
use rocksdb::{Options, SstFileWriter};
use self_cell::self_cell;
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// Read at a time when a checksum is computed.
const READ_BYTES: usize = 256 * 1024;

self_cell!(
    struct Writer {
        owner: Options,
        #[covariant]
        dependent: SstFileWriter,
    }
);

/// The directory of all stages.
#[derive(Clone, Debug)]
pub(super) struct StageDirectory {
    path: PathBuf,
}

impl StageDirectory {
    /// Makes the engine's directory and the one of its stages, durably.
    pub(super) fn open(directory: &Path) -> Result<Self, StorageError> {
        let path = directory.join("stage");
        fs::create_dir_all(&path).map_err(|why| failed("create", &path, &why))?;
        sync_directory(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        Ok(StageDirectory { path })
    }

    pub(super) fn list(&self) -> Result<Vec<u64>, StorageError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|why| failed("list", &self.path, &why))? {
            let entry = entry.map_err(|why| failed("list", &self.path, &why))?;
            // Whatever else lies here is not ours.
            ids.extend(entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    pub(super) fn discard(&self, id: u64) -> Result<(), StorageError> {
        let path = self.of(id);
        match fs::remove_dir_all(&path) {
            Ok(()) => sync_directory(&self.path),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(why) => Err(failed("remove", &path, &why)),
        }
    }

    /// Checks size and checksum of every file.
    pub(super) fn verify(&self, manifest: &StageManifest) -> Result<(), StorageError> {
        for (file, (_, path)) in manifest.files.iter().zip(self.paths(manifest)?) {
            let (bytes, crc) = measure(&path)?;
            if bytes != file.bytes {
                return Err(corrupt(&path, format!("{bytes} bytes instead of {}", file.bytes)));
            }
            if crc != file.crc {
                return Err(corrupt(&path, "its checksum differs".to_owned()));
            }
        }
        Ok(())
    }

    /// Where the files of a manifest lie; all of them are there.
    pub(super) fn paths(&self, manifest: &StageManifest) -> Result<Vec<(Column, PathBuf)>, StorageError> {
        let directory = self.of(manifest.id);
        let locate = |file: &StageFile| {
            let path = directory.join(&file.name);
            let mut parts = Path::new(&file.name).components();
            let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            if !is_plain {
                return Err(corrupt(&path, "its name leads out of the stage".to_owned()));
            }
            match fs::metadata(&path) {
                Ok(_) => Ok((file.column, path)),
                Err(why) if why.kind() == io::ErrorKind::NotFound => Err(corrupt(&path, "it is missing".to_owned())),
                Err(why) => Err(failed("look", &path, &why)),
            }
        };
        manifest.files.iter().map(locate).collect()
    }

    fn of(&self, id: u64) -> PathBuf {
        self.path.join(id.to_string())
    }
}

/// Writes one stage.
pub(super) struct RocksStage {
    directory: StageDirectory,
    path: PathBuf,
    options: Vec<Options>,
    file_bytes: u64,
    order: RowOrder,
    open: Option<OpenFile>,
    manifest: StageManifest,
}

struct OpenFile {
    column: Column,
    name: String,
    writer: Writer,
}

impl RocksStage {
    pub(super) fn begin(directory: &StageDirectory, shape: &Shape, id: u64) -> Result<Self, StorageError> {
        directory.discard(id)?;
        let path = directory.of(id);
        fs::create_dir(&path).map_err(|why| failed("create", &path, &why))?;
        sync_directory(&directory.path)?;
        Ok(RocksStage {
            directory: directory.clone(),
            path,
            options: Column::ALL.map(|column| shape.column(column)).to_vec(),
            file_bytes: shape.stage_file_bytes(),
            order: RowOrder::default(),
            open: None,
            manifest: StageManifest { id, files: Vec::new() },
        })
    }

    fn open_file(&mut self, column: Column) -> Result<OpenFile, StorageError> {
        let name = format!("{:03}.sst", self.manifest.files.len());
        let writer = Writer::new(self.options[column.slot()].clone(), |options| SstFileWriter::create(options));
        let opened = writer.borrow_dependent().open(self.path.join(&name));
        opened.map_err(|error| engine_error("stage", &error))?;
        Ok(OpenFile { column, name, writer })
    }

    /// Completes the open file; RocksDB syncs it as it finishes.
    fn complete_file(&mut self) -> Result<(), StorageError> {
        let Some(OpenFile { column, name, mut writer }) = self.open.take() else { return Ok(()) };
        let finished = writer.with_dependent_mut(|_, writer| writer.finish());
        finished.map_err(|error| engine_error("stage", &error))?;
        let (bytes, crc) = measure(&self.path.join(&name))?;
        self.manifest.files.push(StageFile { column, name, bytes, crc });
        Ok(())
    }
}

impl Stage for RocksStage {
    fn put(&mut self, column: Column, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let admitted = self.order.admit(column, key)?;
        let is_full =
            self.open.as_ref().is_some_and(|open| open.writer.borrow_dependent().file_size() >= self.file_bytes);
        if admitted == Admitted::FirstOfColumn || is_full {
            self.complete_file()?;
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_file(column)?,
        };
        let written = open.writer.with_dependent_mut(|_, writer| writer.put(key, value));
        written.map_err(|error| engine_error("stage", &error))?;
        self.open = Some(open);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<StageManifest, StorageError> {
        self.complete_file()?;
        sync_directory(&self.path)?;
        sync_directory(&self.directory.path)?;
        Ok(self.manifest)
    }
}

/// Size and checksum of a file.
fn measure(path: &Path) -> Result<(u64, u32), StorageError> {
    let mut file = File::open(path).map_err(|why| failed("open", path, &why))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).map_err(|why| failed("read", path, &why))? {
            0 => return Ok((bytes, hasher.finalize())),
            read => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(|why| failed("sync", path, &why))
}

fn failed(operation: &'static str, path: &Path, why: &io::Error) -> StorageError {
    StorageError::io(operation, path.display().to_string(), why)
}

fn corrupt(path: &Path, why: String) -> StorageError {
    StorageError::Corrupt { file: path.display().to_string(), offset: 0, why }
}
