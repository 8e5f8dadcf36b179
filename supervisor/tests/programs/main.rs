//! The supervisor against real programs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod activation;
mod crashes;
mod crowd;
mod endings;
mod gate;
mod house;
mod legacy;
mod namespaces;
mod operators;
mod output;
mod readiness;
