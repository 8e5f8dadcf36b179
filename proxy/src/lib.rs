//! Who asks: listeners, requests, and everything an operator touches.
//!
//! Read in this order: [`server`] puts the parts together, [`connection`] serves a client,
//! [`exchange`] is one request, [`gate`] is where it meets the lifecycle, [`relay`] forwards it, or
//! [`front`] where HTTP/2 is spoken. What is not HTTP at all is a [`call`].
//! The crate is a library only so that the binary, its benches and its tests share it.

pub mod access_log;
pub mod admin;
pub mod allocator;
pub mod answer;
pub mod app;
pub mod backup;
pub mod bulletin;
pub mod call;
pub mod chronicle;
pub mod cli;
pub mod client_stream;
pub mod clock;
pub mod connection;
pub mod control;
pub mod custody;
pub mod difference;
pub mod exchange;
pub mod figures_desk;
pub mod forward;
pub mod frame_guard;
pub mod framing;
pub mod front;
pub mod gate;
pub mod gatekeeper;
pub mod head;
pub mod health;
pub mod house;
pub mod http2;
pub mod ledger;
pub mod link;
pub mod listener;
pub mod logging;
pub mod look;
pub mod metrics;
pub mod navigation;
pub mod page;
pub mod pass;
pub mod patience;
pub mod peer;
pub mod provision;
pub mod readiness;
pub mod rehearsal;
pub mod relay;
pub mod rewrite;
pub mod sandbox;
pub mod scrape;
pub mod serve;
pub mod server;
pub mod shared;
pub mod sharing;
pub mod steering;
pub mod transport;
pub mod tunnel;
pub mod upstreams;
pub mod vault;
pub mod verdict;
pub mod watch;
pub mod whole_file;
pub mod worker;
