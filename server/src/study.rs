//! What the doors ask of the study: the newest map, and changes of it.

use kvorum_api::{AdminError, Effect};
use kvorum_consensus::metadata::{ClusterMap, MetadataCommand, MetadataReply};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// The study of a node whose configuration is its map: there is nobody to change it.
pub struct Study {
    map: watch::Sender<Arc<ClusterMap>>,
}

impl Study {
    /// By this map, for ever.
    #[must_use]
    pub fn of(map: ClusterMap) -> Self {
        Study { map: watch::Sender::new(Arc::new(map)) }
    }

    /// The newest map, and every later one.
    #[must_use]
    pub fn watch_map(&self) -> watch::Receiver<Arc<ClusterMap>> {
        self.map.subscribe()
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// Why it was not made.
    pub async fn metadata(&self, _: MetadataCommand, _: Duration) -> Result<MetadataReply, AdminError> {
        let why = "this cluster is as its configuration says, which nobody changes while it runs".to_owned();
        Err(AdminError::Unavailable { why, effect: Effect::None })
    }
}
