//! The supervisor's process between scripted roles: what it does about one that breaks the rules.
//!
//! Roles are tasks here, with the same sockets between them as between processes.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{os::unix::net::UnixStream, sync::Arc, time::Duration};

use doorbell_config::{
    name::AppId,
    spec::{AppSpec, Backend, ListenAddr, ProcessSpec, RouteSpec, ServerSpec, Template},
};
use doorbell_supervisor::{
    SupervisorOptions,
    hub::{self, HubOptions, Launcher},
    message::{GateOrder, GateReport, Generation, Verb},
    protocol::{
        Answer, FromControl, FromProxy, Hello, Lineage, Listening, Role, TRUSTED_LIMITS, ToControl,
        ToProxy, VERSION, Wish,
    },
    wire::{self, Frame, Receiver, Sender},
};
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
    time::timeout,
};

mod control;
mod random;

const PATIENCE: Duration = Duration::from_secs(20);

/// A hub with its scripted roles: each that it starts comes out here.
struct Scene {
    proxies: mpsc::Receiver<UnixStream>,
    /// What the control process is to ask for, and what it was answered.
    wishes: mpsc::Sender<Wish>,
    answers: mpsc::Receiver<Answer>,
    hub: JoinHandle<Result<(), hub::HubError>>,
    _folder: TempDir,
}

/// One role's end of its connection.
struct Peer<T> {
    sender: Sender,
    receiver: Receiver<T>,
}

fn hello(role: Role) -> Hello {
    let (number, is_draining, version) = (None, false, "test".to_owned());
    Hello { role, number, is_draining, protocol: VERSION, version }
}

fn app(id: &str) -> Arc<AppSpec> {
    let process = ProcessSpec::new(vec![Template::parse("/bin/false").unwrap()], "/".into());
    let routes = RouteSpec::new(Vec::new(), Vec::new());
    Arc::new(AppSpec::new(AppId::parse(id).unwrap(), routes, Backend::Process(process.into())))
}

/// A control process that wants one app, and what it is told to.
async fn control(
    connection: UnixStream,
    wishes: Arc<Mutex<mpsc::Receiver<Wish>>>,
    answers: mpsc::Sender<Answer>,
) {
    let (sender, mut receiver) = wire::open::<ToControl>(connection, TRUSTED_LIMITS).unwrap();
    sender.send(&FromControl::Hello(hello(Role::Control))).unwrap();
    sender.send(&FromControl::Introduced).unwrap();
    let listen = vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())];
    let server = ServerSpec { listen, ..ServerSpec::default() };
    let mut wishes = wishes.lock().await;
    loop {
        let message = tokio::select! {
            message = receiver.next() => message,
            Some(wish) = wishes.recv() => {
                sender.send(&FromControl::Wish { number: 2, wish: Box::new(wish) }).unwrap();
                continue;
            }
        };
        let Ok(Some((message, _))) = message else { return };
        match message {
            ToControl::Begin => {
                sender.send(&FromControl::Apps(vec![app("blog")])).unwrap();
                let (gone, rejected) = (Vec::new(), Vec::new());
                let server = Box::new(server.clone());
                let wish = Wish::Configure {
                    server,
                    gone,
                    rejected,
                    is_whole: true,
                    is_trial: false,
                    lineage: Lineage::default(),
                };
                let wish = FromControl::Wish { number: 1, wish: Box::new(wish) };
                sender.send(&wish).unwrap();
            }
            ToControl::Answer { wish: 1, answer } => {
                assert!(matches!(*answer, Answer::Configured(Ok(_))), "{answer:?}");
            }
            ToControl::Answer { answer, .. } => answers.try_send(*answer).unwrap(),
            ToControl::End => return,
            _ => {}
        }
    }
}

impl Scene {
    fn start() -> Self {
        let (wishes, wished) = mpsc::channel(16);
        let (answered, answers) = mpsc::channel(16);
        let wished = Arc::new(Mutex::new(wished));
        Self::begin(wishes, answers, move |connection| {
            tokio::spawn(control(connection, Arc::clone(&wished), answered.clone()))
        })
    }

    /// With control processes that come out too.
    fn with_controls() -> (Self, mpsc::Receiver<UnixStream>) {
        let (came, controls) = mpsc::channel(16);
        let ((wishes, _), (_, answers)) = (mpsc::channel(1), mpsc::channel(1));
        let scene = Self::begin(wishes, answers, move |connection| {
            let came = came.clone();
            tokio::spawn(async move { came.send(connection).await.unwrap() })
        });
        (scene, controls)
    }

