//! A gate as the proxy would have it: holds, opens, refuses.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
    time::Duration,
};

use doorbell_config::name::AppId;
use doorbell_supervisor::{
    Supervisor,
    message::{Endpoint, GateOrder, GateReport, Generation, RefusalReason, StartTimes},
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::timeout,
};

use crate::house::LONG;

/// What the proxy would be: holds, opens, refuses.
#[derive(Clone)]
pub(crate) struct Gate {
    doors: Arc<Mutex<HashMap<AppId, Door>>>,
    changed: watch::Sender<u64>,
    supervisor: Supervisor,
    task: Arc<Mutex<Option<AbortHandle>>>,
    pub(crate) orders: Arc<Mutex<Vec<GateOrder>>>,
}

#[derive(Clone, Default)]
struct Door {
    open: Option<(Generation, Endpoint)>,
    started: Option<StartTimes>,
    refusal: Option<RefusalReason>,
    /// Refusals so far: waiters go by the first that comes.
    refusals: Vec<RefusalReason>,
    leases: BTreeMap<Generation, usize>,
    shut: Vec<Generation>,
    wanted: bool,
}

/// Permission to use an instance.
pub(crate) struct Lease {
    gate: Gate,
    app: AppId,
    pub(crate) generation: Generation,
    pub(crate) endpoint: Endpoint,
}

