//! What people see of Doorbell itself: a page while an app starts, for browsers only, and pages of the
//! operator's own.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use doorbell_tests::{Connection, Doorbell, Response, Setup, eventually, get, within};

use crate::{node, python};

const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";
const SLOW: &str = "env = { START_DELAY = \"3000\" }";

fn send(connection: &mut Connection, method: &str, host: &str, path: &str, fields: &str) {
    connection.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
}

/// Asks as a browser does that goes to a page.
pub(crate) fn browse(d: &Doorbell, host: &str, path: &str) -> Response {
    let mut connection = d.connect();
    send(&mut connection, "GET", host, path, BROWSER);
    connection.read()
}

/// Where a waiting page listens.
#[track_caller]
pub(crate) fn news(page: &Response) -> String {
    let text = page.text();
    let rest = text.split("data-news=\"").nth(1).unwrap_or_else(|| panic!("no news: {text}"));
    rest.split('"').next().unwrap_or_default().to_owned()
}

/// Begins to listen; what is told follows in pieces.
pub(crate) fn listen(d: &Doorbell, host: &str, news: &str) -> (Response, Connection) {
    let mut connection = d.connect();
    send(&mut connection, "GET", host, news, "Accept: text/event-stream\r\n");
    let head = connection.read_head().expect("a head");
    (head, connection)
}

/// An app that waits for the file `go`, cannot start, and says why.
pub(crate) fn fails(id: &str, more: &str) -> String {
    format!(
        "[app.{id}]\nname = \"Broken shop\"\nhosts = [\"{id}.test\"]\n\
         command = [\"sh\", \"-c\", \"until [ -e {{dir}}/go ]; do sleep .02; done; \
         echo hunter2 in /etc/secret; exit 3\"]\n\
         directory = \"{{apps}}\"\n{more}\n"
    )
}

#[test]
fn a_browser_sees_that_the_app_starts_and_then_the_app() {
    let d = Doorbell::with(&node("app", &format!("name = \"Company blog\"\n{SLOW}")));
    let since = Instant::now();
    let page = browse(&d, "app.test", "/a?b=c");
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(800), "{took:?}");
    assert_eq!((page.status, d.state("app").as_str()), (503, "starting"));
    let text = page.text();
    for wanted in [
        "<title>Company blog is waking up</title>",
        "<li aria-current=\"step\">Starting</li>",
        "How long that takes is not known yet.",
        "<noscript><meta http-equiv=\"refresh\" content=\"3\"></noscript>",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let field = |name| page.field(name).unwrap_or_else(|| panic!("no {name}: {:?}", page.fields));
    assert_eq!((field("cache-control"), field("retry-after")), ("no-store", "3"));
    assert_eq!((field("x-content-type-options"), field("x-robots-tag")), ("nosniff", "noindex"));
    assert!(field("content-security-policy").starts_with("default-src 'none'; style-src 'nonce-"));
    assert!(field("server-timing").contains("hold;dur=8"), "{}", field("server-timing"));
    // The start is not the visitor's, and goes on.
    let answer = d.get("app.test", "/waits");
    assert_eq!((answer.status, answer.text().as_str()), (200, "node GET /waits\n"));
    assert_eq!(browse(&d, "app.test", "/a?b=c").text(), "node GET /a?b=c\n");
    assert_eq!(d.starts("app"), 1);
}

#[test]
fn whoever_is_no_browser_waits() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"2000\" }"));
    let requests = [
        ("GET", "".to_owned()),
        ("GET", "Accept: */*\r\n".to_owned()),
        ("GET", "Accept: text/html;q=0, */*\r\n".to_owned()),
        ("GET", format!("{BROWSER}Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n")),
        ("GET", format!("{BROWSER}Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: image\r\n")),
        ("GET", format!("{BROWSER}X-Requested-With: XMLHttpRequest\r\n")),
        ("POST", format!("{BROWSER}Content-Length: 0\r\n")),
        ("GET", format!("{BROWSER}Sec-Purpose: prefetch\r\n")),
    ];
    let mut connections: Vec<_> = requests.iter().map(|_| d.connect()).collect();
    for (connection, (method, fields)) in connections.iter_mut().zip(&requests) {
        send(connection, method, "app.test", "/x", fields);
    }
    let mut head = d.connect();
    send(&mut head, "HEAD", "app.test", "/x", BROWSER);
    assert_eq!(head.read_head().map(|head| head.status), Some(200));
    for (connection, (method, fields)) in connections.iter_mut().zip(&requests) {
        let answer = connection.read();
        assert_eq!(
            (answer.status, answer.text()),
            (200, format!("node {method} /x\n")),
            "{fields}"
        );
    }
}

