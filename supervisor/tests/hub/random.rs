//! A proxy that says anything.

use std::time::Duration;

use doorbell_config::{name::AppId, spec::ListenAddr};
use doorbell_supervisor::{
    message::{GateOrder, GateReport, Generation},
    protocol::{FromProxy, Hello, Listening, Role, ToProxy, VERSION},
};

use super::{Scene, hello};

/// What a proxy may say, drawn from a seed: mostly about the app that there is.
struct Draw {
    state: u64,
    /// Whether it says what ends it, now and then.
    is_rude: bool,
}

impl Draw {
    /// A number below `end` (xorshift, Marsaglia 2003).
    fn below(&mut self, end: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % end
    }

    fn message(&mut self) -> FromProxy {
        if self.is_rude && self.below(60) == 0 {
            return self.rude_message();
        }
        let app = if self.below(4) == 0 { "nobody" } else { "blog" };
        let app = AppId::parse(app).unwrap();
        let generation = Generation(self.below(4));
        match self.below(11) {
            9 => {
                let words = (self.below(2) == 0).then(|| "404".to_owned());
                FromProxy::Report(GateReport::Lacks { app, generation, words })
            }
            0 => FromProxy::Applied { turn: self.below(6) },
            8 => FromProxy::Echoed(self.below(6)),
            1 => FromProxy::Report(GateReport::Retired { app, generation }),
            2 => {
                let idle_for = Duration::from_millis(self.below(u64::MAX));
                FromProxy::Report(GateReport::Busy { app, generation, idle_for })
            }
            3 => FromProxy::Report(GateReport::Drained { app, generation }),
            4 => FromProxy::Report(GateReport::Unreachable { app, generation }),
            5 => FromProxy::Report(GateReport::Answered { app, generation }),
            6 => {
                let words = "\u{1b}[2J".repeat(usize::try_from(self.below(100)).unwrap());
                FromProxy::Report(GateReport::NotAnswered { app, generation, words })
            }
            7 => FromProxy::Hello(hello(Role::Proxy)),
            _ => FromProxy::Report(GateReport::Wanted { app }),
        }
    }

    /// What no proxy says that was told what to do.
    fn rude_message(&mut self) -> FromProxy {
        let address = ListenAddr::Tcp(([127, 0, 0, 1], 0).into());
        let (number, configured) = (self.below(3), address.clone());
        match self.below(3) {
            0 => FromProxy::Introduced,
            1 => FromProxy::Hello(Hello { protocol: VERSION + 1, ..hello(Role::Proxy) }),
            _ => FromProxy::Listening(Listening { number, configured, address, app: None }),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_proxy_says_the_hub_goes_on() {
    for seed in 1..30 {
        let mut scene = Scene::start();
        let is_rude = seed % 3 == 0;
        let mut draw = Draw { state: seed, is_rude };
        let mut proxy = scene.good_proxy().await;
        for _ in 0..300 {
            let is_heard = proxy.sender.send(&draw.message()).is_ok();
            assert!(is_heard || is_rude, "the hub listens");
        }
        // None of that is forbidden to those who are not rude; this is.
        let is_heard = proxy.sender.send(&FromProxy::Introduced).is_ok();
        assert!(is_heard || is_rude, "the hub listens");
        while proxy.next().await.is_some() {}
        let mut next = scene.good_proxy().await;
        let wanted = GateReport::Wanted { app: AppId::parse("blog").unwrap() };
        next.sender.send(&FromProxy::Report(wanted)).unwrap();
        loop {
            // Refused at once, since the program fails; or it was refused to the first one.
            match next.next().await.expect("it is served") {
                ToProxy::Order(GateOrder::Refuse { .. }) => break,
                ToProxy::Gates(orders)
                    if orders.iter().any(|order| matches!(order, GateOrder::Refuse { .. })) =>
                {
                    break;
                }
                _ => {}
            }
        }
        assert!(!scene.hub.is_finished(), "seed {seed}");
    }
}
