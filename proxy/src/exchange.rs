//! One request and its answer, from the head's end to the last byte: what is known of it, whichever
//! protocol it came by.
//!
//! The story: [`Exchange::judge`] finds the app, [`Exchange::admit`] gets a lease (and waits for it
//! while the app starts), a forwarder uses it, [`Exchange::finish`] counts and logs.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use doorbell_config::name::AppId;
use doorbell_supervisor::message::{Endpoint, Refusal, StartTimes};

use crate::{
    access_log::AccessRecord,
    answer::{Answer, Place, Rendered},
    app::Table,
    bulletin::Bulletin,
    forward::{Passage, Rules, new_request_id},
    gate::{Denial, Entry, Lease},
    head::{Reader, RequestHead},
    http2,
    metrics::{InFlight, RequestFigures},
    navigation::is_navigation,
    pass::{Question, Reply, desk::COOKIE, office::PASS},
    patience::Pace,
    rewrite::Prefix,
    shared::Shared,
    sharing::selectors,
    transport::ConnFacts,
    upstreams::Upstreams,
    verdict::{Matched, Verdict, judge},
};

mod entering;

/// Times a request may be sent in all.
pub const MOST_SENT: u32 = 3;

/// One request and its answer.
pub struct Exchange {
    /// When its head was complete.
    pub began: Instant,
    /// The connection it came by.
    pub facts: Arc<ConnFacts>,
    /// Its head.
    pub head: RequestHead,
    /// The table it is decided by, to its end.
    pub table: Arc<Table>,
    /// The app it is for.
    pub matched: Option<Matched>,
    /// What the app is told beyond the client's words.
    pub passage: Option<Passage>,
    /// Permission to use the app, while it has it.
    pub lease: Option<Lease>,
    /// How it went at the gate and beyond.
    pub passing: Passing,
    /// Our own answer, if it got one.
    pub answer: Option<Answer>,
    /// There until it is counted.
    in_flight: Option<InFlight>,
    shared: Arc<Shared>,
}

/// How a request passed the gate, and what was tried to answer it.
#[derive(Debug, Default)]
pub struct Passing {
    /// Time at the gate.
    pub held: Duration,
    /// The start it waited for.
    pub start: Option<StartTimes>,
    /// Upstream servers tried, by index.
    pub tried: u64,
    /// The upstream server in use.
    pub server: Option<usize>,
    /// Its address in use, if it is not a socket's file.
    pub address: Option<SocketAddr>,
    /// Addresses of that server that did not take a connection.
    pub addresses_tried: usize,
    /// Servers that failed.
    pub servers_failed: usize,
    /// Connects that failed.
    pub failed_connects: u32,
    /// Times it was sent.
    pub sent: u32,
    /// Whether the app's answer has begun.
    pub answered: bool,
    /// Whether its app was defined anew while it waited: then what was made of it before does not hold.
    pub moved: bool,
    /// Content bytes of the request that came.
    pub received: u64,
    /// Whether an HTTP/2 client's body comes fast enough.
    pub pace: Pace,
}

impl Exchange {
    /// A request whose head is complete.
    #[must_use]
    pub fn begin(shared: &Arc<Shared>, facts: Arc<ConnFacts>, head: RequestHead) -> Self {
        Self {
            began: Instant::now(),
            facts,
            head,
            table: shared.table.load_full(),
            matched: None,
            passage: None,
            lease: None,
            passing: Passing::default(),
            answer: None,
            in_flight: None,
            shared: Arc::clone(shared),
        }
    }

    /// Finds the app.
    ///
    /// # Errors
    /// Our own answer, where there is none or the request is refused.
    pub fn judge(&mut self) -> Result<(), Answer> {
        let verdict = match self.shared.passes.link(&self.head) {
            Some((app, link)) => Verdict::Answer(Answer::Link(app, link.to_owned()), None),
            None => judge(&self.table, &self.head),
        };
        let (matched, outcome) = match verdict {
            Verdict::Forward(matched) if matched.app.shares_instance() => {
                let outcome = self.keep_to(&matched);
                (Some(matched), outcome)
            }
            Verdict::Forward(matched) => (Some(matched), Ok(())),
            Verdict::Answer(answer, app) => (app.map(Matched::without_app), Err(answer)),
        };
        let metrics = matched.as_ref().map_or(&self.shared.other, |matched| &matched.app.metrics);
        self.in_flight = Some(metrics.begin());
        self.matched = matched;
        self.passage = Some(Passage::of(&self.head, &self.facts, self.rules()));
        outcome
    }

