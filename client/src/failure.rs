//! What one attempt came back with, other than an answer.
//!
//! ```text
//!   tonic::Status ── google.rpc.ErrorInfo, domain "kvorum" ──▶ what the server says: effect, retry, limit, leader
//!                └─ none ─▶ never connected: Effect::None · anything else: Effect::Unknown
//! ```
//!
//! **Invariant.** `Effect::None` comes from a server that says so, or from a connection that was never made. A request
//! that may have left this machine and was not answered is `Effect::Unknown`.

use crate::breaker::Trouble;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kvorum_api::{Effect, NodeId, Retry, error::LeaderHint, frame, proto};
use prost::Message as _;
use std::{collections::BTreeMap, error::Error, fmt, time::Duration};
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt as _;

/// The domain of our error details.
const DOMAIN: &str = "kvorum";

/// The reason of an id that is too old or below what the shard remembers.
pub(crate) const REQUEST_ID_EXPIRED: &str = "REQUEST_ID_EXPIRED";

/// The reason of a stamp that is ahead of the server's clock.
pub(crate) const STAMP_AHEAD: &str = "STAMP_AHEAD";

/// The reason of an epoch, or a range, that has passed.
pub(crate) const STALE_EPOCH: &str = "STALE_EPOCH";

/// The reason of a keyspace the node does not know, or not yet.
pub(crate) const UNKNOWN_KEYSPACE: &str = "UNKNOWN_KEYSPACE";

/// The reason of a request that is wrong in itself.
const MALFORMED: &str = "MALFORMED";

/// The reason of our own when a node already holds as much of this client as it may.
pub(crate) const CLIENT_OVERLOADED: &str = "CLIENT_OVERLOADED";

/// The reason of our own when a node let us wait.
const NO_ANSWER: &str = "NO_ANSWER";

/// Pause when a server says "later" and does not say when.
const LATER_DEFAULT: Duration = Duration::from_millis(100);

/// What kind of trouble it is, for those who only want to branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The request itself is at fault: asking again will not help.
    Request,
    /// Not allowed.
    Denied,
    /// A limit on load was met: slow down.
    Throttled,
    /// Something else was done to the same thing meanwhile.
    Conflict,
    /// No node could answer for the shard, or none in time.
    Unavailable,
}

/// An attempt without an answer, as told by a server or found by this client.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What kind of trouble it is.
    pub kind: FailureKind,
    /// Whether the write may have happened. For reads always [`Effect::None`].
    pub effect: Effect,
    /// The machine-readable reason, upper case: what the server named, or the gRPC code.
    pub reason: String,
    /// For people: names the field, the limit and the fix where there is one.
    pub message: String,
    /// What to do next.
    pub retry: Retry,
    /// The limit that was met.
    pub limit: Option<Box<str>>,
    /// Who leads, if the node asked knows.
    pub leader: Option<Box<LeaderHint>>,
    /// Address of the node that was asked last.
    pub node: Option<Box<str>>,
    /// What a shard is now, when the asker's knowledge of it was out of date.
    pub(crate) shard_entry: Option<Box<proto::Shard>>,
    /// What of the request belongs to another keyspace than the node's of that name.
    pub(crate) foreign: Option<Foreign>,
}

/// A part of a request that is of another keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Foreign {
    /// The session token.
    Token,
    /// The shard it names.
    Shard,
}

impl Failure {
    /// Reads the status one node answered (or the transport made up).
    pub(crate) fn from_status(status: &Status, node: &str) -> Self {
        match status.get_details_error_info() {
            Some(info) if info.domain == DOMAIN => {
                Self::told(status.code(), status.message(), &info.reason, &info.metadata, node)
            }
            _ => Self::untold(status, node),
        }
    }

    /// Reads the failure one node answered within a frame: the same words as in a status.
    pub(crate) fn from_frame(failure: &frame::Failure, node: &str) -> Self {
        let code = Code::from_i32(i32::from(failure.code));
        Self::told(code, &failure.message, &failure.reason, &failure.metadata, node)
    }

    /// No answer from `node` within `waited`.
    pub(crate) fn no_answer(node: &str, waited: Duration) -> Self {
        Self::lost(NO_ANSWER, format!("no answer within {waited:?}"), node)
    }

