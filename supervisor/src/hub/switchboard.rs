//! The gates of all proxies as if they were one: the desk knows of one gate per app.
//!
//! Each proxy has gates of its own, since leases are taken without asking anybody. Orders go to all
//! of them, and what one must know that comes later is remembered. An answer to the desk is made of
//! all proxies' answers: an instance has retired when it has everywhere, and is drained when its last
//! lease anywhere is back. What a proxy says without being asked is not believed, and a wish is
//! passed on once until it is answered: so no proxy can fill the desk's mailbox.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use doorbell_config::name::AppId;

use crate::message::{Endpoint, GateOrder, GateReport, Generation, Refusal};

/// A proxy's number. A younger one has a higher.
pub(super) type Number = u32;

/// Between two reports of what an app lacks. Proxies wait for a second before they ask again; what comes
/// a little early is still told.
const LACKS: Duration = Duration::from_millis(900);

/// What came of an order or a report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// For the gates of these proxies.
    pub(super) orders: Vec<(Number, GateOrder)>,
    /// For the desk.
    pub(super) reports: Vec<GateReport>,
}

/// What is remembered of all gates.
#[derive(Debug, Default)]
pub(super) struct Switchboard {
    proxies: BTreeSet<Number>,
    /// Only of apps whose gates do not just hold.
    gates: HashMap<AppId, Standing>,
}

/// What every gate of one app was told, and what they have not answered yet.
#[derive(Debug, Default)]
struct Standing {
    open: Option<(Generation, Endpoint)>,
    refusal: Option<(Refusal, Instant)>,
    asked: Option<Asked>,
    /// Shut instances, and who has not said that they are drained.
    leaving: Vec<(Generation, BTreeSet<Number>)>,
    /// Proxies whose wish was passed on and is not answered.
    wanted: BTreeSet<Number>,
    /// Proxies that could not connect, until they are told to go on.
    unreachable: BTreeSet<Number>,
    probe: Option<Probe>,
    lacks: Lacks,
}

/// What proxies say that an app lacks in the instance that it shares.
#[derive(Debug, Default)]
struct Lacks {
    /// Those that do.
    by: BTreeSet<Number>,
    /// When the desk was told that it lacks something.
    told: Option<Instant>,
    /// Whether the desk was told nothing else since.
    is_told: bool,
}

/// An instance is asked whether it is ready: by one proxy, the newest, and during an upgrade by two.
#[derive(Debug)]
struct Probe {
    generation: Generation,
    order: GateOrder,
    asking: BTreeSet<Number>,
}

/// Whether an instance may retire was asked.
#[derive(Debug)]
struct Asked {
    generation: Generation,
    waiting: BTreeSet<Number>,
    retired: BTreeSet<Number>,
    busy: Option<Duration>,
}

impl Switchboard {
    /// Passes an order of the desk's on to every proxy.
    pub(super) fn order(&mut self, order: &GateOrder) -> Outcome {
        let mut outcome = Outcome::default();
        let app = order.app().clone();
        let standing = self.gates.entry(app.clone()).or_default();
        if answers_waiters(order) {
            standing.wanted.clear();
            standing.unreachable.clear();
        }
        match order {
            GateOrder::Progress { .. } => {
                self.tidy(&app);
                let newest = self.proxies.last();
                outcome.orders.extend(newest.map(|proxy| (*proxy, order.clone())));
                return outcome;
            }
            GateOrder::Probe { generation, .. } => {
                let asking = self.proxies.last().copied().into_iter().collect();
                let (generation, order) = (*generation, order.clone());
                return standing.probe(Probe { generation, order, asking });
            }
            GateOrder::EndProbe { generation, .. } => {
                outcome.orders = standing.end_probe(*generation);
                self.tidy(&app);
                return outcome;
            }
            GateOrder::Forget { .. } => {
                outcome.orders = standing.end_any_probe();
                self.gates.remove(&app);
                return outcome;
            }
            GateOrder::Open { generation, endpoint, .. }
            | GateOrder::Reopen { generation, endpoint, .. } => {
                if standing.open.as_ref().is_none_or(|(open, _)| open != generation) {
                    standing.lacks = Lacks::default();
                }
                standing.open = Some((*generation, endpoint.clone()));
                standing.refusal = None;
            }
            GateOrder::Shut { generation, .. } => {
                standing.shut(*generation, &self.proxies);
                if self.proxies.is_empty() {
                    let generation = *generation;
                    outcome.reports.push(GateReport::Drained { app: app.clone(), generation });
                }
            }
            GateOrder::AskRetire { generation, .. } => {
                standing.asked = Some(Asked {
                    generation: *generation,
                    waiting: self.proxies.clone(),
                    retired: BTreeSet::new(),
                    busy: None,
                });
            }
            GateOrder::Refuse { refusal, .. } => {
                standing.refusal = Some((refusal.clone(), Instant::now()));
            }
            GateOrder::Hold { .. } => standing.refusal = None,
        }
        standing.end_asking(&app, &mut outcome);
        self.tidy(&app);
        let newest = self.proxies.last().copied();
        let orders = self.proxies.iter().map(|proxy| (*proxy, told(order, Some(*proxy) == newest)));
        outcome.orders.extend(orders);
        outcome
    }

