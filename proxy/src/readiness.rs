//! Instances that are asked over HTTP whether they are ready, in the supervisor's place, which speaks
//! to no app.
//!
//! A probe goes on until the instance answers as wanted, or the supervisor ends it: the deadline and the
//! watch over the process are the supervisor's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use doorbell_config::name::AppId;
use doorbell_supervisor::{
    message::{Endpoint, GateReport, Generation, Question},
    pace::{LONGEST_STEP, patience, step},
};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    gate::ReportSink,
    look::{Asked, HttpVersion, Problem, look_at},
};

/// Total, for one look.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The probes that go on.
pub struct Probes {
    running: Arc<Mutex<Running>>,
    reports: ReportSink,
}

type Running = HashMap<(AppId, Generation), AbortHandle>;

/// One of them.
struct Probe {
    app: AppId,
    generation: Generation,
    endpoint: Endpoint,
    question: Question,
    all: Arc<Mutex<Running>>,
    reports: ReportSink,
}

impl Probes {
    /// None yet; outcomes go to the supervisor by this way.
    #[must_use]
    pub fn new(reports: ReportSink) -> Self {
        Self { running: Arc::default(), reports }
    }

    /// Asks an instance until it answers as wanted, from within a Tokio runtime.
    pub fn begin(
        &self,
        app: AppId,
        generation: Generation,
        endpoint: Endpoint,
        question: Question,
    ) {
        let key = (app.clone(), generation);
        let (all, reports) = (Arc::clone(&self.running), Arc::clone(&self.reports));
        let probe = Probe { app, generation, endpoint, question, all, reports };
        // Held until it stands in the list, from which it takes itself out.
        let mut running = lock(&self.running);
        let task = tokio::spawn(probe.go_on()).abort_handle();
        if let Some(before) = running.insert(key, task) {
            before.abort();
        }
    }

    /// Asks it no more.
    pub fn end(&self, app: &AppId, generation: Generation) {
        if let Some(probe) = lock(&self.running).remove(&(app.clone(), generation)) {
            probe.abort();
        }
    }

    /// Asks nobody any more.
    pub fn end_all(&self) {
        for (_, probe) in lock(&self.running).drain() {
            probe.abort();
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.end_all();
    }
}

impl Probe {
    async fn go_on(self) {
        let (mut told, since) = (String::new(), Instant::now());
        loop {
            let begun = Instant::now();
            let words = match timeout(ATTEMPT, self.look()).await {
                Ok(Ok(())) => break,
                Ok(Err(problem)) => format!("GET {}: {problem}", self.question.probe.path),
                Err(_) => {
                    format!("GET {}: no answer within {ATTEMPT:?}", self.question.probe.path)
                }
            };
            if words != told {
                told.clone_from(&words);
                let (app, generation) = (self.app.clone(), self.generation);
                (self.reports)(GateReport::NotAnswered { app, generation, words });
            }
            // An app that answers spends its time on us: at most a third of it.
            let pause = (2 * begun.elapsed()).min(LONGEST_STEP);
            let step = step(lock(&self.all).len());
            sleep(step.max(pause).max(patience(since.elapsed()))).await;
        }
        lock(&self.all).remove(&(self.app.clone(), self.generation));
        (self.reports)(GateReport::Answered { app: self.app, generation: self.generation });
    }

    async fn look(&self) -> Result<(), Problem> {
        let Question { probe, host, http2 } = &self.question;
        let question = Asked { probe, host, app: None };
        look_at(&self.endpoint, HttpVersion::of(*http2, false), question).await
    }
}

fn lock(running: &Mutex<Running>) -> MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use doorbell_config::spec::HttpProbe;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::mpsc,
    };

    use super::*;

    const GENERATION: Generation = Generation(7);

    fn probes() -> (Probes, mpsc::Receiver<GateReport>) {
        let (sender, receiver) = mpsc::channel(16);
        // A test that ended hears no more.
        (Probes::new(Arc::new(move |report| drop(sender.try_send(report)))), receiver)
    }

    fn app() -> AppId {
        AppId::parse("blog").unwrap()
    }

    fn begin(probes: &Probes, server: &TcpListener) {
        let probe = HttpProbe { path: "/up".into(), status: None, body: None, host: None };
        let question = Question { probe, host: "blog.test".into(), http2: false };
        let endpoint = Endpoint::Tcp(server.local_addr().unwrap());
        probes.begin(app(), GENERATION, endpoint, question);
    }

    async fn answer(server: &TcpListener, status: &str) {
        let (mut client, _) = server.accept().await.unwrap();
        let mut head = [0; 1024];
        let read = client.read(&mut head).await.unwrap();
        assert!(head[..read].starts_with(b"GET /up HTTP/1.1\r\nhost: blog.test\r\n"));
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        client.write_all(answer.as_bytes()).await.unwrap();
    }

    fn not_answered(words: &str) -> GateReport {
        let (app, generation) = (app(), GENERATION);
        GateReport::NotAnswered { app, generation, words: words.into() }
    }

    #[tokio::test]
    async fn asks_until_it_is_answered_and_says_each_thing_once() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (probes, mut reports) = probes();
        begin(&probes, &server);
        for _ in 0..3 {
            answer(&server, "503 Busy").await;
        }
        answer(&server, "404 Nothing").await;
        answer(&server, "204 Well").await;
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(reports.recv().await.unwrap());
        }
        let answered = GateReport::Answered { app: app(), generation: GENERATION };
        let expected =
            [not_answered("GET /up: status 503"), not_answered("GET /up: status 404"), answered];
        assert_eq!(seen, expected);
        assert!(lock(&probes.running).is_empty());
    }

    #[tokio::test]
    async fn asks_no_more_when_it_is_ended() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (probes, mut reports) = probes();
        begin(&probes, &server);
        answer(&server, "503 Busy").await;
        assert_eq!(reports.recv().await, Some(not_answered("GET /up: status 503")));
        probes.end(&app(), GENERATION);
        assert!(lock(&probes.running).is_empty());
        // And none that its owner leaves behind.
        begin(&probes, &server);
        answer(&server, "503 Busy").await;
        drop(probes);
        // The probes had the last hold on the way for reports.
        while let Some(report) = reports.recv().await {
            assert_eq!(report, not_answered("GET /up: status 503"));
        }
    }
}
