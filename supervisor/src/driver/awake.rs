//! How an instance keeps the wishes of its own processes to be kept awake.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Instance, Note};
use crate::driver::vigil::{Asked, Vigil, grant};

impl Instance {
    /// Grants what is asked, writes it down, and tells the desk, for ever. It is answered once the desk says
    /// that it holds: an instance that is about to be stopped promises nothing any more. What was not told
    /// because the instance went on to its next phase meanwhile is told at the beginning.
    pub(super) async fn keep_vigils(&self) -> Infallible {
        let Some(door) = &self.door else { return std::future::pending().await };
        if !self.notebook.record().vigils.is_empty() {
            self.tell_vigils().await;
        }
        loop {
            let Asked { wish, answer } = door.next().await;
            let at_most = self.job.process().map(|process| process.awake_at_most);
            let at_most = at_most.unwrap_or_default();
            let words = self.notebook.change(|record| grant(&mut record.vigils, &wish, at_most));
            self.write_down().await;
            self.tell_vigils().await;
            // The one who asked may have left.
            let _ = answer.send(words);
        }
    }

    async fn tell_vigils(&self) {
        static TELLINGS: AtomicU64 = AtomicU64::new(1);
        let telling = TELLINGS.fetch_add(1, Ordering::Relaxed);
        let vigils: Vec<Vigil> = self.notebook.record().vigils;
        self.tell(Note::Vigils(vigils, telling)).await;
        // Not one of before. If the desk is gone, it never comes, and the instance ends.
        let mut granted = self.wires.granted.clone();
        if granted.wait_for(|known| *known >= telling).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
