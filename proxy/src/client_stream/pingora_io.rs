//! What Pingora asks of a stream beyond reading and writing.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType, raw_connect::ProxyDigest,
};
use pingora_http::ResponseHeader;
use tokio::io::AsyncWriteExt;

use super::ClientStream;
use crate::transport::{ConnFacts, Transport};

/// What Pingora hands from the stream to each session: made once per connection.
pub(super) struct Digests {
    proxy: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
}

impl Digests {
    pub(super) fn new(io: &Transport, facts: &Arc<ConnFacts>) -> Self {
        // The one field of a digest that carries a value of ours.
        let no_response = ResponseHeader::build_no_case(200, Some(0)).expect("200 is a status");
        let proxy = ProxyDigest::new(Box::new(no_response), Some(Box::new(Arc::clone(facts))));
        Self { proxy: Arc::new(proxy), socket: Arc::new(SocketDigest::from_raw_fd(io.number())) }
    }
}

impl GetProxyDigest for ClientStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(Arc::clone(&self.digest.proxy))
    }
}

impl GetSocketDigest for ClientStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest.socket))
    }
}

impl GetTimingDigest for ClientStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl UniqueID for ClientStream {
    fn id(&self) -> UniqueIDType {
        self.io().number()
    }
}

impl Ssl for ClientStream {}

/// Not supported on purpose: whether a connection speaks HTTP/2 is decided before Pingora sees it.
impl Peek for ClientStream {}

#[async_trait]
impl Shutdown for ClientStream {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            tracing::debug!(%error, "client gone before the connection was shut down");
        }
    }
}