impl Gate {
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        let changed = watch::Sender::new(0);
        let (doors, task, orders) = (Arc::default(), Arc::default(), Arc::default());
        Self { doors, changed, supervisor, task, orders }
    }

    /// Obeys orders in a task of its own.
    pub(crate) fn start(&self, orders: mpsc::Receiver<GateOrder>) {
        let task = tokio::spawn(self.clone().run(orders)).abort_handle();
        *self.task.lock().unwrap() = Some(task);
    }

    /// Obeys no more, and lets go of the supervisor.
    pub(crate) fn close(&self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
    }

    async fn run(self, mut orders: mpsc::Receiver<GateOrder>) {
        while let Some(order) = orders.recv().await {
            self.orders.lock().unwrap().push(order.clone());
            self.obey(order);
            self.changed.send_modify(|version| *version += 1);
        }
    }

    fn obey(&self, order: GateOrder) {
        let mut doors = self.doors.lock().unwrap();
        match order {
            GateOrder::Open { app, generation, endpoint, started } => {
                let door = doors.entry(app).or_default();
                door.open = Some((generation, endpoint));
                door.started = started.or(door.started);
                door.refusal = None;
                door.wanted = false;
            }
            // A supervisor without proxies has no need for it.
            GateOrder::Reopen { app, .. } => panic!("{app} is opened again"),
            GateOrder::Shut { app, generation } => {
                let door = doors.entry(app.clone()).or_default();
                door.open.take_if(|(open, _)| *open == generation);
                door.shut.push(generation);
                if door.leases.get(&generation).copied().unwrap_or(0) == 0 {
                    self.supervisor.report(GateReport::Drained { app, generation });
                }
            }
            GateOrder::AskRetire { app, generation, .. } => {
                let door = doors.entry(app.clone()).or_default();
                let is_open = door.open.as_ref().is_some_and(|(open, _)| *open == generation);
                let is_idle = door.leases.get(&generation).copied().unwrap_or(0) == 0;
                self.supervisor.report(if is_open && is_idle {
                    door.open = None;
                    GateReport::Retired { app, generation }
                } else {
                    GateReport::Busy { app, generation, idle_for: Duration::ZERO }
                });
            }
            GateOrder::Refuse { app, refusal } => {
                let door = doors.entry(app).or_default();
                door.refusal = Some(refusal.reason);
                door.refusals.push(refusal.reason);
                door.wanted = false;
            }
            GateOrder::Hold { app } => doors.entry(app).or_default().refusal = None,
            // What comes of asking, a test says.
            GateOrder::Probe { .. }
            | GateOrder::EndProbe { .. }
            | GateOrder::Progress { .. }
            | GateOrder::Forget { .. } => {}
        }
    }

    /// A request: waits for an instance, or is refused.
    pub(crate) async fn request(&self, app: &AppId) -> Result<Lease, RefusalReason> {
        let mut changed = self.changed.subscribe();
        let seen = self.door(app).refusals.len();
        let answered = timeout(LONG, async {
            loop {
                changed.mark_unchanged();
                if let Some(answer) = self.try_request(app, seen) {
                    return answer;
                }
                changed.changed().await.unwrap();
            }
        });
        answered.await.expect("the request was answered")
    }

    fn try_request(&self, app: &AppId, seen: usize) -> Option<Result<Lease, RefusalReason>> {
        let mut doors = self.doors.lock().unwrap();
        let door = doors.entry(app.clone()).or_default();
        if let Some((generation, endpoint)) = door.open.clone() {
            *door.leases.entry(generation).or_default() += 1;
            let lease = Lease { gate: self.clone(), app: app.clone(), generation, endpoint };
            return Some(Ok(lease));
        }
        if let Some(reason) = door.refusals.get(seen).copied().or(door.refusal) {
            return Some(Err(reason));
        }
        if !std::mem::replace(&mut door.wanted, true) {
            self.supervisor.report(GateReport::Wanted { app: app.clone() });
        }
        None
    }

    /// A request that is expected to be answered by the app.
    pub(crate) async fn visit(&self, app: &AppId) -> Lease {
        match self.request(app).await {
            Ok(lease) => lease,
            Err(reason) => panic!("{reason:?}: {:#?}", self.supervisor.snapshot(app)),
        }
    }

    /// Waits until no request can get this instance any more.
    pub(crate) async fn until_shut(&self, app: &AppId) {
        let mut changed = self.changed.subscribe();
        let seen = async {
            while self.door(app).open.is_some() {
                changed.changed().await.unwrap();
            }
        };
        timeout(LONG, seen).await.expect("the gate was shut");
    }

    fn door(&self, app: &AppId) -> Door {
        self.doors.lock().unwrap().get(app).cloned().unwrap_or_default()
    }

    pub(crate) fn started(&self, app: &AppId) -> StartTimes {
        self.door(app).started.expect("the app was started")
    }

    /// The orders for one app so far.
    pub(crate) fn orders(&self, app: &AppId) -> Vec<GateOrder> {
        let orders = self.orders.lock().unwrap();
        orders.iter().filter(|order| order.app() == app).cloned().collect()
    }

    /// Waits until the gate was given this order.
    pub(crate) async fn until_ordered(&self, app: &AppId, wanted: impl Fn(&GateOrder) -> bool) {
        let mut changed = self.changed.subscribe();
        let seen = async {
            while !self.orders(app).iter().any(&wanted) {
                changed.changed().await.unwrap();
            }
        };
        timeout(LONG, seen).await.expect("the gate was told");
    }
}

impl Lease {
    /// GET over the endpoint: the whole response.
    pub(crate) async fn get(&self, path: &str) -> String {
        let (endpoint, path) = (self.endpoint.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || get(&endpoint, &path)).await.unwrap()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut doors = self.gate.doors.lock().unwrap();
        let door = doors.get_mut(&self.app).unwrap();
        let leases = door.leases.get_mut(&self.generation).unwrap();
        *leases -= 1;
        if *leases == 0 && door.shut.contains(&self.generation) {
            let (app, generation) = (self.app.clone(), self.generation);
            self.gate.supervisor.report(GateReport::Drained { app, generation });
        }
    }
}

fn get(endpoint: &Endpoint, path: &str) -> String {
    trait Stream: Read + Write {}
    impl<T: Read + Write> Stream for T {}
    let mut stream: Box<dyn Stream> = match endpoint {
        Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).unwrap()),
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).unwrap()),
        Endpoint::Upstream => panic!("not ours to connect to"),
    };
    let request = format!("GET {path} HTTP/1.0\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}
