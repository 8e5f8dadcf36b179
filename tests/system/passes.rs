//! Why an app cannot be started: for operators with a pass, and nobody else.

use doorbell_tests::{Doorbell, Response, Setup};

use crate::{node, pages::fails};

/// Opens the link that operators get; gives the answer.
fn open(d: &Doorbell, app: &str, link: &str, more: &str) -> Response {
    let path = link.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    let path = path.expect("a URL");
    let mut connection = d.connect();
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {app}.test\r\n{more}\r\n"));
    connection.read()
}

fn browse(d: &Doorbell, app: &str, cookie: &str) -> Response {
    let mut connection = d.connect();
    connection.send(format!(
        "GET / HTTP/1.1\r\nHost: {app}.test\r\nAccept: text/html\r\nCookie: a=b; {cookie}\r\n\r\n"
    ));
    connection.read()
}

/// The cookie that an answer sets.
#[track_caller]
fn cookie(answer: &Response) -> &str {
    let set = answer.field("set-cookie").unwrap_or_else(|| panic!("no cookie: {answer:?}"));
    set.split(';').next().unwrap_or_default()
}

const BACK_OFF: &str = "back_off = { initial = \"60s\" }";

fn broken(id: &str) -> String {
    let script = "printf '\\\\033]0;x\\\\007<b>hunter2</b>\\\\n'; exit 3";
    fails(id, BACK_OFF).replace(
        "until [ -e {dir}/go ]; do sleep .02; done; echo hunter2 in /etc/secret; exit 3",
        script,
    )
}

#[test]
fn who_holds_a_pass_sees_why_and_nobody_else() {
    let apps = broken("shop") + &broken("other") + &node("well", "");
    let d = Doorbell::with(&apps);
    for app in ["shop", "other"] {
        assert_eq!(d.get(&format!("{app}.test"), "/").status, 503);
        d.wait_for_state(app, "backing_off");
    }
    let link = d.ok(&["pass", "shop"]);
    let link = link.trim();
    assert!(link.starts_with(&format!("http://shop.test:{}/", d.port)), "{link}");
    let entered = open(&d, "shop", link, "");
    assert_eq!((entered.status, entered.field("location")), (303, Some("/")));
    let set = entered.field("set-cookie").expect("a cookie");
    assert!(set.ends_with("; Path=/; Max-Age=28800; HttpOnly; SameSite=Lax"), "{set}");
    let pass = cookie(&entered).to_owned();

    let page = browse(&d, "shop", &pass);
    let text = page.text();
    assert_eq!((page.status, page.field("cache-control")), (503, Some("no-store")));
    for wanted in [
        "Broken shop could not be started",
        "listen: it did not listen yet",
        "exited with status 3",
        "\u{fffd}]0;x\u{fffd}&lt;b&gt;hunter2&lt;/b&gt;",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }

    // Others, forgers, and who holds a pass for another app, see what the public sees.
    let (start, end) = pass.split_at(pass.len() - 1);
    let forged = format!("{start}{}", if end == "0" { "1" } else { "0" });
    let stranger = pass.replace(".shop.", ".other.");
    for (app, cookie) in
        [("shop", ""), ("shop", &*forged), ("other", &*pass), ("other", &*stranger)]
    {
        let page = browse(&d, app, cookie);
        assert_eq!(page.status, 503);
        assert!(!page.text().contains("hunter2"), "{app}: {}", page.text());
    }
    assert!(!d.get("shop.test", "/").text().contains("hunter2"));
    // A link is good once, and is none for an app.
    assert_eq!(open(&d, "shop", link, "").status, 404);
    let odd = open(&d, "well", "http://h/.well-known/doorbell/pass/link.well.1.x.00", "");
    assert_eq!(odd.text(), "node GET /.well-known/doorbell/pass/link.well.1.x.00\n");
    let seed = std::fs::metadata(d.dir.path().join("state/operator.seed")).expect("the seed");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&seed.permissions()) & 0o777, 0o600);
}

#[test]
fn a_pass_is_good_after_a_restart_and_secure_behind_tls() {
    let state = tempfile::tempdir().expect("a folder");
    let server = "trusted_proxies = [\"127.0.0.1\"]";
    let start = || Setup::new(&broken("shop")).server(server).state_dir(state.path()).start();
    let d = start();
    let link = d.ok(&["pass", "shop", "--origin", "https://shop.example.com/"]);
    assert!(link.starts_with("https://shop.example.com/.well-known/"), "{link}");
    let entered = open(&d, "shop", link.trim(), "X-Forwarded-Proto: https\r\n");
    assert!(
        entered.field("set-cookie").is_some_and(|set| set.ends_with("; Secure")),
        "{entered:?}"
    );
    let pass = cookie(&entered).to_owned();
    d.stop();
    let d = start();
    assert_eq!(d.get("shop.test", "/").status, 503);
    d.wait_for_state("shop", "backing_off");
    assert!(browse(&d, "shop", &pass).text().contains("hunter2"));
}
