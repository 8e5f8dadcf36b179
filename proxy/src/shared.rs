//! What every connection shares.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::{
    access_log::{AccessLog, AccessRecord},
    answer::Reply,
    app::{Gates, Table},
    metrics::{AppMetrics, RequestFigures, ServerMetrics},
    transport::ConnFacts,
};

/// State of the data path. The table is swapped as a whole; everything else lives as long as
/// Doorbell.
pub struct Shared {
    /// What requests are decided by.
    pub table: ArcSwap<Table>,
    /// Where they get leases.
    pub gates: Gates,
    /// Figures of Doorbell as a whole.
    pub metrics: Arc<ServerMetrics>,
    /// Figures of requests that belong to no app.
    pub other: Arc<AppMetrics>,
    /// Where they are logged.
    pub access_log: ArcSwapOption<AccessLog>,
}

/// A place among the open connections; given back by `Drop`.
pub struct ConnectionPlace(Arc<ServerMetrics>);

impl Shared {
    /// Takes a place for a connection, unless `limits.connections` are open.
    #[must_use]
    pub fn connection_place(&self) -> Option<ConnectionPlace> {
        let cap = self.table.load().server.limits.connections;
        let open = self.metrics.connections.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionPlace(Arc::clone(&self.metrics));
        if usize::try_from(open).unwrap_or(0) >= cap {
            self.metrics.crowded.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.metrics.accepted.fetch_add(1, Ordering::Relaxed);
        Some(place)
    }
}

impl Shared {
    /// Counts and logs a request whose head was refused, before it became an exchange.
    pub fn refused(&self, facts: Option<&ConnFacts>, reply: &Reply, request_id: &str, sent: u64) {
        let method = http::Method::default();
        self.other.finish(&RequestFigures {
            method: &method,
            status: reply.status,
            took: Duration::ZERO,
            received_bytes: 0,
            sent_bytes: sent,
        });
        let Some(log) = self.access_log.load_full() else { return };
        log.record(&AccessRecord {
            client: facts.and_then(ConnFacts::peer_ip),
            method: "",
            target: b"",
            version: "",
            host: "",
            status: reply.status,
            sent_bytes: sent,
            received_bytes: 0,
            referer: None,
            user_agent: None,
            took: Duration::ZERO,
            held: Duration::ZERO,
            app: None,
            request_id,
        });
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
