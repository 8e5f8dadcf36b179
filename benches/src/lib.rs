//! What the benches share: servers to start and end, load to put on them, and what that costs.
//!
//! The programs are in `benches/`, one per question; `docs/benchmarks.md` tells how to run them and
//! what they said. Nothing here is part of the product.

pub mod client;
pub mod clock;
pub mod cost;
pub mod doorbell;
pub mod figures;
pub mod load;
pub mod machine;
pub mod options;
pub mod proxies;
pub mod server;
pub mod wait;
