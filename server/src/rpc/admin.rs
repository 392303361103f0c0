//! What an operator asks: about this node, about the cluster, and changes of the cluster.
//!
//! ```text
//!   node status                      this node's own figures
//!   list keyspaces, nodes            this node's copy of the map
//!   create, alter, drop              the study ──▶ whoever leads the metadata; answered when the copy here has it
//!   operators                        this node's copy of the map
//!   move, lead, cancel, drain, …     the study, as above; a dry run is foreseen where the metadata is led
//! ```
//!
//! **Invariant.** A change is answered with what the map says after it, never with what was wished for.

use super::{
    deadline, describe,
    door::Door,
    operate, status,
    status_out::{self, Facts},
    upgrade, wish,
};
use crate::router::Hall;
use kvorum_api::{AdminError, Effect, KeyspaceId, OperatorId, capabilities::CAPABILITIES, proto};
use kvorum_consensus::metadata::{MetadataCommand, MetadataReply};
use std::sync::Arc;
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

    /// Makes a change of shards or nodes, or says what it would lead to.
    async fn change_or_foresee(
        &self,
        metadata: &MetadataMap,
        command: MetadataCommand,
        is_dry_run: bool,
    ) -> Result<proto::ChangeReply, AdminError> {
        let door = self.door();
        if is_dry_run {
            let budget = deadline::unary(metadata, &door.limits)?;
            let forecast = door.node.forecast(command, budget.shard).await?;
            return Ok(operate::foreseen(&door.router.hall(), forecast));
        }
        let (reply, hall) = self.change(metadata, command).await?;
        let operator = reply.operator.and_then(|id| hall.map.operators.get(&id));
        let nodes = describe::node_descriptions(&hall, &door.node, (door.id, self.facts.start.0));
        Ok(proto::ChangeReply {
            operator: operator.map(|row| operate::operator(door, &hall, row)),
            node: nodes.into_iter().find(|node| reply.node.is_some_and(|changed| changed.0 == node.id)),
            map_revision: reply.revision,
            ..proto::ChangeReply::default()
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
        Ok(Response::new(status_out::node(&self.facts).await))
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

    async fn list_operators(
        &self,
        request: Request<proto::ListOperatorsRequest>,
    ) -> Result<Response<proto::ListOperatorsReply>, Status> {
        let hall = self.door().router.hall();
        let operators = operate::operators(self.door(), &hall, request.get_ref());
        answer(operators.map(|operators| proto::ListOperatorsReply { operators, map_revision: hall.map.revision }))
    }

    async fn move_replica(
        &self,
        request: Request<proto::MoveReplicaRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let changed = async {
            let command = operate::move_replica(&self.door().router.hall(), &request)?;
            self.change_or_foresee(&metadata, command, request.dry_run).await
        };
        answer(changed.await)
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let changed = async {
            let command = operate::transfer_leader(self.door(), &self.door().router.hall(), &request)?;
            self.change_or_foresee(&metadata, command, request.dry_run).await
        };
        answer(changed.await)
    }

    async fn upgrade_status(
        &self,
        _: Request<proto::UpgradeStatusRequest>,
    ) -> Result<Response<proto::UpgradeReply>, Status> {
        Ok(Response::new(upgrade::reply(self.door(), &self.door().router.hall(), self.facts.start)))
    }

    async fn finalize_upgrade(
        &self,
        request: Request<proto::FinalizeUpgradeRequest>,
    ) -> Result<Response<proto::UpgradeReply>, Status> {
        let raised = self.change(request.metadata(), MetadataCommand::RaiseBehaviour { behaviour: None }).await;
        answer(raised.map(|(_, hall)| upgrade::reply(self.door(), &hall, self.facts.start)))
    }

    async fn cancel_operator(
        &self,
        request: Request<proto::CancelOperatorRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let command = MetadataCommand::CancelOperator { operator: OperatorId(request.id) };
        answer(self.change_or_foresee(&metadata, command, request.dry_run).await)
    }

    async fn change_node(
        &self,
        request: Request<proto::ChangeNodeRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let changed = async {
            let command = operate::change_node(&request)?;
            self.change_or_foresee(&metadata, command, request.dry_run).await
        };
        answer(changed.await)
    }
}
