//! The client's side of a Pingora session.

use std::sync::Arc;

use futures_util::FutureExt;
use http::header;
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use crate::{
    answer::{Answer, Rendered},
    bulletin::Bulletin,
    client_stream::ClientStream,
    exchange::Exchange,
    transport::ConnFacts,
};

/// Facts about the connection, which our stream put into Pingora's digest.
pub(super) fn facts_of(session: &Session) -> Option<Arc<ConnFacts>> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<ConnFacts>>().cloned()
}

/// The stream of an HTTP/1 client.
pub(super) fn client_stream(session: &Session) -> Option<&ClientStream> {
    match &*session.downstream_session {
        ServerSession::H1(h1) => (**h1.stream()).as_any().downcast_ref(),
        _ => None,
    }
}

/// Whether the client has left, asked without waiting.
pub(super) fn has_left(session: &mut Session) -> bool {
    match client_stream(session) {
        Some(stream) => stream.has_left(),
        None => left(session).now_or_never().is_some(),
    }
}

/// Resolves when the client has left: closed its connection, or reset its stream.
pub(super) async fn left(session: &mut Session) {
    match &mut *session.downstream_session {
        ServerSession::H2(h2) => drop(h2.idle().await),
        ServerSession::H1(h1) => match (**h1.stream()).as_any().downcast_ref::<ClientStream>() {
            Some(stream) => stream.left().await,
            None => std::future::pending().await,
        },
        _ => std::future::pending().await,
    }
}

pub(super) async fn write_answer(
    session: &mut Session,
    answer: &Answer,
    exchange: Option<&Exchange>,
) -> Result<()> {
    let reply = answer.reply();
    if reply.status == 499 {
        return Ok(());
    }
    let Rendered { status, fields, body } = match exchange {
        Some(exchange) => exchange.render(answer),
        None => answer.render(None, "", None),
    };
    let mut response = ResponseHeader::build(status, Some(fields.len() + 3))?;
    for (name, value) in fields {
        response.insert_header(name, value)?;
    }
    if status != http::StatusCode::NO_CONTENT {
        response.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    let bodiless = body.is_empty() || session.req_header().method == http::Method::HEAD;
    if reply.closes {
        session.set_keepalive(None);
    }
    session.write_response_header(Box::new(response), bodiless).await?;
    if bodiless {
        session.downstream_session.finish_body().await?;
    } else {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

/// Tells a waiting page what becomes of the start.
pub(super) async fn write_bulletin(session: &mut Session, mut bulletin: Bulletin) -> Result<()> {
    let mut response = ResponseHeader::build(http::StatusCode::OK, Some(6))?;
    for (name, value) in Bulletin::fields() {
        response.insert_header(name, value)?;
    }
    session.write_response_header(Box::new(response), false).await?;
    loop {
        let told = tokio::select! {
            () = left(session) => return Ok(()),
            told = bulletin.next() => told,
        };
        let Some(told) = told else { break };
        session.write_response_body(Some(told), false).await?;
    }
    session.downstream_session.finish_body().await?;
    Ok(())
}