    /// Takes what a proxy's gate says.
    pub(super) fn report(&mut self, proxy: Number, report: GateReport) -> Outcome {
        let mut outcome = Outcome::default();
        let app = report.app().clone();
        if !self.proxies.contains(&proxy) {
            return outcome;
        }
        if matches!(report, GateReport::Wanted { .. }) {
            self.gates.entry(app.clone()).or_default();
        }
        let Some(standing) = self.gates.get_mut(&app) else { return outcome };
        match report {
            GateReport::Wanted { .. } => standing.want(proxy, report, &mut outcome),
            GateReport::Retired { generation, .. } => {
                outcome.orders.extend(standing.retired(&app, proxy, generation));
            }
            GateReport::Busy { generation, idle_for, .. } => {
                if let Some(asked) = standing.asked_of(proxy, generation) {
                    asked.is_busy(idle_for);
                }
            }
            GateReport::Drained { generation, .. } => {
                if standing.drained(proxy, generation) {
                    outcome.reports.push(GateReport::Drained { app: app.clone(), generation });
                }
            }
            GateReport::Unreachable { generation, .. } => {
                let is_open = standing.open.as_ref().is_some_and(|(open, _)| *open == generation);
                if is_open && standing.unreachable.insert(proxy) {
                    // Whoever waits at that gate now says so again.
                    standing.wanted.remove(&proxy);
                    outcome.reports.push(report);
                }
            }
            GateReport::Answered { generation, .. } => {
                if standing.is_probed(proxy, generation) {
                    outcome.orders = standing.end_probe(generation);
                    outcome.orders.retain(|(asking, _)| *asking != proxy);
                    outcome.reports.push(report);
                }
            }
            GateReport::NotAnswered { generation, .. } => {
                if standing.is_probed(proxy, generation) {
                    outcome.reports.push(report);
                }
            }
            GateReport::Lacks { generation, ref words, .. } => {
                if standing.may_lack(proxy, generation, words.is_some()) {
                    outcome.reports.push(report);
                }
            }
        }
        standing.end_asking(&app, &mut outcome);
        self.tidy(&app);
        outcome
    }

    /// A proxy takes part from here on; these orders are all that its gates have to know.
    pub(super) fn join(&mut self, proxy: Number) -> Vec<GateOrder> {
        self.proxies.insert(proxy);
        let mut orders = Vec::new();
        for (app, standing) in &mut self.gates {
            let app = app.clone();
            if let Some((generation, endpoint)) = standing.open.clone() {
                orders.push(GateOrder::Reopen { app: app.clone(), generation, endpoint });
            }
            if let Some(probe) = &mut standing.probe {
                probe.asking.insert(proxy);
                orders.push(probe.order.clone());
            }
            if let Some((refusal, since)) = &standing.refusal {
                let refusal = refusal.after(since.elapsed());
                orders.push(GateOrder::Refuse { app, refusal });
            }
            // It may give a lease at once, and was not asked.
            if let Some(asked) = &mut standing.asked {
                asked.is_busy(Duration::ZERO);
            }
        }
        orders
    }

    /// A proxy is gone, and all its leases with it.
    pub(super) fn leave(&mut self, proxy: Number) -> Outcome {
        let mut outcome = Outcome::default();
        self.proxies.remove(&proxy);
        for (app, standing) in &mut self.gates {
            standing.wanted.remove(&proxy);
            outcome.reports.extend(standing.lacks_no_more(app, proxy));
            outcome.orders.extend(standing.hand_on_probe(proxy, self.proxies.last().copied()));
            if let Some(asked) = &mut standing.asked {
                asked.waiting.remove(&proxy);
                asked.retired.remove(&proxy);
            }
            let drained = standing.leaving.extract_if(.., |(_, waiting)| {
                waiting.remove(&proxy);
                waiting.is_empty()
            });
            outcome.reports.extend(
                drained.map(|(generation, _)| GateReport::Drained { app: app.clone(), generation }),
            );
            standing.end_asking(app, &mut outcome);
        }
        self.gates.retain(|_, standing| !standing.just_holds());
        outcome
    }

