//! What a request has in its path, behind the `?` and in its body; what is wrong with it is told as a
//! problem like any other.

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequestParts, rejection::PathRejection},
    http::{StatusCode, request::Parts},
};
use doorbell_config::registry::MOST_DEFINITION_BYTES;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Problem;

/// Bytes of a body: of thousands of apps at once.
const MOST_BYTES: usize = 64 * MOST_DEFINITION_BYTES;

/// The variable parts of a path.
pub(super) struct Path<T>(pub(super) T);

/// What stands behind the `?`.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        let wrong = |error: PathRejection| Problem::new(error.status(), &error.body_text());
        read.map(|axum::extract::Path(value)| Self(value)).map_err(wrong)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let read = axum::extract::Query::try_from_uri(&parts.uri);
        let wrong = |error: axum::extract::rejection::QueryRejection| {
            Problem::new(error.status(), &error.body_text())
        };
        read.map(|axum::extract::Query(value)| Self(value)).map_err(wrong)
    }
}

/// A body that is an object of JSON.
///
/// # Errors
/// If it is too large, breaks off, or is something else.
pub(super) async fn object(body: Body) -> Result<Map<String, Value>, Problem> {
    let bytes = to_bytes(body, MOST_BYTES).await.map_err(|error| {
        let why = format!("the body has more than {MOST_BYTES} bytes, or breaks off: {error}");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, &why)
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let why = format!("the body is no object of JSON: {error}");
        Problem::new(StatusCode::BAD_REQUEST, &why)
    })
}
