//! Reloads that make another thing of an app: requests that come or wait meanwhile go where it is now.

use doorbell_tests::{Doorbell, eventually};

use crate::{
    node,
    reloading::Load,
    sharing::{asked, host, pid, sharer},
};

#[test]
fn a_reload_moves_an_app_between_all_kinds_without_a_failed_request() {
    let main = || host("main", "");
    let own = node("shop", "env = { VERSION = \"own\" }");
    let other = Doorbell::with(&host("main", "").replace("main.test", "shop.test"));
    let up = format!(
        "[app.shop]\nhosts = [\"shop.test\"]\nupstream = \"http://127.0.0.1:{}\"\n",
        other.port
    );
    let d = Doorbell::with(&(main() + &sharer("shop", "main", "")));
    let load = Load::on(d.port, "shop.test", 6);
    load.wait_for(50);
    let kinds = [
        (own.clone() + &main(), "own"),
        (main() + &sharer("shop", "main", ""), "shop"),
        (main() + &up, "none"),
        (main() + &sharer("shop", "main", &asked("60s")), "shop"),
        (host("second", "") + &sharer("shop", "second", ""), "shop"),
        (up.clone(), "none"),
        (own, "own"),
        (main() + &sharer("shop", "main", ""), "shop"),
    ];
    for (config, answer) in kinds {
        d.rewrite(&config);
        d.ok(&["reload"]);
        eventually("the new definition holds", || d.get("shop.test", "/version").text() == answer);
        load.wait_for(50);
    }
    load.end_without_failure();
}

#[test]
fn requests_that_wait_follow_their_app_to_another_host() {
    let slow = "env = { START_DELAY = \"60000\" }\nready = { deadline = \"90s\" }\n\
                timeouts = { hold = \"90s\" }";
    let d = Doorbell::with(&(host("main", slow) + &sharer("shop", "main", "")));
    let mut client = d.connect();
    client.send_get("shop.test", "/");
    let mut old = d.connect();
    old.send("GET / HTTP/1.0\r\nHost: shop.test\r\nX-App: main\r\n\r\n");
    eventually("they wait", || d.status("shop")["held"] == 2);
    d.rewrite(&(host("second", "") + &sharer("shop", "second", "")));
    d.ok(&["reload"]);
    assert_eq!((client.read().text(), old.read().text()), ("shop".into(), "shop".into()));
    // From a program of its own, which was just starting, to a share.
    d.rewrite(&(host("second", "") + &host("shop", slow)));
    d.ok(&["reload"]);
    let mut client = d.connect();
    client.send_get("shop.test", "/");
    let mut old = d.connect();
    old.send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n");
    eventually("they wait", || d.status("shop")["held"] == 2);
    d.rewrite(&(host("second", "") + &sharer("shop", "second", "")));
    d.ok(&["reload"]);
    assert_eq!((client.read().text(), old.read().text()), ("shop".into(), "shop".into()));
}

#[test]
fn requests_that_wait_follow_their_app_though_its_old_host_stays() {
    let slow = "env = { START_DELAY = \"60000\" }\nready = { deadline = \"90s\" }\n\
                timeouts = { hold = \"90s\" }";
    let hosts = || host("main", slow) + &host("second", "env = { READY_DIR = \"{dir}\" }");
    let d = Doorbell::with(&(hosts() + &sharer("shop", "main", "")));
    let ask = || {
        let mut client = d.connect();
        client.send_get("shop.test", "/pid");
        eventually("it waits", || d.status("shop")["held"] == 1);
        client
    };
    // From a host that starts, to one whose run has yet to answer for it, and on to a third.
    let mut client = ask();
    d.rewrite(&(hosts() + &sharer("shop", "second", &asked("60s"))));
    d.ok(&["reload"]);
    eventually("the other host is asked", || {
        d.get("second.test", "/asked").json()["shop"]["count"].as_u64() > Some(0)
    });
    d.rewrite(&(hosts() + &host("third", "") + &sharer("shop", "third", "")));
    d.ok(&["reload"]);
    assert_eq!(client.read().text(), pid(&d, "third"));
    // To a program of its own, and to one that is spoken to in another way.
    d.rewrite(&(hosts() + &sharer("shop", "main", "")));
    d.ok(&["reload"]);
    let mut client = ask();
    d.rewrite(&(hosts() + &host("shop", "")));
    d.ok(&["reload"]);
    assert_eq!(client.read().text(), pid(&d, "shop"));
    d.rewrite(&(hosts() + &sharer("shop", "main", "")));
    d.ok(&["reload"]);
    let mut client = ask();
    d.rewrite(&(hosts() + &host("shop", "http2 = true\nenv = { HTTP2 = \"1\" }")));
    d.ok(&["reload"]);
    let told = client.read();
    assert_eq!((told.status, told.field("retry-after")), (503, Some("1")));
    assert!(told.text().contains("changed"), "{}", told.text());
}

#[test]
fn requests_that_wait_follow_their_app_as_its_host_becomes_another_thing() {
    let slow = "env = { START_DELAY = \"60000\" }\nready = { deadline = \"90s\" }";
    let d = Doorbell::with(&(host("main", slow) + &sharer("shop", "main", "")));
    let mut client = d.connect();
    client.send_get("shop.test", "/");
    eventually("it waits", || d.status("shop")["held"] == 1);
    let upstream = format!(
        "[app.main]\nhosts = [\"main.test\"]\nupstream = \"http://127.0.0.1:{}\"\n",
        doorbell_tests::free_port()
    );
    d.rewrite(&(upstream + &host("second", "") + &sharer("shop", "second", "")));
    d.ok(&["reload"]);
    assert_eq!(client.read().text(), "shop");
}
