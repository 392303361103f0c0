//! What an operator is told by the scripted cluster.

use super::{Fault, Told, World, door::Door};
use kvorum_api::proto;
use proto::admin_server::Admin;
use tonic::{Code, Request, Response, Status};

#[tonic::async_trait]
impl Admin for Door {
    async fn node_status(
        &self,
        _request: Request<proto::NodeStatusRequest>,
    ) -> Result<Response<proto::NodeStatusReply>, Status> {
        let world = self.world.lock();
        let is_leader = world.leader == Some(self.node);
        let replica = proto::ReplicaStatus {
            keyspace: "default".to_owned(),
            shard: 1,
            replica: self.node as u64 + 1,
            role: if is_leader { "leader" } else { "follower" }.to_owned(),
            term: 2,
            applied_index: world.shards[0].index,
            rolling_hash: "abcdef0123456789".to_owned(),
            staleness_ms: is_leader.then_some(0),
            ..Default::default()
        };
        Ok(Response::new(proto::NodeStatusReply {
            cluster: "00112233445566778899aabbccddeeff".to_owned(),
            node: self.node as u64 + 1,
            start_count: 1,
            build: "fake".to_owned(),
            ready: true,
            workers: vec![
                proto::WorkerStatus {
                    name: "hello".to_owned(),
                    state: "idle".to_owned(),
                    runs: 7,
                    ..Default::default()
                },
                proto::WorkerStatus {
                    name: "founding".to_owned(),
                    state: "idle".to_owned(),
                    runs: 8,
                    last_error: "node 2 has not answered".to_owned(),
                    last_error_ms_ago: Some(3_600_000),
                },
            ],
            replicas: vec![replica],
            journal: Some(proto::JournalStatus {
                segments: 2,
                bytes: 128 << 20,
                last_synced_batch: 9,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn list_keyspaces(
        &self,
        request: Request<proto::ListKeyspacesRequest>,
    ) -> Result<Response<proto::ListKeyspacesReply>, Status> {
        let names = request.into_inner().names;
        // Commands look up their keyspace first: the script is about what they do then.
        if names.is_empty() {
            self.scripted()?;
        }
        let world = self.world.lock();
        let is_asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
        let keyspaces = world.keyspaces.iter().filter(|(name, _)| is_asked(name));
        let keyspaces = keyspaces.map(|(name, _)| describe(&world, name)).collect();
        Ok(Response::new(proto::ListKeyspacesReply { keyspaces, map_revision: world.revision }))
    }

    async fn list_nodes(&self, _: Request<proto::ListNodesRequest>) -> Result<Response<proto::ListNodesReply>, Status> {
        let world = self.world.lock();
        let node = |(node, address): (usize, &String)| proto::NodeDescription {
            id: node as u64 + 1,
            client: address.clone(),
            liveness: "alive".to_owned(),
            // What a node tells of itself, and of others it has not heard.
            start_count: (node == 0).then_some(4),
            ..Default::default()
        };
        let nodes = world.addresses.iter().enumerate().map(node).collect();
        Ok(Response::new(proto::ListNodesReply { nodes, map_revision: world.revision }))
    }

    async fn capabilities(
        &self,
        _: Request<proto::CapabilitiesRequest>,
    ) -> Result<Response<proto::CapabilitiesReply>, Status> {
        let row = proto::Capability { feature: "scan".to_owned(), cp: "yes".to_owned(), ap: "yes".to_owned() };
        Ok(Response::new(proto::CapabilitiesReply { rows: vec![row] }))
    }

    async fn create_keyspace(
        &self,
        request: Request<proto::CreateKeyspaceRequest>,
    ) -> Result<Response<proto::KeyspaceDescription>, Status> {
        let request = request.into_inner();
        self.world.lock().changes += 1;
        self.scripted()?;
        let mut world = self.world.lock();
        if world.keyspaces.iter().any(|(name, _)| *name == request.name) {
            return Err(Told::new(Code::AlreadyExists, "EXISTS", &[("effect", "none"), ("retry", "never")]).status());
        }
        world.keyspaces.push((request.name.clone().leak(), "cp"));
        world.revision += 1;
        Ok(Response::new(proto::KeyspaceDescription { wish: request.wish, ..describe(&world, &request.name) }))
    }

    async fn alter_keyspace(
        &self,
        request: Request<proto::AlterKeyspaceRequest>,
    ) -> Result<Response<proto::KeyspaceDescription>, Status> {
        let request = request.into_inner();
        let world = self.world.lock();
        known(&world, &request.name)?;
        Ok(Response::new(proto::KeyspaceDescription { wish: request.wish, ..describe(&world, &request.name) }))
    }

    async fn drop_keyspace(
        &self,
        request: Request<proto::DropKeyspaceRequest>,
    ) -> Result<Response<proto::DropKeyspaceReply>, Status> {
        let request = request.into_inner();
        let mut world = self.world.lock();
        known(&world, &request.name)?;
        world.keyspaces.retain(|(name, _)| *name != request.name);
        world.revision += 1;
        Ok(Response::new(proto::DropKeyspaceReply { id: world.keyspace, map_revision: world.revision }))
    }

    async fn list_operators(
        &self,
        request: Request<proto::ListOperatorsRequest>,
    ) -> Result<Response<proto::ListOperatorsReply>, Status> {
        let request = request.into_inner();
        let world = self.world.lock();
        let is_asked = |operator: &&proto::OperatorDescription| {
            let is_named = request.ids.is_empty() || request.ids.contains(&operator.id);
            is_named && (request.all || !request.ids.is_empty() || operator.ended_ms.is_none())
        };
        let operators = world.operators.iter().filter(is_asked).cloned().collect();
        Ok(Response::new(proto::ListOperatorsReply { operators, map_revision: world.revision }))
    }

    async fn move_replica(
        &self,
        request: Request<proto::MoveReplicaRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        self.scripted()?;
        let request = request.into_inner();
        if request.dry_run {
            return Ok(Response::new(foreseen(&request)));
        }
        // It waits for its leader until somebody cancels it.
        Ok(Response::new(self.operate("move", request.shard, (Some(request.from_node), request.to_node), false)))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        self.scripted()?;
        let request = request.into_inner();
        if request.dry_run {
            return Ok(Response::new(proto::ChangeReply::default()));
        }
        let to = request.to_node.max(1);
        self.world.lock().leaders.insert(request.shard, usize::try_from(to).unwrap() - 1);
        Ok(Response::new(self.operate("lead", request.shard, (None, to), true)))
    }

    async fn upgrade_status(
        &self,
        _: Request<proto::UpgradeStatusRequest>,
    ) -> Result<Response<proto::UpgradeReply>, Status> {
        Ok(Response::new(proto::UpgradeReply { behaviour: 1, newest: 1, ..Default::default() }))
    }

    async fn finalize_upgrade(
        &self,
        _: Request<proto::FinalizeUpgradeRequest>,
    ) -> Result<Response<proto::UpgradeReply>, Status> {
        self.scripted()?;
        Ok(Response::new(proto::UpgradeReply { behaviour: 1, newest: 1, ..Default::default() }))
    }

    async fn cancel_operator(
        &self,
        request: Request<proto::CancelOperatorRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        let id = request.into_inner().id;
        let mut world = self.world.lock();
        let Some(operator) = world.operators.iter_mut().find(|operator| operator.id == id) else {
            return Err(Told::new(Code::NotFound, "NOT_FOUND", &[("effect", "none"), ("retry", "never")]).status());
        };
        (operator.state, operator.ended_ms) = ("cancelled".to_owned(), Some(2));
        let operator = Some(operator.clone());
        Ok(Response::new(proto::ChangeReply { operator, ..proto::ChangeReply::default() }))
    }

    async fn change_node(
        &self,
        request: Request<proto::ChangeNodeRequest>,
    ) -> Result<Response<proto::ChangeReply>, Status> {
        self.scripted()?;
        let request = request.into_inner();
        let node = proto::NodeDescription { id: request.node, state: request.state.clone(), ..Default::default() };
        let node = Some(node).filter(|_| request.state != "forgotten" && !request.dry_run);
        Ok(Response::new(proto::ChangeReply { node, ..proto::ChangeReply::default() }))
    }
}

/// What a dry run of a move is told.
fn foreseen(request: &proto::MoveReplicaRequest) -> proto::ChangeReply {
    let one = proto::ForeseenMove {
        shard: request.shard,
        keyspace: "default".to_owned(),
        task: "move".to_owned(),
        from_node: Some(request.from_node),
        to_node: Some(request.to_node),
        bytes: Some(3 << 20),
        spare_before: 1,
        spare_meanwhile: 0,
    };
    proto::ChangeReply { moves: vec![one], held_up: vec!["shard 9: waits its turn".to_owned()], ..Default::default() }
}

impl Door {
    fn operate(&self, task: &str, shard: u64, seats: (Option<u64>, u64), is_done: bool) -> proto::ChangeReply {
        let mut world = self.world.lock();
        let operator = proto::OperatorDescription {
            id: world.operators.len() as u64 + 1,
            shard,
            keyspace: "default".to_owned(),
            task: task.to_owned(),
            from_node: seats.0,
            to_node: Some(seats.1),
            origin: "user".to_owned(),
            cause: "asked for".to_owned(),
            state: if is_done { "done" } else { "running" }.to_owned(),
            created_ms: 1,
            ended_ms: is_done.then_some(2),
            waits_for: if is_done { "" } else { "replica 7 has not answered yet" }.to_owned(),
            ..proto::OperatorDescription::default()
        };
        world.operators.push(operator.clone());
        proto::ChangeReply { operator: Some(operator), ..proto::ChangeReply::default() }
    }

    /// What the script says of the next request of an operator.
    fn scripted(&self) -> Result<(), Status> {
        match self.next_fault() {
            Some(Fault::Refuse(told)) => Err(told.status()),
            Some(_) => Err(Status::unavailable("connection lost by the script")),
            None => Ok(()),
        }
    }
}

fn known(world: &World, name: &str) -> Result<(), Status> {
    if world.keyspaces.iter().any(|(known, _)| *known == name) {
        return Ok(());
    }
    Err(Told::new(Code::NotFound, "NOT_FOUND", &[("effect", "none"), ("retry", "never")]).status())
}

fn describe(world: &World, name: &str) -> proto::KeyspaceDescription {
    proto::KeyspaceDescription {
        name: name.to_owned(),
        id: world.keyspace,
        map_revision: world.revision,
        ..Default::default()
    }
}
