//! Joining: a directory that is nobody yet asks those that are in for a node id.
//!
//! ```text
//!   joiner                                      any node that is in
//!     directory number (durable first) ──▶ proof fits the cluster's key? ──▶ metadata: Join
//!     cluster id, node id, map         ◀────────────────────────────────────────┘
//! ```
//!
//! **Invariant.** The same directory gets the same node id, however often it asks and whoever answers. The key itself
//! never travels.

use crate::cluster_key::ClusterKey;
use bytes::Bytes;
use kvorum_api::{ClusterId, NodeId, proto, proto::peer_client::PeerClient};
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, transport::Endpoint};

/// What the proof of a joining node is for, and its version.
const PURPOSE: &str = "kvorum join 1";

/// How long one node may take to answer: a change of the metadata, and a leader to be found for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two rounds over all addresses: the first pause, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Bytes of the largest map that is taken.
const MAP_BYTES_MAX: usize = 64 << 20;

/// What a joining node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applicant {
    /// Its directory's number.
    pub directory: u128,
    /// Where clients reach it.
    pub client: String,
    /// Where nodes reach it.
    pub peer: String,
    /// Where it stands.
    pub zone: String,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The cluster it is in now.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// The map, in the codec of `consensus`.
    pub map: Bytes,
}

/// Why a node was not let in. Each is one sentence.
#[derive(Debug, Error)]
pub enum JoinError {
    /// A node that is in said no, and asking again would not help.
    #[error("{address} does not let this node in: {why}")]
    Refused {
        /// Who.
        address: String,
        /// What it said.
        why: String,
    },
    /// Nobody answered in time.
    #[error("no node let this one in within {patience_s} s: {}", .answers.join("; "))]
    Nobody {
        /// How long it tried.
        patience_s: u64,
        /// What each address said last.
        answers: Vec<String>,
    },
}

impl Applicant {
    /// As it goes over the wire, with the proof.
    #[must_use]
    pub fn request(&self, key: &ClusterKey) -> proto::JoinRequest {
        proto::JoinRequest {
            directory: Bytes::copy_from_slice(&self.directory.to_be_bytes()),
            client: self.client.clone(),
            peer: self.peer.clone(),
            zone: self.zone.clone(),
            proof: key.prove(PURPOSE, &self.parts(&self.directory.to_be_bytes())).into(),
        }
    }

    /// Whom a request is from, if its proof fits; `None` = it does not, or the request is none.
    #[must_use]
    pub fn proven(request: proto::JoinRequest, key: &ClusterKey) -> Option<Self> {
        let directory: [u8; 16] = request.directory.as_ref().try_into().ok()?;
        let applicant = Applicant {
            directory: u128::from_be_bytes(directory),
            client: request.client,
            peer: request.peer,
            zone: request.zone,
        };
        key.has_proven(PURPOSE, &applicant.parts(&directory), &request.proof).then_some(applicant)
    }

    fn parts<'a>(&'a self, directory: &'a [u8; 16]) -> [&'a [u8]; 4] {
        [directory, self.client.as_bytes(), self.peer.as_bytes(), self.zone.as_bytes()]
    }
}

/// Asks each address in turn, again and again, until one lets this node in or the patience ends.
///
/// # Errors
/// Who refused, or what each of them said last.
pub async fn ask(
    addresses: &[String],
    applicant: &Applicant,
    key: &ClusterKey,
    patience: Duration,
) -> Result<Admission, JoinError> {
    let until = Instant::now() + patience;
    let mut pause = PAUSE_MIN;
    loop {
        let mut answers = Vec::new();
        for address in addresses {
            let left = until.saturating_duration_since(Instant::now()).clamp(CONNECT_TIMEOUT, ANSWER_TIMEOUT);
            match ask_one(address, applicant, key, left).await {
                Ok(admission) => return Ok(admission),
                Err(Answer::Final(why)) => return Err(JoinError::Refused { address: address.clone(), why }),
                Err(Answer::Later(why)) => {
                    tracing::info!(%address, %why, "not let in yet");
                    answers.push(format!("{address}: {why}"));
                }
            }
        }
        if Instant::now() + pause >= until {
            return Err(JoinError::Nobody { patience_s: patience.as_secs(), answers });
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Why one address did not let us in.
enum Answer {
    /// Asking again gives the same.
    Final(String),
    /// Asking again may help.
    Later(String),
}

async fn ask_one(
    address: &str,
    applicant: &Applicant,
    key: &ClusterKey,
    patience: Duration,
) -> Result<Admission, Answer> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|_| Answer::Final("it is no host:port".to_owned()))?;
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy();
    let mut peer = PeerClient::new(channel).max_decoding_message_size(MAP_BYTES_MAX);
    let mut request = tonic::Request::new(applicant.request(key));
    request.set_timeout(patience);
    let reply = match timeout(patience, peer.join(request)).await {
        Ok(Ok(reply)) => reply.into_inner(),
        Ok(Err(status)) => return Err(judge(&status)),
        Err(_) => return Err(Answer::Later(format!("no answer in {} ms", patience.as_millis()))),
    };
    match <[u8; 16]>::try_from(reply.cluster.as_ref()) {
        Ok(cluster) if reply.node > 0 => {
            Ok(Admission { cluster: ClusterId(cluster), node: NodeId(reply.node), map: reply.map })
        }
        _ => {
            Err(Answer::Final("its answer names no cluster and no node: it is no Kvorum node of this build".to_owned()))
        }
    }
}

fn judge(status: &Status) -> Answer {
    let why = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied | Code::InvalidArgument | Code::AlreadyExists => Answer::Final(why),
        Code::Unimplemented => Answer::Final("it has no door for joining nodes: give a peer address".to_owned()),
        Code::Unavailable if why.contains("tcp connect error") || why.contains("transport error") => {
            Answer::Later("nobody answers there".to_owned())
        }
        _ => Answer::Later(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applicant() -> Applicant {
        Applicant { directory: 7, client: "a:1".into(), peer: "a:2".into(), zone: "z".into() }
    }

    #[test]
    fn a_request_is_believed_if_its_proof_fits_and_nothing_in_it_was_changed() {
        let key = ClusterKey::new([1; 32]);
        assert_eq!(Applicant::proven(applicant().request(&key), &key), Some(applicant()));
        assert_eq!(Applicant::proven(applicant().request(&ClusterKey::new([2; 32])), &key), None);
        let changed: [fn(&mut proto::JoinRequest); 5] = [
            |request| request.directory = Bytes::from_static(&[0; 16]),
            |request| request.client = "b:1".into(),
            |request| request.peer = "b:2".into(),
            |request| request.zone.clear(),
            |request| request.proof = Bytes::new(),
        ];
        for change in changed {
            let mut request = applicant().request(&key);
            change(&mut request);
            assert_eq!(Applicant::proven(request, &key), None);
        }
    }

    #[tokio::test]
    async fn a_node_that_nobody_answers_says_whom_it_asked() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let key = ClusterKey::new([1; 32]);
        let error =
            ask(std::slice::from_ref(&address), &applicant(), &key, Duration::from_millis(300)).await.unwrap_err();
        let why = error.to_string();
        assert!(why.contains(&address) && why.contains("nobody answers there"), "{why}");
    }

    #[tokio::test]
    async fn what_is_no_address_is_refused_at_once() {
        let key = ClusterKey::new([1; 32]);
        let error = ask(&["no address".to_owned()], &applicant(), &key, Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error, JoinError::Refused { .. }), "{error}");
    }
}