    fn begin(
        wishes: mpsc::Sender<Wish>,
        answers: mpsc::Receiver<Answer>,
        start_control: impl Fn(UnixStream) -> JoinHandle<()> + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (came, proxies) = mpsc::channel(16);
        let launcher = Launcher::Tasks(Arc::new(move |role, connection| match role {
            Role::Control => start_control(connection),
            Role::Proxy => {
                let came = came.clone();
                tokio::spawn(async move { came.send(connection).await.unwrap() })
            }
        }));
        let server = ServerSpec { admin: Vec::new(), ..ServerSpec::default() };
        let options = HubOptions {
            control_dir: folder.path().join("registry"),
            supervisor: SupervisorOptions {
                state_dir: folder.path().join("state"),
                log_dir: folder.path().join("log"),
                parallel_starts: 1,
                memory: None,
                open_files: None,
                group: None,
                has_custodian: false,
                lock: None,
            },
            server,
            launcher,
            workers: 2,
            successor: None,
            is_upgraded: false,
        };
        let hub = tokio::spawn(hub::run(options));
        Self { proxies, wishes, answers, hub, _folder: folder }
    }

    /// The next proxy that the hub starts.
    async fn proxy(&mut self) -> Peer<ToProxy> {
        timeout(PATIENCE, self.come()).await.expect("a proxy is started")
    }

    /// The next one, whenever it comes.
    async fn come(&mut self) -> Peer<ToProxy> {
        let came = self.proxies.recv().await.expect("a proxy is started");
        let (sender, receiver) = wire::open(came, TRUSTED_LIMITS).unwrap();
        Peer { sender, receiver }
    }

    /// A proxy that serves.
    async fn good_proxy(&mut self) -> Peer<ToProxy> {
        let mut proxy = self.proxy().await;
        proxy.introduce();
        let turn = proxy.until_applied().await;
        proxy.sender.send(&FromProxy::Applied { turn }).unwrap();
        proxy
    }
}

impl Peer<ToProxy> {
    fn introduce(&self) {
        self.sender.send(&FromProxy::Hello(hello(Role::Proxy))).unwrap();
        self.sender.send(&FromProxy::Introduced).unwrap();
    }

    async fn next(&mut self) -> Option<ToProxy> {
        let next = timeout(PATIENCE, self.receiver.next()).await.expect("the hub says something");
        next.ok().flatten().map(|(message, _)| message)
    }

    async fn until_applied(&mut self) -> u64 {
        loop {
            match self.next().await.expect("a configuration") {
                ToProxy::Apply(apply) => return apply.turn,
                ToProxy::Apps(apps) => {
                    let told = serde_json::to_string(&apps).unwrap();
                    assert!(
                        !told.contains("/bin/false"),
                        "a proxy learns how apps are run: {told}"
                    );
                }
                _ => {}
            }
        }
    }

    /// The next echo, and the orders before it.
    async fn until_echo(&mut self) -> (u64, Vec<GateOrder>) {
        let mut orders = Vec::new();
        loop {
            match self.next().await.expect("an echo") {
                ToProxy::Echo(number) => return (number, orders),
                ToProxy::Order(order) => orders.push(order),
                _ => {}
            }
        }
    }

