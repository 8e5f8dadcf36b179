//! What makes a system test a sentence: a running doorbell in a folder of its own, clients that
//! speak raw bytes, and conditions to wait for.
//!
//! Every doorbell listens on free ports and is ended with its test; nothing is shared between tests
//! but the binary and the programs in `apps/`.

mod api;
mod authority;
mod client;
mod doorbell;
pub mod frames;
mod mariadb;
mod postgres;
mod setup;
mod survivors;
mod wait;
mod watched;
mod websocket;

pub use api::Api;
pub use authority::Authority;
pub use client::{Connection, Response, get, post, request};
pub use doorbell::{Doorbell, Output, Running, app_dir, binary, free_port, tool};
pub use frames::{Frames, Outcome};
pub use mariadb::MariaDb;
pub use postgres::Postgres;
pub use setup::{Setup, may_mount};
pub use survivors::{Role, apps_of, began, kill, signal};
pub use wait::{eventually, eventually_within, pids_matching, within};
pub use websocket::WebSocket;
