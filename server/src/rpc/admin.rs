//! What an operator asks: about this node, about the cluster, and changes of the cluster.
//!
//! ```text
//!   node status                      this node's own figures
//!   list keyspaces, nodes            this node's copy of the map
//!   create, alter, drop              the study ──▶ whoever leads the metadata; answered when the copy here has it
//!   transfer leader                  the replica here, if it leads
//! ```
//!
//! **Invariant.** A change is answered with what the map says after it, never with what was wished for.

use super::{
    deadline, describe,
    door::Door,
    status,
    status_out::{self, Facts},
    wish,
};
use crate::router::Hall;
use kvorum_api::{AdminError, Effect, KeyspaceId, NodeId, ShardId, WriteError, capabilities::CAPABILITIES, proto};
use kvorum_consensus::{
    groups::NotMoved,
    metadata::{MetadataCommand, MetadataReply},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, metadata::MetadataMap};

/// Serves `kv.v1.Admin`.
pub struct AdminService {
    facts: Arc<Facts>,
}

impl AdminService {
    /// About this node, and through it.
    #[must_use]
    pub fn new(facts: Arc<Facts>) -> Self {
        AdminService { facts }
    }

    fn door(&self) -> &Door {
        &self.facts.door
    }

    /// Asks for a change, and waits until the hall here is that of a map that has it.
    async fn change(
        &self,
        metadata: &MetadataMap,
        command: MetadataCommand,
    ) -> Result<(MetadataReply, Arc<Hall>), AdminError> {
        let door = self.door();
        if door.is_draining() {
            return Err(kvorum_api::Refused::Draining.into());
        }
        let budget = deadline::unary(metadata, &door.limits)?;
        let until = Instant::now() + budget.door;
        let reply = door.node.metadata(command, budget.shard).await?;
        let mut watch = door.node.watch_map();
        let newer = timeout_at(until, watch.wait_for(|map| map.revision >= reply.revision)).await;
        let map = match newer {
            Ok(Ok(map)) => Arc::clone(&map),
            Ok(Err(_)) | Err(_) => {
                let why = format!("the change was made (revision {}), and is not known here yet", reply.revision);
                return Err(AdminError::Unavailable { why, effect: Effect::Unknown });
            }
        };
        door.router.take_in(&map);
        Ok((reply, door.router.hall()))
    }

    /// Moves the leader of a shard, if it is here.
    async fn transfer(&self, shard: ShardId, to: Option<NodeId>, patience: Duration) -> Result<NodeId, Status> {
        let door = self.door();
        let hall = door.router.hall();
        let Some(row) = hall.map.shards.get(&shard) else {
            return Err(status::admin_error(&AdminError::NotFound { what: format!("shard {shard}") }));
        };
        let Some(replica) = door.node.replica(shard) else {
            let leader = door.hint(&hall, row);
            return Err(status::write_error(&WriteError::NotLeader { shard, leader }));
        };
        replica.transfer(to, patience).await.map_err(|not_moved| match not_moved {
            NotMoved::NotHere(error) => status::write_error(&error),
            NotMoved::NoReplica(problem) => status::admin_error(&AdminError::Invalid { field: "to_node", problem }),
            NotMoved::NotReady(why) => status::write_error(&WriteError::NoQuorum { shard, why }),
        })
    }

    /// Makes a change to a keyspace and describes what became of it.
    async fn change_keyspace(
        &self,
        metadata: &MetadataMap,
        command: MetadataCommand,
    ) -> Result<proto::KeyspaceDescription, AdminError> {
        let (reply, hall) = self.change(metadata, command).await?;
        let is_it = |id: KeyspaceId| Some(id) == reply.keyspace;
        let keyspace = hall.keyspaces().find(|keyspace| is_it(keyspace.row.id));
        let gone = || AdminError::NotFound { what: "such keyspace any more: it was dropped meanwhile".to_owned() };
        Ok(describe::description(&hall, keyspace.ok_or_else(gone)?))
    }
}

fn answer<T>(result: Result<T, AdminError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status::admin_error(&error))
}

#[tonic::async_trait]
impl proto::admin_server::Admin for AdminService {
    async fn node_status(
        &self,
        _: Request<proto::NodeStatusRequest>,
    ) -> Result<Response<proto::NodeStatusReply>, Status> {
        Ok(Response::new(status_out::node(&self.facts)))
    }

    async fn list_keyspaces(
        &self,
        request: Request<proto::ListKeyspacesRequest>,
    ) -> Result<Response<proto::ListKeyspacesReply>, Status> {
        let hall = self.door().router.hall();
        let names = request.into_inner().names;
        if let Some(name) = names.iter().find(|name| hall.keyspace(name).is_err()) {
            return Err(status::admin_error(&AdminError::NotFound { what: format!("keyspace {name:?}") }));
        }
        let keyspaces = describe::descriptions(&hall, &names);
        Ok(Response::new(proto::ListKeyspacesReply { keyspaces, map_revision: hall.map.revision }))
    }

    async fn list_nodes(&self, _: Request<proto::ListNodesRequest>) -> Result<Response<proto::ListNodesReply>, Status> {
        let hall = self.door().router.hall();
        let nodes = describe::node_descriptions(&hall, &self.door().node, (self.door().id, self.facts.start.0));
        Ok(Response::new(proto::ListNodesReply { nodes, map_revision: hall.map.revision }))
    }

    async fn capabilities(
        &self,
        _: Request<proto::CapabilitiesRequest>,
    ) -> Result<Response<proto::CapabilitiesReply>, Status> {
        let row = |row: &kvorum_api::capabilities::Capability| proto::Capability {
            feature: row.feature.to_owned(),
            cp: row.cp.as_str().to_owned(),
            ap: row.ap.as_str().to_owned(),
        };
        Ok(Response::new(proto::CapabilitiesReply { rows: CAPABILITIES.iter().map(row).collect() }))
    }

    async fn create_keyspace(
        &self,
        request: Request<proto::CreateKeyspaceRequest>,
    ) -> Result<Response<proto::KeyspaceDescription>, Status> {
        let (metadata, _, request) = request.into_parts();
        let made = async {
            let wish = wish::read(request.wish.unwrap_or_default())?;
            let command = MetadataCommand::CreateKeyspace { name: request.name, wish };
            self.change_keyspace(&metadata, command).await
        };
        answer(made.await)
    }

    async fn alter_keyspace(
        &self,
        request: Request<proto::AlterKeyspaceRequest>,
    ) -> Result<Response<proto::KeyspaceDescription>, Status> {
        let (metadata, _, request) = request.into_parts();
        let made = async {
            let wish = wish::read(request.wish.unwrap_or_default())?;
            let command = MetadataCommand::AlterKeyspace { name: request.name, wish };
            self.change_keyspace(&metadata, command).await
        };
        answer(made.await)
    }

    async fn drop_keyspace(
        &self,
        request: Request<proto::DropKeyspaceRequest>,
    ) -> Result<Response<proto::DropKeyspaceReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let dropped = self.change(&metadata, MetadataCommand::DropKeyspace { name: request.name }).await;
        answer(dropped.map(|(reply, _)| proto::DropKeyspaceReply {
            id: reply.keyspace.map_or(0, |id| id.0),
            map_revision: reply.revision,
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let budget = deadline::unary(&metadata, &self.door().limits).map_err(|refused| status::refused(&refused))?;
        let to = (request.to_node > 0).then_some(NodeId(request.to_node));
        let leader = self.transfer(ShardId(request.shard), to, budget.shard).await?;
        Ok(Response::new(proto::TransferLeaderReply { leader: leader.0 }))
    }
}