    /// No answer to this request within `waited`, while `node` answered others: the shard is in trouble, not the node.
    pub(crate) fn unanswered(node: &str, waited: Duration) -> Self {
        Self::lost("DEADLINE_EXCEEDED", format!("no answer within {waited:?}, though the node answers others"), node)
    }

    /// The stream broke after the request had left.
    pub(crate) fn broken(node: &str, why: &str) -> Self {
        Self::lost("UNAVAILABLE", format!("the stream broke: {why}"), node)
    }

    /// Handed over, and not answered.
    fn lost(reason: &str, message: String, node: &str) -> Self {
        let failure = Self::not_sent(reason, message, Some(node));
        Failure { effect: Effect::Unknown, retry: Retry::SameRequestId, ..failure }
    }

    /// This client's own limit for one node was met; nothing was sent.
    pub(crate) fn overloaded(limit: &str, max: usize, node: &str) -> Self {
        let message = format!("this client is at its limit {limit} of {max} for one node: wait for answers first");
        Failure {
            kind: FailureKind::Throttled,
            retry: Retry::Later(LATER_DEFAULT),
            limit: Some(limit.into()),
            ..Self::not_sent(CLIENT_OVERLOADED, message, Some(node))
        }
    }

    /// Too many writes lie between the shard's oldest unanswered one and this one, which was not sent.
    pub(crate) fn too_far_ahead(limit: &str, max: usize) -> Self {
        let message = format!(
            "this client has {limit} of {max} writes to the shard since its oldest unanswered one, whose outcome the \
             shard must not forget: settle that write, or drop its handle"
        );
        Failure { message, node: None, limit: Some(limit.into()), ..Self::overloaded(limit, max, "") }
    }

    /// A session goes on with the keyspace it began with; nothing was sent.
    pub(crate) fn foreign_session(message: String, node: &str) -> Self {
        Failure {
            kind: FailureKind::Request,
            retry: Retry::Never,
            foreign: Some(Foreign::Token),
            ..Self::not_sent(MALFORMED, message, Some(node))
        }
    }

    /// Found before anything was sent.
    pub(crate) fn not_sent(reason: &str, message: String, node: Option<&str>) -> Self {
        Failure {
            kind: FailureKind::Unavailable,
            effect: Effect::None,
            reason: reason.to_owned(),
            message,
            retry: Retry::Elsewhere,
            limit: None,
            leader: None,
            node: node.map(Box::from),
            shard_entry: None,
            foreign: None,
        }
    }