    /// Whoever has found one of the apps of an instance is not to select another.
    fn keep_to(&mut self, matched: &Matched) -> Result<(), Answer> {
        let path = self.head.path().get(matched.stripped..).unwrap_or_default();
        if self.table.leads_elsewhere(&matched.app, path) {
            return Err(Answer::NoRoute);
        }
        if let Some(query) = selectors::without_selector(self.head.query()) {
            self.head.set_query(&query);
        }
        Ok(())
    }

    /// What its app's definition says about forwarding.
    fn rules(&self) -> Rules<'_> {
        let matched = self.matched.as_ref();
        let app = matched.map(|matched| &matched.app);
        Rules {
            trusted_proxies: &self.table.server.trusted_proxies,
            stripped_prefix: matched.map_or("", |matched| matched.stripped_prefix(&self.head)),
            // Of those that share its program they select one, and do not get there.
            client_app_headers: app
                .is_some_and(|app| app.spec.client_app_headers && !app.is_host()),
            app: app.and_then(|app| app.name_inside()),
        }
    }

    /// The head of an HTTP/1 request as it goes on; empty if it does not.
    #[must_use]
    pub fn forwarded_bytes(&self, reader: Reader) -> BytesMut {
        match (&self.matched, &self.passage) {
            (Some(matched), Some(passage)) if matched.stripped == 0 => {
                self.head.forwarded_bytes(self.head.target(), passage, reader)
            }
            (Some(matched), Some(passage)) => {
                self.head.forwarded_bytes(&matched.sent_target(&self.head), passage, reader)
            }
            _ => BytesMut::new(),
        }
    }

    /// Gets a lease, waiting at the gate if the app is not ready. Ends early when `left` resolves:
    /// then nothing was sent to the app.
    ///
    /// # Errors
    /// Our own answer, where there is no lease.
    pub async fn admit(&mut self, left: impl Future<Output = ()>) -> Result<(), Answer> {
        tokio::pin!(left);
        let Some(matched) = &self.matched else { return Err(Answer::NoRoute) };
        match self.knock(matched) {
            Entry::Leased(lease) => self.lease = Some(lease),
            Entry::Refused(denial) => return Err(matched.denied(denial)),
            Entry::Held(place) => {
                let since = Instant::now();
                let (patience, shows_start) = self.patience(&matched.app);
                let outcome = tokio::select! {
                    biased;
                    // Looked at first: a lease that comes as the client leaves is given back unused.
                    () = &mut left => None,
                    outcome = place.lease(patience) => Some(outcome),
                };
                self.passing.held += since.elapsed();
                let outcome = outcome.ok_or(Answer::ClientLeft)?;
                let lease = outcome.map_err(|denial| self.denied(denial, shows_start))?;
                self.passing.start = lease.instance().started;
                self.lease = Some(lease);
            }
        }
        if self.endpoint() == Some(&Endpoint::Upstream) && !self.has_arrived() {
            // On the heap, as what is rare and large is not to make every connection larger.
            return Box::pin(self.enter(left)).await;
        }
        Ok(())
    }

    /// Waits a little before the app is tried again, longer each time, as part of the time that the
    /// request may be held.
    ///
    /// # Errors
    /// Our own answer, when that time is over or the client has left.
    pub async fn pause(&mut self, left: impl Future<Output = ()>) -> Result<(), Answer> {
        const LONGEST: Duration = Duration::from_millis(200);
        let doubled = Duration::from_millis(1 << self.passing.failed_connects.min(8));
        let pause = doubled.min(LONGEST);
        if !self.may_wait(pause) {
            return Err(Answer::BadGateway);
        }
        self.passing.held += pause;
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = left => Err(Answer::ClientLeft),
        }
    }

    /// Whether the time for which a request may be held allows this much more.
    #[must_use]
    pub fn may_wait(&self, more: Duration) -> bool {
        let limit = self.matched.as_ref().map(|matched| matched.app.spec.timeouts.hold);
        limit.is_some_and(|limit| self.passing.held + more <= limit)
    }

    /// The id of the app it is for; empty if there is none.
    #[must_use]
    pub fn app_id(&self) -> &str {
        self.matched.as_ref().map_or("", |matched| matched.app.spec.id.as_str())
    }

    /// What its path's prefix changes in the answer; `None` if nothing.
    #[must_use]
    pub fn prefix(&self) -> Option<Prefix<'_>> {
        let matched = self.matched.as_ref()?;
        let text = self.head.path().get(..matched.scoped).filter(|text| !text.is_empty())?;
        let (path, authority) = (self.head.path(), self.head.authority.as_str());
        Some(Prefix { text, is_seen: matched.stripped == 0, path, authority })
    }

    /// The endpoint of the lease.
    #[must_use]
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.lease.as_ref().map(|lease| &lease.instance().endpoint)
    }

    /// The servers to choose from. A request that was held while its app turned from a program into
    /// static servers goes by the table of now.
    ///
    /// # Errors
    /// Our own answer, where there are none.
    pub fn upstreams(&self) -> Result<Arc<Upstreams>, Answer> {
        let matched = self.matched.as_ref().ok_or(Answer::Internal)?;
        if let Some(upstreams) = &matched.app.upstreams {
            return Ok(Arc::clone(upstreams));
        }
        let table = self.shared.table.load();
        let now = table.routes.app(matched.app.spec.id.as_str());
        now.and_then(|app| app.upstreams.clone()).ok_or(Answer::BadGateway)
    }

    /// The app could not be reached at the lease's instance: tell the gate, give the lease back.
    pub fn unreachable(&mut self) {
        if let (Some(lease), Some(matched)) = (self.lease.take(), &self.matched) {
            matched.app.unreachable(lease.instance());
        }
    }

    /// The first byte of the app's answer has come.
    pub fn answer_begins(&mut self) {
        use std::sync::atomic::Ordering;
        self.passing.answered = true;
        let (Some(lease), Some(matched)) = (&self.lease, &self.matched) else { return };
        let instance = lease.instance();
        // An instance that nobody waited for has no cold start that anybody felt.
        let felt = instance.started.is_some() && self.passing.start.is_some();
        if felt
            && !instance.answered.load(Ordering::Relaxed)
            && !instance.answered.swap(true, Ordering::Relaxed)
        {
            self.starter(matched).metrics.first_byte(instance.opened().elapsed());
        }
        if let Some(server) = self.passing.server
            && let Ok(upstreams) = self.upstreams()
        {
            upstreams.succeeded(server);
        }
    }

    /// `Server-Timing` for a request that waited (<https://www.w3.org/TR/server-timing/>).
    #[must_use]
    pub fn server_timing(&self) -> Option<String> {
        if self.passing.held.is_zero() {
            return None;
        }
        let millis = |d: Duration| d.as_secs_f64() * 1e3;
        let hold = format!("hold;dur={:.1}", millis(self.passing.held));
        Some(match &self.passing.start {
            Some(start) => format!("{hold}, start;dur={:.1}", millis(start.total())),
            None => hold,
        })
    }

    /// The request's id; one is made for a request that was never forwarded.
    #[must_use]
    pub fn request_id(&self) -> String {
        let id = self.passage.as_ref().map(|passage| passage.request_id().to_owned());
        id.unwrap_or_else(new_request_id)
    }

    /// What becomes of its app's start, for a waiting page.
    ///
    /// # Errors
    /// Our own answer, when too many listen.
    pub fn bulletin(&self) -> Result<Bulletin, Answer> {
        let matched = self.matched.as_ref().ok_or(Answer::NoRoute)?;
        Bulletin::open(&matched.app, self.pass().is_some())
    }

    /// What an operator with a link or a pass gets in an answer's place.
    pub async fn for_operators(&self, answer: Answer) -> Answer {
        let instead = if let Answer::Link(app, link) = &answer {
            self.redeem(app, link).await
        } else if let Answer::Denied(Denial::Refusal(refusal)) = &answer
            && refusal.reason.is_failed_start()
        {
            self.why(refusal).await
        } else {
            None
        };
        instead.unwrap_or(answer)
    }

    async fn redeem(&self, app: &AppId, link: &str) -> Option<Answer> {
        let app = self.table.routes.app(app.as_str())?;
        let reply = self.shared.passes.ask(Question::Redeem(link.to_owned())).await?;
        let Reply::Pass(pass) = reply else { return None };
        let secure = if self.is_https() { "; Secure" } else { "" };
        let cookie =
            format!("{COOKIE}={pass}; Path=/; Max-Age={PASS}; HttpOnly; SameSite=Lax{secure}");
        let base = app.spec.base_path();
        Some(Answer::Entered(cookie, format!("{}/", base.trim_end_matches('/'))))
    }

    async fn why(&self, refusal: &Refusal) -> Option<Answer> {
        let pass = self.pass().filter(|_| is_navigation(&self.head))?;
        let reply = self.shared.passes.ask(Question::Why(pass.to_owned())).await?;
        let Reply::Why(failure) = reply else { return None };
        Some(Answer::Why(Box::new(failure), refusal.clone()))
    }

    /// The pass of an operator who goes to a page of this app.
    fn pass(&self) -> Option<&str> {
        let app = &self.matched.as_ref()?.app.spec.id;
        self.shared.passes.pass(&self.head, app)
    }

    fn is_https(&self) -> bool {
        let said = self.passage.iter().flat_map(Passage::set);
        said.into_iter().any(|(name, value)| name == "x-forwarded-proto" && value == "https")
    }

    /// An answer of ours, as this client gets it.
    #[must_use]
    pub fn render(&self, answer: &Answer) -> Rendered {
        let app = self.matched.as_ref().map(|matched| &*matched.app.spec);
        let place = Place { server: &self.table.server, app };
        let mut rendered = answer.render(Some(&self.head), &self.request_id(), Some(place));
        rendered.fields.extend(self.server_timing().map(|timing| ("server-timing", timing)));
        rendered
    }

    /// Counts and logs the request, with the status that was sent.
    pub fn finish(&mut self, status: u16, sent_bytes: u64) {
        let Some(in_flight) = self.in_flight.take() else { return };
        let shared = &self.shared;
        let took = self.began.elapsed();
        let app = self.matched.as_ref().map(|matched| &matched.app);
        app.map_or(&shared.other, |app| &app.metrics).finish(&RequestFigures {
            method: &self.head.method,
            status,
            took,
            received_bytes: self.passing.received,
            sent_bytes,
        });
        if let Some(log) = shared.access_log.load().as_ref() {
            let passage = self.passage.as_ref();
            log.record(&AccessRecord {
                client: passage.map_or_else(|| self.facts.peer_ip(), |passage| passage.client),
                authorization: self.head.field("authorization"),
                method: self.head.method.as_str(),
                target: self.head.raw_target(),
                version: self.head.version.as_str(),
                host: &self.head.authority,
                status,
                sent_bytes,
                received_bytes: self.passing.received,
                referer: self.head.field("referer"),
                user_agent: self.head.field("user-agent"),
                took,
                held: self.passing.held,
                app: app.map(|app| app.spec.id.as_str()),
                request_id: passage.map_or("", Passage::request_id),
            });
        }
        drop(in_flight);
        self.lease = None;
    }
}

impl Drop for Exchange {
    /// A request that was cut off, by the end of its connection or ours, is counted too.
    fn drop(&mut self) {
        self.finish(http2::status_when_run_out().unwrap_or(499), 0);
    }
}
