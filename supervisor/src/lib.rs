//! What runs: the lifecycle of each app.
//!
//! This crate turns definitions (`doorbell_config::spec`) and reports from the gates into running
//! programs, and tells the gates which instance to use. It speaks no HTTP but its own readiness
//! probe, knows no route and no client. Its interface is [`message`]s in, messages and
//! [`Snapshots`] out.
//!
//! Read `lifecycle` next: every decision is made there, purely. `desk` is the one task that
//! performs them, `driver` is how a program is run, [`logs`] is how its output is read.

mod desk;
mod driver;
#[cfg(test)]
mod forms;
pub mod hub;
mod lifecycle;
pub mod logs;
pub mod machine;
mod mailbox;
mod memory;
pub mod message;
mod output;
pub mod pace;
mod probe;
pub mod protocol;
pub mod reception;
pub mod service_notify;
mod snapshots;
mod supervisor;
mod tick;
pub mod wire;
mod written;

pub use driver::{Account, AccountError, Advances, Deputy, make_way};
pub use snapshots::{Change, Snapshots};
pub use supervisor::{
    InstructError, OperateError, ShutdownReport, Supervisor, SupervisorError, SupervisorOptions,
};