#[test]
fn a_quick_app_is_shown_at_once_and_the_page_can_be_put_off() {
    let apps = node("quick", "waiting_page = { after = \"20s\" }")
        + &node("never", "env = { START_DELAY = \"1500\" }\nwaiting_page = { after = \"never\" }")
        + &node("soon", "env = { START_DELAY = \"1500\" }\nwaiting_page = { after = \"50ms\" }");
    let d = Doorbell::with(&apps);
    assert_eq!(browse(&d, "quick.test", "/").text(), "node GET /\n");
    assert_eq!(browse(&d, "never.test", "/").text(), "node GET /\n");
    assert_eq!(browse(&d, "soon.test", "/").status, 503);
}

#[test]
fn a_page_hears_of_each_phase_until_the_app_is_ready() {
    let ready = "ready = { http = \"/healthz\" }\nenv = { WARM_AFTER = \"3\" }";
    let d = Doorbell::with(&python("app", "", ready));
    let page = browse(&d, "app.test", "/deep/page?q=1");
    let (head, mut stream) = listen(&d, "app.test", &news(&page));
    assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.field("cache-control"), Some("no-store"));
    let told = rest(&mut stream);
    let last = told.rfind("event: phase").expect("a phase");
    assert!(told[last..].contains("\"step\":2"), "{told}");
    assert!(told.ends_with("event: ready\ndata: {}\n\n"), "{told}");
    assert_eq!(browse(&d, "app.test", "/deep/page?q=1").text(), "python /deep/page?q=1\n");
    // Who comes late hears it at once.
    let (_, mut late) = listen(&d, "app.test", &news(&page));
    assert_eq!(rest(&mut late), "event: ready\ndata: {}\n\n");
}

/// What is told up to the end of the stream.
pub(crate) fn rest(stream: &mut Connection) -> String {
    let mut told = Vec::new();
    while let Some(byte) = stream.read_bytes(1) {
        told.extend(byte);
    }
    String::from_utf8(told).expect("UTF-8")
}

#[test]
fn to_listen_is_no_visit() {
    let idle = format!("{SLOW}\nidle = {{ stop_after = \"1s\" }}");
    let d = Doorbell::with(&node("app", &idle));
    let news = news(&browse(&d, "app.test", "/"));
    d.wait_for_state("app", "ready");
    // Listening all the time, it falls asleep all the same.
    eventually("it sleeps", || {
        let (_, mut stream) = listen(&d, "app.test", &news);
        rest(&mut stream);
        d.state("app") == "stopped"
    });
    let starts = d.starts("app");
    within(Duration::from_millis(500), "it sleeps on", || {
        let (head, mut stream) = listen(&d, "app.test", &news);
        assert_eq!(
            (head.status, rest(&mut stream).as_str()),
            (200, "event: changed\ndata: {}\n\n")
        );
        d.state("app") == "stopped"
    });
    assert_eq!(d.starts("app"), starts);
}

#[test]
fn the_address_of_news_takes_none_from_an_app() {
    let d = Doorbell::with(&node("app", ""));
    for path in ["/.well-known/doorbell/", "/.well-known/doorbell/0123456789abcdef/x"] {
        assert_eq!(d.get("app.test", path).text(), format!("node GET {path}\n"));
    }
}

