//! What happens when memory gets short: apps that nobody uses yield theirs before their time.
//!
//! [`warden`] watches: the kernel's own word that processes wait for memory (PSI), what is available,
//! and what apps take against `server.limits.memory`. [`choose`] decides who yields, from plain data:
//! who has been idle for longest and costs least to bring back goes first. The desk asks gates how long
//! apps have been idle, and carries out what was chosen (`desk/yielding`).

mod choice;
mod gauge;
mod warden;

pub(crate) use self::{
    choice::{Candidate, Demotion, Sleep, choose},
    gauge::{Gauge, Source},
    warden::{Shortage, Warden},
};
