//! What 10,000 apps of the registry cost their operators: adding them, listing them, changing one until
//! that shows, and loading them at a start.
//!
//! Options: `--apps N` (10000), `--changes N` (50).
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::time::{Duration, Instant};

use anyhow::Context as _;
use doorbell_benches::{
    client::Connection,
    doorbell::{self, Doorbell},
    figures::{median, millis, short, table},
    machine::{self, Core},
    options::option,
    proxies, wait,
};
use serde_json::{Map, Value, json};

/// Apps of one request.
const PORTION: usize = 1000;
/// A change that does not show by then never does.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let apps = option("--apps", 10_000)?;
    let changes = option("--changes", 50)?;
    println!("{}", machine::describe());
    println!("{}\n", machine::version(&doorbell::binary()?.to_string_lossy(), "--version"));
    let (_folder, folder) = proxies::folder()?;
    let (_upstream, upstream) = proxies::start_upstream(&folder)?;
    let mut doorbell = Doorbell::start("", Core::Any)?;
    let keys = |number: usize, host: &str| json!({"hosts": [format!("{host}{number}.test")], "upstream": format!("http://{upstream}")});

    let since = Instant::now();
    let numbers: Vec<usize> = (0..apps).collect();
    for portion in numbers.chunks(PORTION) {
        let put: Map<_, _> =
            portion.iter().map(|number| (format!("app{number}"), keys(*number, "a"))).collect();
        change(&doorbell, "POST", "/v1/apply", &json!({"put": put}))?;
    }
    let adding = since.elapsed();

    let (mut listing, mut changing, mut showing) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..changes {
        let since = Instant::now();
        let listed = doorbell.ask("GET", "/v1/apps")?;
        listing.push(millis(since.elapsed()));
        let listed: Value = serde_json::from_slice(&listed.body)?;
        anyhow::ensure!(
            listed["apps"].as_array().map(Vec::len) == Some(apps),
            "not all are listed"
        );

        let host = format!("b{round}-");
        let path = format!("/v1/apps/app{round}/definition");
        let since = Instant::now();
        change(&doorbell, "PUT", &path, &keys(round, &host))?;
        changing.push(millis(since.elapsed()));
        let host = format!("{host}{round}.test");
        let shows = || {
            let answer =
                Connection::open(doorbell.address).ok()?.ask("GET", &host, "/small").ok()?;
            (answer.status == 200).then_some(())
        };
        wait::until(PATIENCE, shows).context("the change does not show")?;
        showing.push(millis(since.elapsed()));
    }
    let again = doorbell.kill_supervisor()?;
    let rows = [
        ("all added, a thousand at a time, s", short(adding.as_secs_f64())),
        ("all listed, ms", short(median(&listing))),
        ("one changed and durable, ms", short(median(&changing))),
        ("one changed and served, ms", short(median(&showing))),
        ("a new supervisor ready, ms", short(millis(again))),
    ];
    let rows: Vec<_> = rows.map(|(what, figure)| vec![what.to_owned(), figure]).into();
    println!("{}", table(&[&format!("{apps} apps"), "median"], &rows));
    Ok(())
}

/// Changes something, which must succeed.
fn change(doorbell: &Doorbell, method: &str, path: &str, body: &Value) -> anyhow::Result<()> {
    let answer = doorbell.ask_with(method, path, &body.to_string())?;
    anyhow::ensure!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.text());
    Ok(())
}
