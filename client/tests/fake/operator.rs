//! What an operator is told by the scripted cluster.

use super::door::Door;
use kvorum_api::proto;
use proto::admin_server::Admin;
use tonic::{Request, Response, Status};

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
        _: Request<proto::ListKeyspacesRequest>,
    ) -> Result<Response<proto::ListKeyspacesReply>, Status> {
        Err(Status::unimplemented("no test asks the scripted cluster for it"))
    }

    async fn list_nodes(&self, _: Request<proto::ListNodesRequest>) -> Result<Response<proto::ListNodesReply>, Status> {
        Err(Status::unimplemented("no test asks the scripted cluster for it"))
    }

    async fn capabilities(
        &self,
        _: Request<proto::CapabilitiesRequest>,
    ) -> Result<Response<proto::CapabilitiesReply>, Status> {
        Err(Status::unimplemented("no test asks the scripted cluster for it"))
    }

    async fn create_keyspace(
        &self,
        _: Request<proto::CreateKeyspaceRequest>,
    ) -> Result<Response<proto::KeyspaceDescription>, Status> {
        Err(Status::unimplemented("no test asks the scripted cluster for it"))
    }

    async fn alter_keyspace(
        &self,
        _: Request<proto::AlterKeyspaceRequest>,
    ) -> Result<Response<proto::KeyspaceDescription>, Status> {
        Err(Status::unimplemented("no test asks the scripted cluster for it"))
    }

    async fn drop_keyspace(
        &self,
        _: Request<proto::DropKeyspaceRequest>,
    ) -> Result<Response<proto::DropKeyspaceReply>, Status> {
        Err(Status::unimplemented("no test asks the scripted cluster for it"))
    }

    async fn transfer_leader(
        &self,
        _: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderReply>, Status> {
        Err(Status::unimplemented("no test asks the scripted cluster for it"))
    }
}