#[test]
fn a_start_that_fails_is_told_and_nothing_of_the_inside() {
    let d = Doorbell::with(&fails("shop", "back_off = { initial = \"20s\" }"));
    let page = browse(&d, "shop.test", "/");
    assert!(page.text().contains("Broken shop is waking up"), "{}", page.text());
    let (_, mut stream) = listen(&d, "shop.test", &news(&page));
    d.write_file("go", "");
    let told = rest(&mut stream);
    assert!(told.contains("event: failed") && told.contains("could not be started"), "{told}");
    let after = browse(&d, "shop.test", "/");
    assert_eq!(after.status, 503);
    assert!(after.text().contains("This application could not be started."), "{}", after.text());
    let retry: u64 = after.field("retry-after").and_then(|s| s.parse().ok()).expect("seconds");
    assert!((1..=60).contains(&retry), "{retry}");
    for text in [page.text(), told, after.text(), format!("{:?}", after.fields)] {
        for secret in ["hunter2", "secret", "sleep .02", "status 3", "exit", "/etc", "sh -c"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    // Operators see it.
    let status = d.status("shop");
    assert_eq!(status["failed_step"], "listen");
    let shown = d.ok(&["status", "shop"]);
    for wanted in ["listen", "exited with status 3", "hunter2 in /etc/secret"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}

#[test]
fn the_estimate_is_the_apps_own_and_outlives_a_restart() {
    let state = tempfile::tempdir().expect("a folder");
    let start = || Setup::new(&node("app", SLOW)).state_dir(state.path()).start();
    let d = start();
    assert!(browse(&d, "app.test", "/").text().contains("is not known yet"));
    d.wait_for_state("app", "ready");
    d.ok(&["stop", "app"]);
    let page = browse(&d, "app.test", "/").text();
    let usual = d.status("app")["usual_start"]["median"]["secs"].as_u64().expect("seconds");
    assert!((3..10).contains(&usual), "{usual}");
    assert!(page.contains("That usually takes about "), "{page}");
    d.stop();
    let page = browse(&start(), "app.test", "/").text();
    assert!(page.contains("That usually takes about "), "{page}");
}

#[test]
fn who_is_in_line_behind_others_is_told_so() {
    let apps = node("first", SLOW) + &node("second", SLOW);
    let d = Setup::new(&apps).server("limits = { parallel_starts = 1 }").start();
    let mut first = d.connect();
    first.send_get("first.test", "/");
    d.wait_for_state("first", "starting");
    let page = browse(&d, "second.test", "/");
    assert!(page.text().contains("<li aria-current=\"step\">In line</li>"), "{}", page.text());
    let (_, mut stream) = listen(&d, "second.test", &news(&page));
    let told = rest(&mut stream);
    let steps: Vec<_> =
        told.match_indices("\"step\":").map(|(at, _)| &told[at + 7..=at + 7]).collect();
    assert_eq!(steps.first().zip(steps.last()), Some((&"0", &"1")), "{told}");
    assert!(told.ends_with("event: ready\ndata: {}\n\n"), "{told}");
}

#[test]
fn operators_have_pages_of_their_own() {
    let hostile = "name = \"<script>alert(1)</script>\"\n";
    let apps = node("slow", &format!("{hostile}{SLOW}\npages = {{ waiting = \"wait.html\" }}"))
        + &node("off", &format!("{hostile}start = \"disabled\""))
        + &format!(
            "[app.dead]\nhosts = [\"dead.test\"]\nupstream = \"http://127.0.0.1:1\"\n{hostile}"
        )
        + &node("late", &format!("{SLOW}\ntimeouts = {{ hold = \"300ms\" }}\n"))
        + &node("own", "start = \"disabled\"\npages = { unavailable = \"own.html\" }");
    let server = "[server.pages]\nnot_found = \"404.html\"\nunavailable = \"503.html\"\n\
                  bad_gateway = \"502.html\"\ngateway_timeout = \"504.html\"";
    let page = "<h1>{app}</h1>{status} {retry_after} {request_id} {other}";
    let d = Setup::new(&apps)
        .server(server)
        .file("wait.html", "<h1>{app}</h1>{estimate}")
        .file("404.html", page)
        .file("502.html", page)
        .file("503.html", page)
        .file("504.html", page)
        .file("own.html", "<h1>of its own</h1>")
        .start();
    let name = "<h1>&lt;script&gt;alert(1)&lt;/script&gt;</h1>";
    let waiting = browse(&d, "slow.test", "/");
    assert_eq!(waiting.status, 503);
    assert_eq!(waiting.text(), format!("{name}How long that takes is not known yet."));
    assert_eq!(waiting.field("refresh"), waiting.field("retry-after"));
    let expect = |host: &str, status: u16, begins: &str| {
        let answer = browse(&d, host, "/");
        let text = answer.text();
        let id = answer.field("x-request-id").expect("an id");
        assert_eq!((answer.status, answer.field("refresh")), (status, None));
        assert!(text.starts_with(begins) && text.ends_with(&format!("{id} {{other}}")), "{text}");
    };
    expect("nobody.test", 404, "<h1></h1>404  ");
    expect("dead.test", 502, &format!("{name}502  "));
    expect("off.test", 503, &format!("{name}503 "));
    expect("late.test", 504, "<h1>late</h1>504 5 ");
    assert_eq!(browse(&d, "own.test", "/").text(), "<h1>of its own</h1>");
    // Programs get what they always got.
    assert_eq!(
        d.get("nobody.test", "/").text(),
        "404 Not Found\nThere is nothing at this address.\n"
    );
    d.write_file("own.html", "<h1>changed</h1>");
    eventually("the change is shown", || browse(&d, "own.test", "/").text() == "<h1>changed</h1>");
}

#[test]
fn an_apps_own_errors_are_left_alone() {
    let d = Setup::new(&python("app", "", "").replace("server.py", "errors.py"))
        .server("[server.pages]\nnot_found = \"page.html\"\nunavailable = \"page.html\"")
        .file("page.html", "not this")
        .start();
    // Awake, so that no page comes in its place.
    assert_eq!(d.get("app.test", "/").status, 200);
    for status in [404, 502, 503, 504] {
        let answer = browse(&d, "app.test", &format!("/{status}"));
        assert_eq!((answer.status, answer.text()), (status, format!("the app's own {status}\n")));
    }
}

#[test]
fn an_app_in_maintenance_is_not_woken_and_finishes_what_it_has() {
    let on = "maintenance = true\npages = { maintenance = \"back.html\" }";
    let d = Setup::new(&node("app", "")).file("back.html", "<h1>{app} is back soon</h1>").start();
    let mut stream = d.connect();
    stream.send_get("app.test", "/stream?ms=100&count=40");
    assert!(stream.read_head().is_some_and(|head| head.status == 200));
    let pid = d.app_pid("app");
    d.rewrite(&(node("app", on) + &node("other", "maintenance = true")));
    eventually("it is in maintenance", || d.get("app.test", "/").status == 503);
    let page = browse(&d, "app.test", "/");
    assert_eq!(page.text(), "<h1>app is back soon</h1>");
    assert_eq!(page.field("retry-after"), Some("300"));
    assert!(d.get("app.test", "/").text().contains("This application is being worked on."));
    let mut pieces = 0;
    while let Some(Some(_)) = stream.read_chunk() {
        pieces += 1;
    }
    assert_eq!((pieces, d.app_pid("app")), (40, pid));
    assert!(browse(&d, "other.test", "/").text().contains("being worked on"));
    assert_eq!(d.state("other"), "stopped");
    d.rewrite(&node("app", ""));
    eventually("it is back", || d.get("app.test", "/").text() == "node GET /\n");
}

#[test]
fn streams_of_news_are_bounded() {
    let d = Doorbell::with(&node("app", "env = { START_DELAY = \"8000\" }"));
    let news = news(&browse(&d, "app.test", "/"));
    let mut streams: Vec<_> = (0..200).map(|_| listen(&d, "app.test", &news)).collect();
    assert!(streams.iter().all(|(head, _)| head.status == 200));
    let (refused, _) = listen(&d, "app.test", &news);
    assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    streams.truncate(100);
    eventually("there is room again", || listen(&d, "app.test", &news).0.status == 200);
    assert_eq!(d.status("app")["held"], 0, "they hold no place in the line");
}

#[test]
fn http2_shows_the_same() {
    let d = Doorbell::with(&node("app", SLOW));
    let curl = |path: &str, accept: &str| {
        let url = format!("http://127.0.0.1:{}{path}", d.port);
        let output = Command::new("curl")
            .args(["-sSN", "--http2-prior-knowledge", "--max-time", "20", "-H", "Host: app.test"])
            .args(["-H", accept, "-w", "\n%{http_version} %{http_code}", &url])
            .output()
            .expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let page = curl("/x?y", "Accept: text/html");
    assert!(page.ends_with("2 503") && page.contains("is waking up"), "{page}");
    let address = page.split("data-news=\"").nth(1).and_then(|rest| rest.split('"').next());
    let told = curl(address.expect("its news"), "Accept: text/event-stream");
    assert!(told.contains("event: phase\n"), "{told}");
    assert!(told.ends_with("event: ready\ndata: {}\n\n\n2 200"), "{told}");
    assert_eq!(curl("/x?y", "Accept: text/html"), "node GET /x?y\n\n2 200");
    assert_eq!(get(d.port, "app.test", "/").status, 200);
}