    fn tidy(&mut self, app: &AppId) {
        if self.gates.get(app).is_some_and(Standing::just_holds) {
            self.gates.remove(app);
        }
    }
}

impl Standing {
    fn shut(&mut self, generation: Generation, proxies: &BTreeSet<Number>) {
        if self.open.as_ref().is_some_and(|(open, _)| *open == generation) {
            self.open = None;
            self.lacks = Lacks::default();
        }
        if self.asked.as_ref().is_some_and(|asked| asked.generation == generation) {
            self.asked = None;
        }
        if !proxies.is_empty() {
            self.leaving.retain(|(leaving, _)| *leaving != generation);
            self.leaving.push((generation, proxies.clone()));
        }
    }

    fn want(&mut self, proxy: Number, report: GateReport, outcome: &mut Outcome) {
        let is_new = self.wanted.insert(proxy);
        // A gate that has retired the instance waits for what the others say.
        let waits = self.asked.as_ref().is_some_and(|asked| asked.retired.contains(&proxy));
        if is_new && !waits {
            outcome.reports.push(report);
        }
    }

    /// A proxy has retired an instance. Two questions may have been on their way to it, and its answer to
    /// the first, that it is in use, was taken for both: then the desk does not know, and what should be
    /// open is opened again.
    fn retired(
        &mut self,
        app: &AppId,
        proxy: Number,
        generation: Generation,
    ) -> Option<(Number, GateOrder)> {
        if let Some(asked) = self.asked.as_mut().filter(|asked| asked.generation == generation) {
            asked.waiting.remove(&proxy);
            asked.retired.insert(proxy);
            return None;
        }
        let (_, endpoint) = self.open.clone().filter(|(open, _)| *open == generation)?;
        self.wanted.remove(&proxy);
        Some((proxy, GateOrder::Reopen { app: app.clone(), generation, endpoint }))
    }

    /// What was asked of this proxy about this instance, and is answered now.
    fn asked_of(&mut self, proxy: Number, generation: Generation) -> Option<&mut Asked> {
        let asked = self.asked.as_mut().filter(|asked| asked.generation == generation)?;
        asked.waiting.remove(&proxy).then_some(asked)
    }

    /// Whether that was the last lease.
    fn drained(&mut self, proxy: Number, generation: Generation) -> bool {
        let Some(at) = self.leaving.iter().position(|(leaving, _)| *leaving == generation) else {
            return false;
        };
        let waiting = self.leaving.get_mut(at).map(|(_, waiting)| waiting);
        let is_last = waiting.is_some_and(|waiting| waiting.remove(&proxy) && waiting.is_empty());
        if is_last {
            self.leaving.remove(at);
        }
        is_last
    }

    fn probe(&mut self, probe: Probe) -> Outcome {
        let orders = probe.asking.iter().map(|proxy| (*proxy, probe.order.clone())).collect();
        self.probe = Some(probe);
        Outcome { orders, reports: Vec::new() }
    }

    fn is_probed(&self, by: Number, generation: Generation) -> bool {
        let probe = self.probe.as_ref();
        probe.is_some_and(|probe| probe.generation == generation && probe.asking.contains(&by))
    }

    /// Whether what a proxy says of an app in a shared instance is news, and may be told: its gate is
    /// open without an endpoint of its own.
    fn may_lack(&mut self, proxy: Number, generation: Generation, lacks: bool) -> bool {
        let open = self.open.as_ref();
        let is_open = open.is_some_and(|open| open.0 == generation && open.1 == Endpoint::Upstream);
        if !is_open {
            return false;
        }
        if lacks { self.lacks.says(proxy) } else { self.lacks.says_no_more(proxy) }
    }

    /// A proxy is gone: what it saw is not known any more.
    fn lacks_no_more(&mut self, app: &AppId, proxy: Number) -> Option<GateReport> {
        if !self.lacks.by.contains(&proxy) || self.lacks.by.len() > 1 {
            self.lacks.by.remove(&proxy);
            return None;
        }
        let is_news = self.lacks.says_no_more(proxy);
        let (generation, _) = self.open.as_ref().filter(|_| is_news)?;
        Some(GateReport::Lacks { app: app.clone(), generation: *generation, words: None })
    }

