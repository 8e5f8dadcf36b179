//! A control process that says what it should not.

use std::{os::unix::net::UnixStream, sync::Arc};

use doorbell_config::{
    name::AppId,
    spec::{ListenAddr, ServerSpec},
};
use doorbell_supervisor::{
    message::{GateOrder, Generation, Verb},
    protocol::{
        Answer, FromControl, FromProxy, Hello, Lineage, Role, TRUSTED_LIMITS, ToControl, VERSION,
        Wish,
    },
    wire::{self, Frame},
};
use tokio::{sync::mpsc, time::timeout};

use super::{PATIENCE, Peer, Scene, app, hello};

impl Peer<ToControl> {
    /// The next one that the hub starts, welcomed.
    async fn welcomed(controls: &mut mpsc::Receiver<UnixStream>) -> Self {
        let came = timeout(PATIENCE, controls.recv()).await.expect("one is started").unwrap();
        let (sender, receiver) = wire::open(came, TRUSTED_LIMITS).unwrap();
        let mut control = Self { sender, receiver };
        control.sender.send(&FromControl::Hello(hello(Role::Control))).unwrap();
        control.sender.send(&FromControl::Introduced).unwrap();
        while !matches!(control.next().await.expect("a welcome"), ToControl::Begin) {}
        control
    }

    async fn next(&mut self) -> Option<ToControl> {
        let next = timeout(PATIENCE, self.receiver.next()).await.expect("the hub says something");
        next.ok().flatten().map(|(message, _)| message)
    }

    fn wish(&self, wish: Wish) {
        let wish = Box::new(wish);
        // It may have been given up.
        let _ = self.sender.send(&FromControl::Wish { number: 1, wish });
    }

    async fn until_answered(&mut self) -> Answer {
        loop {
            if let ToControl::Answer { answer, .. } = self.next().await.expect("an answer") {
                return *answer;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_process_that_breaks_the_rules_is_replaced_and_heard_no_more() {
    let (mut scene, mut controls) = Scene::with_controls();
    let disable = || Wish::Operate(AppId::parse("blog").unwrap(), Verb::Disable);
    let mut control = Peer::welcomed(&mut controls).await;
    control.sender.send(&FromControl::Apps(vec![app("blog")])).unwrap();
    let server = ServerSpec { admin: Vec::new(), listen: Vec::new(), ..ServerSpec::default() };
    let (server, gone, rejected) = (Box::new(server), Vec::new(), Vec::new());
    let lineage = Lineage::default();
    let (is_whole, is_trial) = (true, false);
    control.wish(Wish::Configure { server, gone, rejected, is_whole, is_trial, lineage });
    let mut proxy = scene.good_proxy().await;
    let answer = control.until_answered().await;
    assert!(matches!(answer, Answer::Configured(Ok(_))), "{answer:?}");
    let stranger = Hello { protocol: VERSION + 1, ..hello(Role::Control) };
    for frame in [
        Frame::of(&"no message at all").unwrap(),
        Frame::of(&FromProxy::Applied { turn: 1 }).unwrap(),
        Frame::of(&FromControl::Introduced).unwrap(),
        Frame::of(&FromControl::Hello(stranger)).unwrap(),
        Frame::of(&FromControl::Hello(hello(Role::Proxy))).unwrap(),
    ] {
        control.sender.send_frame(frame).unwrap();
        control.wish(disable());
        while let Some(message) = control.next().await {
            assert!(!matches!(message, ToControl::Answer { .. }), "it is heard: {message:?}");
        }
        control = Peer::welcomed(&mut controls).await;
    }
    // The proxy is the same, and nobody has disabled the app.
    let disabled = |order: &GateOrder| matches!(order, GateOrder::Refuse { .. });
    control.wish(disable());
    let (echo, orders) = proxy.until_echo().await;
    assert_eq!(orders.iter().filter(|order| disabled(order)).count(), 1, "{orders:?}");
    proxy.sender.send(&FromProxy::Echoed(echo)).unwrap();
    assert!(matches!(control.until_answered().await, Answer::Operated(Ok(()))));
    assert!(!scene.hub.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_process_may_speak_of_what_there_is_not() {
    let (mut scene, mut controls) = Scene::with_controls();
    let control = Peer::welcomed(&mut controls).await;
    let proxy = scene.proxy().await;
    proxy.introduce();
    let (nobody, generation) = (AppId::parse("nobody").unwrap(), Generation(7));
    let socket = || Arc::new(std::os::fd::OwnedFd::from(UnixStream::pair().unwrap().0));
    let address = ListenAddr::Unix("/etc/passwd".into());
    let held = FromControl::Held { app: nobody.clone(), generation };
    let given = Err("nothing".to_owned());
    let prepared = FromControl::Prepared { app: nobody.clone(), generation, number: 9, given };
    for frame in [
        Frame::with(&held, vec![socket(), socket()]).unwrap(),
        Frame::of(&held).unwrap(),
        Frame::with(&FromControl::Admin(address.clone()), vec![socket()]).unwrap(),
        Frame::of(&FromControl::Admin(address)).unwrap(),
        Frame::of(&prepared).unwrap(),
        Frame::with(&FromControl::Keep("no figures".to_owned()), vec![socket()]).unwrap(),
    ] {
        control.sender.send_frame(frame).unwrap();
    }
    let mut control = control;
    control.wish(Wish::Operate(nobody, Verb::Start));
    let answer = control.until_answered().await;
    assert!(matches!(answer, Answer::Operated(Err(_))), "{answer:?}");
    assert!(!scene.hub.is_finished());
}
