//! Kills for want of memory, as the kernel tells of them.

use std::{
    fs::File,
    future::pending,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use super::{Controller, Group, Version, write};
use crate::driver::sys;

/// Version 1 tells before it kills, and kills at once: looks behind that, and the time between two.
const LOOKS: usize = 100;
const PACE: Duration = Duration::from_millis(20);

impl Group {
    /// Waits until somebody in it was ended for want of memory; where that is not counted, for ever.
    pub(in crate::driver) async fn until_out_of_memory(&self) -> io::Result<()> {
        let Some((version, path)) = self.place(Controller::Memory) else { return pending().await };
        let (told, interest) = match version {
            Version::One => (ask(path)?, Interest::READABLE),
            Version::Two => (File::open(path.join("memory.events"))?.into(), Interest::PRIORITY),
        };
        let told = sys::watch_for(told, interest)?;
        while !self.ran_out_of_memory_now(version, &told).await? {
            told.ready(interest).await?.clear_ready();
        }
        Ok(())
    }

    async fn ran_out_of_memory_now(
        &self,
        version: Version,
        told: &AsyncFd<OwnedFd>,
    ) -> io::Result<bool> {
        let mut text = [0; 512];
        match version {
            Version::One => {
                // Whatever it was told until now; there may be nothing.
                let is_told = rustix::io::read(told, &mut text).is_ok();
                for _ in 1..LOOKS {
                    if !is_told || self.ran_out_of_memory() {
                        break;
                    }
                    sleep(PACE).await;
                }
            }
            // What comes after it was read is told.
            Version::Two => _ = rustix::io::pread(told, &mut text, 0)?,
        }
        Ok(self.ran_out_of_memory())
    }
}

/// Asks to be told when memory is used up: Documentation/admin-guide/cgroup-v1/memory.rst.
fn ask(group: &Path) -> io::Result<OwnedFd> {
    let told = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = File::open(group.join("memory.oom_control"))?;
    let order = format!("{} {}", told.as_raw_fd(), control.as_raw_fd());
    write(group, "cgroup.event_control", &order)?;
    Ok(told)
}