    fn told<'a>(
        code: Code,
        message: &str,
        reason: &str,
        metadata: impl IntoIterator<Item = (&'a String, &'a String)>,
        node: &str,
    ) -> Self {
        let metadata: BTreeMap<&str, &str> =
            metadata.into_iter().map(|(name, word)| (name.as_str(), word.as_str())).collect();
        let word = |name: &str| metadata.get(name).copied().filter(|word| !word.is_empty());
        // A server that does not say "none" has proven nothing.
        let effect = if word("effect") == Some("none") { Effect::None } else { Effect::Unknown };
        let later = word("retry_after_ms").and_then(|ms| ms.parse().ok()).map_or(LATER_DEFAULT, Duration::from_millis);
        let retry = match word("retry") {
            Some("never") => Retry::Never,
            Some("elsewhere") => Retry::Elsewhere,
            Some("later") => Retry::Later(later),
            Some("same_request_id") => Retry::SameRequestId,
            _ if effect == Effect::Unknown => Retry::SameRequestId,
            _ => Retry::Later(later),
        };
        let leader = word("leader").and_then(|id| id.parse().ok()).zip(word("leader_address"));
        Failure {
            kind: kind_of(code, reason, effect, retry),
            effect,
            reason: reason.to_owned(),
            message: message.to_owned(),
            retry,
            limit: word("limit").map(Box::from),
            leader: leader.map(|(id, address)| Box::new(LeaderHint { node: NodeId(id), address: address.to_owned() })),
            node: Some(node.into()),
            shard_entry: word("shard_entry").and_then(shard_from),
            foreign: word("field").filter(|_| reason == MALFORMED).and_then(foreign_of),
        }
    }

    fn untold(status: &Status, node: &str) -> Self {
        // The transport's own clock for the same deadline; it may be the first to notice.
        let is_late = caused_by::<TimeoutExpired>(status);
        let (effect, retry) = match status.code() {
            _ if caused_by::<ConnectError>(status) => (Effect::None, Retry::Elsewhere),
            // Answered by the router or by a guard in front of the service, before any handler ran.
            Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => (Effect::None, Retry::Never),
            _ => (Effect::Unknown, Retry::SameRequestId),
        };
        Failure {
            kind: kind_of(status.code(), reason_of(status.code()), effect, retry),
            effect,
            reason: if is_late { NO_ANSWER } else { reason_of(status.code()) }.to_owned(),
            message: if is_late { "no answer in time".to_owned() } else { text_of(status) },
            retry,
            limit: None,
            leader: None,
            node: Some(node.into()),
            shard_entry: None,
            foreign: None,
        }
    }

    /// What the failure says of the node: a reason of its own shows that it is there.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        match self.reason.as_str() {
            NO_ANSWER => Some(Trouble::Silent),
            "UNAVAILABLE" | "UNKNOWN" => Some(Trouble::Broken),
            _ => None,
        }
    }

    pub(crate) fn is(&self, reason: &str) -> bool {
        self.reason.eq_ignore_ascii_case(reason)
    }

    /// The session token is of another keyspace than the node's of that name. The asker's map may be of a dropped one.
    pub(crate) fn is_foreign_token(&self) -> bool {
        self.foreign == Some(Foreign::Token)
    }

    /// The shard that was named is none of the keyspace: the asker's map is of a dropped one of that name.
    pub(crate) fn is_foreign_shard(&self) -> bool {
        self.foreign == Some(Foreign::Shard)
    }

    /// This replica could not honour the level; another one may, the leader surely.
    pub(crate) fn is_level_not_met(&self) -> bool {
        self.is("SESSION_NOT_MET") || self.is("TOO_STALE")
    }
}

fn foreign_of(field: &str) -> Option<Foreign> {
    match field {
        "session_token" => Some(Foreign::Token),
        "shard" => Some(Foreign::Shard),
        _ => None,
    }
}

/// The entry of a shard, as error details carry it: the message in base64.
fn shard_from(word: &str) -> Option<Box<proto::Shard>> {
    proto::Shard::decode(STANDARD.decode(word).ok()?.as_slice()).ok().map(Box::new)
}

fn kind_of(code: Code, reason: &str, effect: Effect, retry: Retry) -> FailureKind {
    match code {
        Code::PermissionDenied | Code::Unauthenticated => FailureKind::Denied,
        // Slowing down makes no room on a disk.
        Code::ResourceExhausted if retry != Retry::Never && reason != "DISK_FULL" => FailureKind::Throttled,
        Code::Aborted | Code::AlreadyExists => FailureKind::Conflict,
        _ if retry == Retry::Never && effect == Effect::None => FailureKind::Request,
        _ => FailureKind::Unavailable,
    }
}

fn caused_by<E: Error + 'static>(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<E>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The status' own text and, because transports say little at the surface, the innermost cause.
fn text_of(status: &Status) -> String {
    let mut innermost = None;
    let mut source = status.source();
    while let Some(error) = source {
        innermost = Some(error.to_string());
        source = error.source();
    }
    match innermost {
        Some(cause) if cause != status.message() => format!("{}: {cause}", status.message()),
        _ => status.message().to_owned(),
    }
}

