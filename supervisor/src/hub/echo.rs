//! Who asked for something is answered when visitors notice it: a gate that an order is on its way to is as it was
//! before.
//!
//! The desk says when its orders are on their way here; behind them each proxy that serves is sent an echo, and
//! says so when it has come to it.

use std::collections::BTreeSet;

use super::{Event, Hub, switchboard::Number};
use crate::protocol::Answer;

/// An answer that waits for proxies.
#[derive(Debug)]
pub(super) struct Echo {
    number: u64,
    waiting: BTreeSet<Number>,
    /// Who wants to know: the control process, and the number of its wish.
    wish: (Number, u64),
    answer: Answer,
}

impl Hub {
    /// Answers a wish once every proxy has what came of it.
    pub(super) fn answer_when_told(&self, wish: (Number, u64), answer: Answer) {
        let (desk, events) = (self.desk.clone(), self.events.0.clone());
        tokio::spawn(async move {
            desk.fence().await;
            // An error means that all is over.
            let _ = events.send(Event::Fenced { wish, answer }).await;
        });
    }

    /// All orders of the desk are on their way here.
    pub(super) fn echo(&mut self, wish: (Number, u64), answer: Answer) {
        while let Ok(order) = self.orders.try_recv() {
            self.order(&order);
        }
        let waiting = self.serving();
        let number = self.next.echo;
        self.next.echo += 1;
        for (_, proxy) in self.proxies.iter_mut().filter(|(number, _)| waiting.contains(number)) {
            proxy.echo(number);
        }
        self.echoes.push(Echo { number, waiting, wish, answer });
        self.end_echoes();
    }

    /// A proxy has come to an echo.
    pub(super) fn echoed(&mut self, proxy: Number, number: u64) {
        if let Some(proxy) = self.proxies.get_mut(&proxy) {
            proxy.has_echoed(number);
        }
        for echo in self.echoes.iter_mut().filter(|echo| echo.number == number) {
            echo.waiting.remove(&proxy);
        }
        self.end_echoes();
    }

    /// A proxy is gone, and nobody waits for it.
    pub(super) fn lose_echoes(&mut self, proxy: Number) {
        for echo in &mut self.echoes {
            echo.waiting.remove(&proxy);
        }
        self.end_echoes();
    }

    fn end_echoes(&mut self) {
        let over: Vec<_> = self.echoes.extract_if(.., |echo| echo.waiting.is_empty()).collect();
        for Echo { wish: (control, wish), answer, .. } in over {
            self.answer(control, wish, answer);
        }
    }
}