    /// Nobody needs to ask any more.
    fn end_probe(&mut self, generation: Generation) -> Vec<(Number, GateOrder)> {
        let is_it = self.probe.as_ref().is_some_and(|probe| probe.generation == generation);
        if is_it { self.end_any_probe() } else { Vec::new() }
    }

    fn end_any_probe(&mut self) -> Vec<(Number, GateOrder)> {
        let Some(Probe { generation, order, asking }) = self.probe.take() else {
            return Vec::new();
        };
        let end = |proxy| (proxy, GateOrder::EndProbe { app: order.app().clone(), generation });
        asking.into_iter().map(end).collect()
    }

    /// A proxy is gone: somebody else asks in its place.
    fn hand_on_probe(&mut self, gone: Number, to: Option<Number>) -> Option<(Number, GateOrder)> {
        let probe = self.probe.as_mut()?;
        let was_last = probe.asking.remove(&gone) && probe.asking.is_empty();
        let to = to.filter(|_| was_last)?;
        probe.asking.insert(to);
        Some((to, probe.order.clone()))
    }

    /// Tells the desk when everybody has answered. Gates that retired an instance which others use
    /// open again.
    fn end_asking(&mut self, app: &AppId, outcome: &mut Outcome) {
        let Some(asked) = self.asked.take_if(|asked| asked.waiting.is_empty()) else { return };
        let (app, generation) = (app.clone(), asked.generation);
        let Some(idle_for) = asked.busy else {
            self.open = None;
            outcome.reports.push(GateReport::Retired { app: app.clone(), generation });
            let wishes = self.wanted.intersection(&asked.retired).take(1);
            outcome.reports.extend(wishes.map(|_| GateReport::Wanted { app: app.clone() }));
            return;
        };
        if let Some((_, endpoint)) = &self.open {
            for proxy in asked.retired {
                self.wanted.remove(&proxy);
                let (app, endpoint) = (app.clone(), endpoint.clone());
                outcome.orders.push((proxy, GateOrder::Reopen { app, generation, endpoint }));
            }
        }
        outcome.reports.push(GateReport::Busy { app, generation, idle_for });
    }

    fn just_holds(&self) -> bool {
        self.open.is_none()
            && self.refusal.is_none()
            && self.asked.is_none()
            && self.leaving.is_empty()
            && self.wanted.is_empty()
            && self.probe.is_none()
    }
}

impl Lacks {
    /// Nobody asked: words of one app are passed on once per [`LACKS`], whoever says them.
    fn says(&mut self, proxy: Number) -> bool {
        self.by.insert(proxy);
        let may_tell = self.told.is_none_or(|told| told.elapsed() >= LACKS);
        if may_tell {
            (self.told, self.is_told) = (Some(Instant::now()), true);
        }
        may_tell
    }

    fn says_no_more(&mut self, proxy: Number) -> bool {
        self.by.remove(&proxy) && std::mem::take(&mut self.is_told)
    }
}

impl Asked {
    fn is_busy(&mut self, idle_for: Duration) {
        self.busy = Some(self.busy.map_or(idle_for, |least| least.min(idle_for)));
    }
}

/// Whether whoever waits is answered by it, or asked to say again that he does.
fn answers_waiters(order: &GateOrder) -> bool {
    match order {
        GateOrder::Open { .. }
        | GateOrder::Reopen { .. }
        | GateOrder::Shut { .. }
        | GateOrder::Refuse { .. }
        | GateOrder::Hold { .. } => true,
        GateOrder::AskRetire { .. }
        | GateOrder::Progress { .. }
        | GateOrder::Probe { .. }
        | GateOrder::EndProbe { .. }
        | GateOrder::Forget { .. } => false,
    }
}

/// The order as one proxy gets it: a start is counted by the newest alone.
fn told(order: &GateOrder, is_newest: bool) -> GateOrder {
    match order {
        GateOrder::Open { app, generation, endpoint, started: Some(_) } if !is_newest => {
            let (app, generation, endpoint) = (app.clone(), *generation, endpoint.clone());
            GateOrder::Open { app, generation, endpoint, started: None }
        }
        other => other.clone(),
    }
}

#[cfg(test)]
#[path = "switchboard/tests.rs"]
mod tests;
