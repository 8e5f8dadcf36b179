//! The way from the gates to the desk: never blocks and never fails, since requests stand behind
//! it.
//!
//! Its bound is the gates' protocol: a gate reports `Wanted` once until it is answered, and answers
//! each order once, so a few reports per app can wait here. Only `Unreachable` may come for every
//! failed request, and `NotAnswered` and `Lacks` for every try; they are hints, and dropped beyond [`HINTS`].

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::message::GateReport;

/// Reports waiting beyond which hints are dropped.
const HINTS: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    reports: Mutex<VecDeque<GateReport>>,
    bell: Notify,
}

impl Mailbox {
    pub(crate) fn post(&self, report: GateReport) {
        {
            let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
            if is_hint(&report) && reports.len() >= HINTS {
                return;
            }
            reports.push_back(report);
        }
        self.bell.notify_one();
    }

    /// The reports that wait, at least one. Dropping this future loses none.
    pub(crate) async fn take(&self) -> VecDeque<GateReport> {
        loop {
            let reports =
                std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner));
            if !reports.is_empty() {
                return reports;
            }
            self.bell.notified().await;
        }
    }
}

fn is_hint(report: &GateReport) -> bool {
    match report {
        GateReport::Unreachable { .. }
        | GateReport::NotAnswered { .. }
        | GateReport::Lacks { .. } => true,
        GateReport::Wanted { .. }
        | GateReport::Retired { .. }
        | GateReport::Busy { .. }
        | GateReport::Drained { .. }
        | GateReport::Answered { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use doorbell_config::name::AppId;

    use super::*;
    use crate::message::Generation;

    #[tokio::test]
    async fn hints_are_bounded_and_wishes_are_not() {
        let mailbox = Mailbox::default();
        let app = AppId::parse("blog").unwrap();
        for _ in 0..2 * HINTS {
            let generation = Generation(1);
            mailbox.post(GateReport::Unreachable { app: app.clone(), generation });
        }
        mailbox.post(GateReport::Wanted { app: app.clone() });
        let reports = mailbox.take().await;
        assert_eq!(reports.len(), HINTS + 1);
        assert_eq!(reports.back(), Some(&GateReport::Wanted { app }));
    }
}
