//! The admin door: plain HTTP for the machines that look after a node.
//!
//! ```text
//!   /metrics   figures, for Prometheus
//!   /healthz   200 as long as the process answers
//!   /readyz    200 ready │ 503 why not, one reason a line
//! ```

use crate::{metrics, rpc::status_out::Facts};
use axum::{Router, extract::State, http::StatusCode, routing::get};
use kvorum_storage::Engine;
use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;

/// What the handlers look at.
#[derive(Clone)]
pub struct Admin {
    /// The node.
    pub facts: Arc<Facts>,
    /// Its engine, for its figures.
    pub engine: Arc<dyn Engine>,
    /// The recorder.
    pub recorder: PrometheusHandle,
}

/// The pages.
pub fn pages(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(figures))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(admin)
}

async fn figures(State(admin): State<Admin>) -> String {
    metrics::take_readings(&admin.facts, admin.engine.as_ref());
    admin.recorder.render()
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let reasons = admin.facts.unready(&admin.facts.door.node.status());
    match reasons.is_empty() {
        true => (StatusCode::OK, "ready\n".to_owned()),
        false => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))),
    }
}
