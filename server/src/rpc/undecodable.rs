//! What tonic refuses before a handler sees it: bytes that are no message of the method, messages over the decode
//! limit.
//!
//! tonic answers those with codes that mean something else (`INTERNAL`, `OUT_OF_RANGE`) and without an effect. This
//! layer gives them the shape every other refusal has.
//!
//! **Invariant.** Only a status that carries no details is changed: what a handler said stays as it is.

use super::status;
use crate::metrics;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Code, Status, body::Body, codegen::http};
use tower::{Layer, Service};

/// Puts [`Undecodable`] around a service.
#[derive(Clone, Copy, Debug)]
pub struct UndecodableLayer;

/// Reshapes bare refusals of the service within.
#[derive(Clone, Debug)]
pub struct Undecodable<S> {
    inner: S,
}

impl<S> Layer<S> for UndecodableLayer {
    type Service = Undecodable<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Undecodable { inner }
    }
}

impl<S, B> Service<http::Request<B>> for Undecodable<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map(reshape) })
    }
}

/// A refusal without a body has its status in the head of the response.
fn reshape(response: http::Response<Body>) -> http::Response<Body> {
    let Some(found) = Status::from_header_map(response.headers()) else { return response };
    if !is_bare_refusal(&found) {
        return response;
    }
    metrics::undecodable();
    status::undecodable(&found).into_http()
}

fn is_bare_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::OutOfRange) && status.details().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::Refused;
    use tonic_types::StatusExt as _;

    fn through(status: Status) -> Status {
        Status::from_header_map(reshape(status.into_http()).headers()).unwrap()
    }

    #[test]
    fn bytes_that_are_no_message_are_the_senders_fault_and_had_no_effect() {
        let status = through(Status::internal("failed to decode Protobuf message"));
        assert_eq!(status.code(), Code::InvalidArgument);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["effect"].as_str()), ("MALFORMED", "none"));
    }

    #[test]
    fn a_message_over_the_limit_names_the_limit() {
        let info = through(Status::out_of_range("too large")).get_details_error_info().unwrap();
        assert_eq!(info.metadata["limit"], "request_bytes_max");
    }

    #[test]
    fn what_a_handler_said_stays() {
        let said = status::refused(&Refused::Draining);
        assert_eq!(through(said.clone()).message(), said.message());
        assert_eq!(through(Status::unimplemented("x")).code(), Code::Unimplemented);
    }
}
