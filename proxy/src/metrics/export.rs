//! Turns figures into Prometheus' text format, when somebody scrapes.

use std::collections::BTreeMap;

use doorbell_supervisor::message::{GoalName, Snapshot, StateName, Usage};
use prometheus::{
    Encoder, TextEncoder,
    proto::{
        Bucket, Counter, Gauge, Histogram as HistogramProto, LabelPair, Metric, MetricFamily,
        MetricType,
    },
};

use super::{
    METHODS, OTHER_APP, PHASES, REQUEST_BUCKETS, START_BUCKETS,
    figures::{AppFigures, HistogramFigures, ServerFigures, TrafficFigures},
};

/// Content type of the text format.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

const STATES: [(StateName, &str); 9] = [
    (StateName::Stopped, "stopped"),
    (StateName::Provisioning, "provisioning"),
    (StateName::Starting, "starting"),
    (StateName::Ready, "ready"),
    (StateName::Frozen, "frozen"),
    (StateName::Draining, "draining"),
    (StateName::Stopping, "stopping"),
    (StateName::BackingOff, "backing_off"),
    (StateName::Failed, "failed"),
];

/// All that is known of one app at the time of a scrape.
pub struct AppView<'a> {
    /// Its id.
    pub id: &'a str,
    /// Which of its replicas, if not the first.
    pub replica: Option<String>,
    /// Its figures, if somebody visited it.
    pub figures: Option<&'a AppFigures>,
    /// Its lifecycle, if the supervisor knows it.
    pub snapshot: Option<&'a Snapshot>,
    /// Memory and CPU of its process tree, if it runs.
    pub usage: Option<Usage>,
}

impl AppView<'_> {
    /// What tells it from others.
    fn labels(&self) -> Vec<(&str, &str)> {
        let replica = self.replica.iter().map(|replica| ("replica", replica.as_str()));
        [("app", self.id)].into_iter().chain(replica).collect()
    }
}

/// How the configuration fares.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    /// Whether the last reload was good.
    pub good: bool,
    /// When a configuration was last taken over, seconds since the Unix epoch.
    pub at: u64,
}