    /// Waits until the hub has had enough of this one.
    async fn until_expelled(mut self) {
        while self.next().await.is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_breaks_the_rules_is_replaced_and_nothing_else_is_touched() {
    let mut scene = Scene::start();
    drop(scene.good_proxy().await);
    let listening = Listening {
        number: u64::MAX,
        configured: ListenAddr::Unix("/etc/passwd".into()),
        address: ListenAddr::Unix("/etc/passwd".into()),
        app: None,
    };
    let socket = Arc::new(std::os::fd::OwnedFd::from(UnixStream::pair().unwrap().0));
    let stranger = Hello { protocol: VERSION + 1, ..hello(Role::Proxy) };
    let report = FromProxy::Report(GateReport::Wanted { app: AppId::parse("blog").unwrap() });
    let frames = [
        Frame::of(&"no message at all").unwrap(),
        Frame::of(&"x".repeat(100_000)).unwrap(),
        Frame::of(&FromProxy::Introduced).unwrap(),
        Frame::of(&FromProxy::Hello(stranger)).unwrap(),
        Frame::of(&FromProxy::Listening(listening.clone())).unwrap(),
        Frame::with(&FromProxy::Listening(listening), vec![Arc::clone(&socket)]).unwrap(),
        Frame::with(&report, vec![socket]).unwrap(),
    ];
    for frame in frames {
        let proxy = scene.good_proxy().await;
        // It may have had enough before it has read all.
        let _ = proxy.sender.send_frame(frame);
        proxy.until_expelled().await;
    }
    scene.good_proxy().await;
    assert!(std::path::Path::new("/etc/passwd").exists());
    assert!(!scene.hub.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_nobody_asked_for_start_nothing_and_fill_nothing() {
    let mut scene = Scene::start();
    let mut proxy = scene.good_proxy().await;
    let generation = Generation(1);
    for n in 0..20_000 {
        let app = AppId::parse(&format!("nobody-{n}")).unwrap();
        let reports = [
            GateReport::Wanted { app: app.clone() },
            GateReport::Unreachable { app: app.clone(), generation },
            GateReport::Drained { app: app.clone(), generation },
            GateReport::Retired { app, generation },
        ];
        for report in reports {
            proxy.sender.send(&FromProxy::Report(report)).expect("the hub listens");
        }
        if n % 1000 == 0 {
            proxy.sender.flush().await;
        }
    }
    // An order only comes for what there is.
    let app = AppId::parse("blog").unwrap();
    proxy.sender.send(&FromProxy::Report(GateReport::Wanted { app: app.clone() })).unwrap();
    let mut orders = 0;
    loop {
        match proxy.next().await.expect("it is not expelled") {
            ToProxy::Order(order) => {
                assert_eq!(*order.app(), app, "{order:?}");
                orders += 1;
                if matches!(order, GateOrder::Refuse { .. }) {
                    break;
                }
            }
            other => assert!(matches!(other, ToProxy::Gates(_) | ToProxy::Control), "{other:?}"),
        }
    }
    assert!(orders >= 1);
    // What a later proxy is told is as little.
    drop(proxy);
    let mut next = scene.good_proxy().await;
    loop {
        if let ToProxy::Gates(orders) = next.next().await.expect("the gates") {
            assert!(orders.len() <= 1, "{} orders", orders.len());
            break;
        }
    }
    assert!(!scene.hub.is_finished());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_is_answered_when_every_proxy_has_come_to_it() {
    let mut scene = Scene::start();
    let mut proxy = scene.good_proxy().await;
    let ask = |scene: &Scene, verb| {
        scene.wishes.try_send(Wish::Operate(AppId::parse("blog").unwrap(), verb)).unwrap();
    };
    ask(&scene, Verb::Disable);
    let (first, orders) = proxy.until_echo().await;
    assert!(matches!(orders.last(), Some(GateOrder::Refuse { .. })), "{orders:?}");
    ask(&scene, Verb::Enable);
    let (second, orders) = proxy.until_echo().await;
    assert!(matches!(orders.last(), Some(GateOrder::Hold { .. })), "{orders:?}");
    assert!(scene.answers.try_recv().is_err(), "answered before it is so");
    // In whatever order they come back, and whatever else does.
    for number in [second, second, u64::MAX, first] {
        proxy.sender.send(&FromProxy::Echoed(number)).unwrap();
    }
    for _ in 0..2 {
        let answer = timeout(PATIENCE, scene.answers.recv()).await.unwrap().unwrap();
        assert!(matches!(answer, Answer::Operated(Ok(()))), "{answer:?}");
    }
    // Who is gone is not waited for.
    ask(&scene, Verb::Disable);
    proxy.until_echo().await;
    drop(proxy);
    let answer = timeout(PATIENCE, scene.answers.recv()).await.unwrap().unwrap();
    assert!(matches!(answer, Answer::Operated(Ok(()))), "{answer:?}");
    scene.good_proxy().await;
    assert!(scene.answers.try_recv().is_err(), "answered twice");
}

/// Time is not what it takes here: it goes on when nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_proxy_that_comes_to_no_echo_is_replaced_and_one_that_does_is_not() {
    let mut scene = Scene::start();
    let mut proxy = scene.good_proxy().await;
    let disable = || Wish::Operate(AppId::parse("blog").unwrap(), Verb::Disable);
    scene.wishes.try_send(disable()).unwrap();
    let (number, _) = proxy.until_echo().await;
    proxy.sender.send(&FromProxy::Echoed(number)).unwrap();
    assert!(scene.answers.recv().await.is_some());
    tokio::time::sleep(Duration::from_secs(3600)).await;
    scene.wishes.try_send(disable()).unwrap();
    proxy.until_echo().await;
    assert!(scene.answers.recv().await.is_some(), "when it is given up");
    while proxy.receiver.next().await.is_ok_and(|message| message.is_some()) {}
    assert!(!scene.hub.is_finished());
}

/// Time is not what it takes here: it goes on when nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn a_proxy_that_hangs_is_replaced() {
    let mut scene = Scene::start();
    drop(scene.good_proxy().await);
    // One that does not say who it is, and one that does and then takes nothing over.
    let silent = scene.come().await;
    let mut idle = scene.come().await;
    idle.introduce();
    idle.until_applied().await;
    let next = scene.come().await;
    for mut hung in [silent, idle] {
        while hung.receiver.next().await.is_ok_and(|message| message.is_some()) {}
    }
    next.introduce();
    assert!(!scene.hub.is_finished());
}
