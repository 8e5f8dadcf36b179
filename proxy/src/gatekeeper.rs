//! Carries the supervisor's orders to the gates, and its news to the figures.
//!
//! Reports go the other way without this: a gate hands them to the connection, which never blocks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use doorbell_config::name::AppId;
use doorbell_supervisor::message::{GateOrder, GateReport};

use crate::{app::App, gate::Gate, shared::Shared};

/// Time in which an app accepts a portion of connections.
const BETWEEN_PORTIONS: Duration = Duration::from_millis(5);

/// A further replica's gate has changed: what waits for that waits at the app's.
fn look_again(shared: &Shared, id: &AppId) {
    let app =
        Some(id).filter(|id| id.is_further_replica()).and_then(|id| with_replicas(shared, id));
    if let Some(replicas) = app.as_ref().and_then(|app| app.replicas.as_ref()) {
        replicas.look_again();
    }
}

/// A gate has opened: lets a long line in piece by piece; ends when nobody waits, or nothing is open. Where
/// several replicas serve, those who wait are shared among the open ones.
fn let_in(shared: &Shared, id: &AppId, gate: Arc<Gate>) {
    let app = with_replicas(shared, id);
    let portion = move || match app.as_ref().and_then(|app| app.replicas.as_ref()) {
        Some(replicas) => replicas.let_in(),
        None => gate.let_in(),
    };
    // A further replica has nobody in a line of its own.
    if id.is_further_replica() && !portion() {
        return;
    }
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(BETWEEN_PORTIONS).await;
            if !portion() {
                return;
            }
        }
    });
}

/// The app, if it has several replicas.
fn with_replicas(shared: &Shared, id: &AppId) -> Option<Arc<App>> {
    let table = shared.table.load();
    table.routes.app(id.app_str()).filter(|app| app.replicas.is_some()).cloned()
}

/// How long all replicas but the first have been idle, where that is asked of the first: it is so for all.
fn others_idle_for(shared: &Shared, id: &AppId) -> Option<Duration> {
    let app = with_replicas(shared, id).filter(|_| !id.is_further_replica())?;
    app.replicas.as_ref()?.further_idle_for()
}

/// Begins anew: these orders are all that the gates have to know.
pub fn begin_anew(shared: &Shared, orders: Vec<GateOrder>) {
    let open: HashMap<_, _> = orders
        .iter()
        .filter_map(|order| match order {
            GateOrder::Reopen { app, generation, .. } => Some((app.clone(), *generation)),
            GateOrder::Open { .. }
            | GateOrder::Shut { .. }
            | GateOrder::AskRetire { .. }
            | GateOrder::Refuse { .. }
            | GateOrder::Hold { .. }
            | GateOrder::Progress { .. }
            | GateOrder::Probe { .. }
            | GateOrder::EndProbe { .. }
            | GateOrder::Forget { .. } => None,
        })
        .collect();
    shared.probes.end_all();
    let gates = shared.gates.all();
    for (app, gate) in &gates {
        gate.begin_anew(open.get(app).copied());
    }
    gates.iter().for_each(|(app, _)| look_again(shared, app));
    for order in orders {
        carry_out(shared, order);
    }
}

/// Obeys an order.
pub fn carry_out(shared: &Shared, order: GateOrder) {
    // Gates are made before the supervisor speaks of an app, and kept while anything uses them.
    let Some(gate) = shared.gates.find(order.app()) else {
        return answer_for_nobody(shared, order);
    };
    let id = order.app().clone();
    match order {
        GateOrder::Open { app, generation, endpoint, started } => {
            if let Some(times) = &started
                && let Some(app) = shared.table.load().routes.app(app.app_str())
            {
                app.metrics.started(times);
            }
            gate.open(generation, endpoint, started);
            let_in(shared, &id, gate);
        }
        GateOrder::Reopen { generation, endpoint, .. } => {
            gate.reopen(generation, endpoint);
            let_in(shared, &id, gate);
        }
        GateOrder::Shut { generation, .. } => gate.shut(generation),
        GateOrder::AskRetire { generation, idle_at_least, .. } => {
            let others = others_idle_for(shared, &id);
            gate.retire_if_all_idle(generation, idle_at_least, others);
        }
        GateOrder::Refuse { refusal, .. } => gate.refuse(&refusal),
        GateOrder::Hold { .. } => gate.hold(),
        GateOrder::Progress { progress, .. } => gate.progressed(progress),
        GateOrder::Probe { .. } | GateOrder::EndProbe { .. } => probe(shared, order),
        // Its gate goes with the table's app.
        GateOrder::Forget { .. } => {}
    }
    look_again(shared, &id);
}

/// What is asked whether it is ready need not be served, and have a gate.
fn probe(shared: &Shared, order: GateOrder) {
    match order {
        GateOrder::Probe { app, generation, endpoint, question } => {
            shared.probes.begin(app, generation, endpoint, *question);
        }
        GateOrder::EndProbe { app, generation } => shared.probes.end(&app, generation),
        GateOrder::Open { .. }
        | GateOrder::Reopen { .. }
        | GateOrder::Shut { .. }
        | GateOrder::AskRetire { .. }
        | GateOrder::Refuse { .. }
        | GateOrder::Hold { .. }
        | GateOrder::Progress { .. }
        | GateOrder::Forget { .. } => {}
    }
}

/// A gate that is gone has no lease.
fn answer_for_nobody(shared: &Shared, order: GateOrder) {
    match order {
        GateOrder::Shut { app, generation } => {
            shared.gates.answer(GateReport::Drained { app, generation });
        }
        GateOrder::AskRetire { app, generation, .. } => {
            shared.gates.answer(GateReport::Retired { app, generation });
        }
        GateOrder::Probe { .. } | GateOrder::EndProbe { .. } => probe(shared, order),
        GateOrder::Open { .. }
        | GateOrder::Reopen { .. }
        | GateOrder::Progress { .. }
        | GateOrder::Refuse { .. }
        | GateOrder::Hold { .. }
        | GateOrder::Forget { .. } => {}
    }
}
