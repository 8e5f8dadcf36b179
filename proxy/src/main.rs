//! The `doorbell` binary. Read [`doorbell_proxy`] for what it is made of.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match doorbell_proxy::cli::run() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("doorbell: {}", doorbell_proxy::cli::told(&error));
            ExitCode::FAILURE
        }
    }
}