/// The whole page.
///
/// # Errors
/// If the encoder refuses a family, which is a defect of ours.
pub fn encode(
    apps: &[AppView<'_>],
    other: &AppFigures,
    server: &ServerFigures,
    reloads: Reloads,
) -> Result<Vec<u8>, prometheus::Error> {
    let mut page = Page::default();
    for app in apps {
        page.app(app);
    }
    page.requests(OTHER_APP, other);
    page.server(server, reloads);
    let families: Vec<_> = page.families.into_values().collect();
    let mut text = Vec::with_capacity(64 * 1024);
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

#[derive(Default)]
struct Page {
    families: BTreeMap<&'static str, MetricFamily>,
}

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn put(
        &mut self,
        kind: MetricType,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        fill: impl FnOnce(&mut Metric),
    ) {
        let family = self.families.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        let pairs = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        fill(&mut metric);
        family.mut_metric().push(metric);
    }

    fn counter(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: f64) {
        self.put(MetricType::COUNTER, name, help, labels, |metric| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        });
    }

    fn gauge(&mut self, name: &'static str, help: &str, labels: Labels<'_>, value: f64) {
        self.put(MetricType::GAUGE, name, help, labels, |metric| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }

    fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        labels: Labels<'_>,
        bounds: &[f64],
        histogram: &HistogramFigures,
    ) {
        self.put(MetricType::HISTOGRAM, name, help, labels, |metric| {
            metric.set_histogram(histogram_proto(bounds, histogram));
        });
    }

    fn app(&mut self, app: &AppView<'_>) {
        let labels = app.labels();
        let labels = labels.as_slice();
        if let Some(figures) = app.figures {
            self.requests(app.id, figures);
            self.starts(app.id, &figures.starts);
            self.calls(app.id, figures);
            self.gauge(
                "doorbell_app_held_requests",
                "Requests or connections waiting for the app to be ready.",
                labels,
                count(figures.held),
            );
        }
        if let Some(usage) = app.usage {
            self.gauge(
                "doorbell_app_memory_bytes",
                "Memory of the app's process tree.",
                labels,
                count(usage.memory_bytes),
            );
            self.counter(
                "doorbell_app_cpu_seconds_total",
                "CPU time of the app's process tree since its instance started.",
                labels,
                usage.cpu_seconds,
            );
            self.gauge(
                "doorbell_app_processes",
                "Processes in the app's tree.",
                labels,
                f64::from(usage.processes),
            );
        }
        if let Some(snapshot) = app.snapshot {
            self.state(labels, snapshot);
        }
    }

    fn state(&mut self, app: Labels<'_>, snapshot: &Snapshot) {
        let and = |name, value| [app, &[(name, value)]].concat();
        let counts = snapshot.starts;
        if counts.cold_ready + counts.cold_failed > 0 {
            for (result, value) in [("ready", counts.cold_ready), ("failed", counts.cold_failed)] {
                self.counter(
                    "doorbell_app_cold_starts_total",
                    "Starts of the app that a request waited for, by their result.",
                    &and("result", result),
                    count(value),
                );
            }
        }
        if snapshot.yields > 0 {
            self.counter(
                "doorbell_app_yields_total",
                "Times that the app was put to sleep before its time because memory was short.",
                app,
                count(snapshot.yields),
            );
        }
        // A sleeping app nobody disabled is the normal case, and there may be thousands: one series
        // each, the others only where they say something.
        for (state, name) in STATES {
            let is = snapshot.state == state;
            if is || counts.ready + counts.failed > 0 {
                self.gauge(
                    "doorbell_app_state",
                    "1 for the state the app is in.",
                    &and("state", name),
                    f64::from(u8::from(is)),
                );
            }
        }
        if snapshot.goal == GoalName::Disabled {
            self.gauge("doorbell_app_disabled", "1 if the app is disabled.", app, 1.0);
        }
    }

    fn requests(&mut self, app: &str, figures: &AppFigures) {
        let Some(traffic) = &figures.traffic else { return };
        self.request_counts(app, traffic);
        let labels = [("app", app)];
        self.histogram(
            "doorbell_http_request_duration_seconds",
            "From the end of a request's head to the end of its answer, waiting included.",
            &labels,
            &REQUEST_BUCKETS,
            &traffic.duration,
        );
        self.gauge(
            "doorbell_http_requests_in_flight",
            "Requests running now.",
            &labels,
            traffic.in_flight as f64,
        );
        self.counter(
            "doorbell_http_request_bytes_total",
            "Bytes of request bodies.",
            &labels,
            count(traffic.received_bytes),
        );
        self.counter(
            "doorbell_http_response_bytes_total",
            "Bytes of response bodies.",
            &labels,
            count(traffic.sent_bytes),
        );
    }

    fn request_counts(&mut self, app: &str, traffic: &TrafficFigures) {
        for one in &traffic.counts {
            let Some(method) = METHODS.get(one.method) else { continue };
            let code = one.status.to_string();
            self.counter(
                "doorbell_http_requests_total",
                "Requests answered; 499 for clients that left.",
                &[("app", app), ("method", method), ("code", &code)],
                count(one.count),
            );
        }
    }

    fn calls(&mut self, app: &str, figures: &AppFigures) {
        let Some(calls) = &figures.calls else { return };
        let results = [("joined", calls.joined), ("refused", calls.refused), ("left", calls.left)];
        for (result, value) in results {
            self.counter(
                "doorbell_tcp_connections_total",
                "Connections to TCP apps, by what became of them: joined to the app, refused, or left \
                 by the client before.",
                &[("app", app), ("result", result)],
                count(value),
            );
        }
        let labels = [("app", app)];
        self.gauge(
            "doorbell_tcp_connections",
            "Connections to TCP apps in use now.",
            &labels,
            calls.in_use(figures.held) as f64,
        );
        self.counter(
            "doorbell_tcp_received_bytes_total",
            "Bytes from clients of TCP apps.",
            &labels,
            count(calls.received_bytes),
        );
        self.counter(
            "doorbell_tcp_sent_bytes_total",
            "Bytes to clients of TCP apps.",
            &labels,
            count(calls.sent_bytes),
        );
    }

    fn starts(&mut self, app: &str, starts: &[HistogramFigures]) {
        for (phase, histogram) in PHASES.iter().zip(starts) {
            self.histogram(
                "doorbell_app_cold_start_duration_seconds",
                "How long each phase of a start took.",
                &[("app", app), ("phase", phase)],
                &START_BUCKETS,
                histogram,
            );
        }
    }

    fn server(&mut self, server: &ServerFigures, reloads: Reloads) {
        self.gauge(
            "doorbell_build_info",
            "1; the version is a label.",
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        );
        self.connections(server);
        self.counter(
            "doorbell_access_log_lines_dropped_total",
            "Access log lines lost because the disk did not keep up.",
            &[],
            count(server.log_lines_dropped),
        );
        self.reloads(reloads);
    }

    fn connections(&mut self, server: &ServerFigures) {
        self.gauge(
            "doorbell_connections",
            "Client connections open now.",
            &[],
            server.connections as f64,
        );
        self.counter(
            "doorbell_connections_accepted_total",
            "Client connections accepted.",
            &[],
            count(server.accepted),
        );
        self.counter(
            "doorbell_connections_refused_total",
            "Client connections turned away because too many were open.",
            &[],
            count(server.crowded),
        );
    }

    fn reloads(&mut self, reloads: Reloads) {
        self.gauge(
            "doorbell_config_last_reload_successful",
            "Whether the last attempt to load the configuration was good.",
            &[],
            f64::from(u8::from(reloads.good)),
        );
        self.gauge(
            "doorbell_config_last_reload_success_timestamp_seconds",
            "When a configuration was last taken over.",
            &[],
            count(reloads.at),
        );
    }
}

fn histogram_proto(bounds: &[f64], histogram: &HistogramFigures) -> HistogramProto {
    let mut cumulative = 0_u64;
    let buckets = bounds.iter().zip(&histogram.buckets).map(|(bound, bucket)| {
        // A proxy that is not ours any more may count anything.
        cumulative = cumulative.saturating_add(*bucket);
        let mut proto = Bucket::default();
        proto.set_upper_bound(*bound);
        proto.set_cumulative_count(cumulative);
        proto
    });
    let mut proto = HistogramProto::default();
    proto.set_bucket(buckets.collect());
    proto.set_sample_count(histogram.count);
    proto.set_sample_sum(count(histogram.sum_nanos) / 1e9);
    proto
}

/// Exact up to 2^53, as every value in Prometheus.
fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_can_be_made_of_whatever_a_proxy_counts() {
        let buckets = vec![u64::MAX; REQUEST_BUCKETS.len()];
        let histogram = HistogramFigures { buckets, count: u64::MAX, sum_nanos: u64::MAX };
        let proto = histogram_proto(&REQUEST_BUCKETS, &histogram);
        let counts = proto.get_bucket().iter().map(Bucket::cumulative_count);
        assert!(counts.eq([u64::MAX; REQUEST_BUCKETS.len()]));
    }
}
