//! Carries the supervisor's orders to the gates, and its news to the figures.
//!
//! Reports go the other way without this task: a gate hands them to the supervisor's mailbox, which
//! never blocks.

use std::{sync::Arc, time::Duration};

use doorbell_supervisor::message::GateOrder;
use tokio::sync::mpsc;

use crate::{gate::Gate, shared::Shared};

/// Time in which an app accepts a portion of connections.
const BETWEEN_PORTIONS: Duration = Duration::from_millis(5);

/// Obeys orders until the supervisor ends.
pub async fn obey(shared: Arc<Shared>, mut orders: mpsc::Receiver<GateOrder>) {
    while let Some(order) = orders.recv().await {
        carry_out(&shared, order);
    }
}

/// Lets a long line in piece by piece; ends when nobody waits, or nothing is open.
async fn let_in_by_portions(gate: Arc<Gate>) {
    loop {
        tokio::time::sleep(BETWEEN_PORTIONS).await;
        if !gate.let_in() {
            return;
        }
    }
}

fn carry_out(shared: &Shared, order: GateOrder) {
    let app = match &order {
        GateOrder::Open { app, .. }
        | GateOrder::Shut { app, .. }
        | GateOrder::AskRetire { app, .. }
        | GateOrder::Refuse { app, .. }
        | GateOrder::Hold { app } => app,
    };
    // Gates are made before the supervisor hears of an app, and kept while anything uses them; an
    // order for one that is gone has nobody to tell.
    let Some(gate) = shared.gates.find(app) else { return };
    match order {
        GateOrder::Open { app, generation, endpoint, started } => {
            if let Some(times) = &started
                && let Some(app) = shared.table.load().routes.app(app.as_str())
            {
                app.metrics.started(times);
            }
            gate.open(generation, endpoint, started);
            tokio::spawn(let_in_by_portions(gate));
        }
        GateOrder::Shut { generation, .. } => gate.shut(generation),
        GateOrder::AskRetire { generation, idle_at_least, .. } => {
            gate.retire_if_idle(generation, idle_at_least);
        }
        GateOrder::Refuse { refusal, .. } => gate.refuse(&refusal),
        GateOrder::Hold { .. } => gate.hold(),
    }
}
