//! A scan over one unmoving view of the shard, portion by portion, read where reading may wait for the disk.

use crate::replicator::Rows;
use futures::future::BoxFuture;
use kvorum_api::{ReadError, Receipt, ShardId};
use kvorum_storage::{
    Blocking, StorageError,
    shard::{Row, Scan},
};

/// Rows of one shard at one position.
pub(crate) struct ShardRows {
    shard: ShardId,
    blocking: Blocking,
    receipt: Receipt,
    /// Away while a portion is read; gone after a failure.
    scan: Option<Scan>,
}

impl ShardRows {
    pub(crate) fn new(scan: Scan, shard: ShardId, blocking: Blocking, receipt: Receipt) -> Self {
        ShardRows { shard, blocking, receipt, scan: Some(scan) }
    }
}

impl Rows for ShardRows {
    fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    fn next(&mut self, bytes_max: usize, rows_max: usize) -> BoxFuture<'_, Result<Vec<Row>, ReadError>> {
        Box::pin(async move {
            let Some(mut scan) = self.scan.take() else {
                let why = "an earlier portion of this scan failed".to_owned();
                return Err(ReadError::Storage { shard: self.shard, why });
            };
            let (scan, rows) = self
                .blocking
                .run(move || {
                    let rows = scan.next(bytes_max, rows_max);
                    (scan, rows)
                })
                .await;
            let rows = rows.map_err(|error| unreadable(self.shard, error))?;
            self.scan = Some(scan);
            Ok(rows)
        })
    }
}

/// A failure to read, in the words of the caller.
pub(crate) fn unreadable(shard: ShardId, error: StorageError) -> ReadError {
    match error {
        StorageError::Installing => ReadError::Installing { shard },
        StorageError::OutOfRange { epoch } => {
            ReadError::StaleEpoch { shard, epoch, why: "the key is not this shard's".to_owned() }
        }
        StorageError::Stopped => ReadError::Stopped { shard, why: error.to_string() },
        StorageError::Io { .. }
        | StorageError::Corrupt { .. }
        | StorageError::Poisoned(_)
        | StorageError::DiskFull(_)
        | StorageError::Engine(_)
        | StorageError::Refused(_)
        | StorageError::UnknownFormat { .. } => ReadError::Storage { shard, why: error.to_string() },
    }
}