fn reason_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{} (asked {node})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, ErrorInfo};

    fn told(code: Code, metadata: &[(&str, &str)]) -> Failure {
        let nothing: [(String, String); 0] = [];
        let mut info = ErrorInfo::new("REASON", DOMAIN, nothing);
        info.metadata.extend(metadata.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned())));
        Failure::from_status(&Status::with_error_details_vec(code, "text", [info.into()]), "n1")
    }

    #[test]
    fn what_the_server_says_is_read_from_the_details() {
        let failure = told(
            Code::FailedPrecondition,
            &[("effect", "none"), ("retry", "elsewhere"), ("leader", "3"), ("leader_address", "h:1"), ("limit", "l")],
        );
        assert_eq!((failure.effect, failure.retry), (Effect::None, Retry::Elsewhere));
        assert_eq!(failure.leader, Some(Box::new(LeaderHint { node: NodeId(3), address: "h:1".to_owned() })));
        assert_eq!((failure.limit.as_deref(), failure.reason.as_str()), (Some("l"), "REASON"));
        assert_eq!(failure.kind, FailureKind::Unavailable);
    }

    #[test]
    fn a_pause_asked_for_is_kept() {
        let failure =
            told(Code::ResourceExhausted, &[("effect", "none"), ("retry", "later"), ("retry_after_ms", "70")]);
        assert_eq!(failure.retry, Retry::Later(Duration::from_millis(70)));
        assert_eq!(failure.kind, FailureKind::Throttled);
    }

    #[test]
    fn a_server_that_does_not_say_none_has_proven_nothing() {
        for metadata in [&[][..], &[("effect", "perhaps")], &[("effect", "unknown"), ("retry", "never")]] {
            assert_eq!(told(Code::InvalidArgument, metadata).effect, Effect::Unknown, "{metadata:?}");
        }
    }

    #[test]
    fn a_status_without_our_details_is_unknown_unless_no_handler_ran() {
        let unknown =
            [Code::Unavailable, Code::Internal, Code::Cancelled, Code::ResourceExhausted, Code::InvalidArgument];
        for code in unknown {
            let failure = Failure::from_status(&Status::new(code, "text"), "n1");
            assert_eq!((failure.effect, failure.retry), (Effect::Unknown, Retry::SameRequestId), "{code:?}");
        }
        for code in [Code::Unimplemented, Code::PermissionDenied, Code::Unauthenticated] {
            assert_eq!(Failure::from_status(&Status::new(code, "text"), "n1").effect, Effect::None, "{code:?}");
        }
    }

    #[test]
    fn details_of_another_domain_prove_nothing() {
        let details = ErrorDetails::with_error_info("X", "proxy", [("effect".to_owned(), "none".to_owned())]);
        let status = Status::with_error_details(Code::Unavailable, "text", details);
        assert_eq!(Failure::from_status(&status, "n1").effect, Effect::Unknown);
    }

    #[test]
    fn a_connection_never_made_sent_nothing() {
        let status = Status::from_error(Box::new(ConnectError("refused".into())));
        let failure = Failure::from_status(&status, "n1");
        assert_eq!((failure.effect, failure.retry), (Effect::None, Retry::Elsewhere));
        assert_eq!(failure.trouble(), Some(Trouble::Broken));
    }

    #[test]
    fn silence_is_told_from_refusal() {
        let status = Status::from_error(Box::new(TimeoutExpired(())));
        let failure = Failure::from_status(&status, "n1");
        assert_eq!((failure.effect, failure.trouble()), (Effect::Unknown, Some(Trouble::Silent)));
        assert_eq!(Failure::no_answer("n1", LATER_DEFAULT).trouble(), Some(Trouble::Silent));
        let answered = told(Code::DeadlineExceeded, &[("effect", "unknown")]);
        assert_eq!(answered.trouble(), None, "it said so itself");
        assert_eq!(Failure::unanswered("n1", LATER_DEFAULT).trouble(), None, "it answers others");
    }

    #[test]
    fn a_frame_says_the_same_as_a_status_and_may_bring_the_entry_of_a_shard() {
        let shard = proto::Shard { id: 9, epoch: 4, ..Default::default() };
        let entry = STANDARD.encode(shard.encode_to_vec());
        let metadata = [("effect", "none"), ("retry", "elsewhere"), ("shard_entry", &entry)];
        let told = told(Code::FailedPrecondition, &metadata);
        let metadata = metadata.map(|(name, word)| (name.to_owned(), word.to_owned()));
        let (reason, message) = ("REASON".to_owned(), "text".to_owned());
        let framed = frame::Failure { code: 9, reason, message, metadata: metadata.into() };
        assert_eq!(Failure::from_frame(&framed, "n1"), told);
        assert_eq!(told.shard_entry.as_deref(), Some(&shard));
    }
}
