//! Who selects the app of an instance: Doorbell, and nobody else.

use doorbell_tests::{Doorbell, Response, eventually, request};

use super::{curl, family, host, sharer};
use crate::node;

#[test]
fn what_a_client_says_of_the_app_never_arrives() {
    let lies = "client_app_headers = true";
    let d = Doorbell::with(&family("", lies));
    let fields = ["X-App: blog", "X-App: main", "x_app: blog", "X-Hostname: h"];
    let lines = fields.map(|field| format!("{field}\r\n")).concat();
    for version in ["1.1", "1.0"] {
        let ask = |host: &str, path: &str| -> Response {
            let head = format!("GET {path} HTTP/{version}\r\nHost: {host}.test\r\n{lines}\r\n");
            request(d.port, head).expect("an answer")
        };
        assert_eq!(ask("shop", "/").text(), "shop");
        assert_eq!(ask("shop", "/names").text(), "x-app x-hostname");
        assert_eq!(
            (ask("main", "/").text(), ask("main", "/names").text()),
            ("none".into(), "".into())
        );
    }
    let lies: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
    assert_eq!(curl(&d, "--http2-prior-knowledge", &lies, "shop", "/"), "shop");
    assert_eq!(curl(&d, "--http2-prior-knowledge", &lies, "shop", "/names"), "x-app x-hostname");
    assert_eq!(curl(&d, "--http2-prior-knowledge", &lies, "main", "/"), "none");
}

#[test]
fn nobody_gets_from_one_app_to_another_by_its_query_or_path() {
    let d = Doorbell::with(&(family("", "") + &node("alone", "")));
    let query = "/url?a=1&__appName=blog&%5f_appName%5B%5D=blog&%5b__appName%5d=blog&b";
    for app in ["main", "shop"] {
        let host = format!("{app}.test");
        assert_eq!(d.get(&host, query).text(), "/url?a=1&b");
        assert_eq!(curl(&d, "--http2-prior-knowledge", &[], app, query), "/url?a=1&b");
        assert_eq!(d.get(&host, "/api/__app/blog/users").status, 404);
        assert_eq!(d.get(&host, &format!("/api/__app/{app}/users")).status, 200);
    }
    let path = "GET /apps/shop/api/__app/blog/ HTTP/1.1\r\nHost: nobody.test\r\n\r\n";
    assert_eq!(request(d.port, path).expect("an answer").status, 404);
    assert!(d.get("alone.test", "/?__appName=blog").text().contains("/?__appName=blog"));
}

#[test]
fn the_apps_of_a_nocobase_keep_to_their_files_and_names() {
    let asked = |id: &str| format!("ready = {{ http = \"/api/__app/{id}/__health_check\" }}");
    let apps = ["shop", "blog"].map(|id| sharer(id, "nb", &asked(id)));
    let d = Doorbell::with(&(host("nb", "") + &apps.concat()));
    assert_eq!(d.get("shop.test", "/api/files/1").text(), "shop", "no app has this name");
    for path in ["/a/b/files/blog/a", "//x@y/files/blog/a", "//files/shop/a", "/a/b/files/main/a"] {
        assert_eq!(d.get("shop.test", path).status, 404, "{path}");
    }
    // It would choose by the domain else.
    assert_eq!(d.get("nb.test", "/").text(), "main");
    assert_eq!(curl(&d, "--http2-prior-knowledge", &["-H", "X-App: blog"], "nb", "/"), "main");
    for (app, name) in [("nb", "main"), ("shop", "shop")] {
        let status = |path: &str| d.get(&format!("{app}.test"), path).status;
        for folder in ["/files", "/public/files", "/api/__app"] {
            assert_eq!(status(&format!("{folder}/{name}/a")), 200, "{folder} of {app}");
            for other in ["blog", "%62log"] {
                assert_eq!(status(&format!("{folder}/{other}/a")), 404, "{folder} of {app}");
            }
        }
        assert_eq!(status("/files/left-out/a"), 404, "of {app}");
    }
}

#[test]
fn files_choose_their_app_where_clients_may() {
    let asked = "ready = { http = \"/api/__app/shop/__health_check\" }";
    let d =
        Doorbell::with(&(host("nb", "client_app_headers = true") + &sharer("shop", "nb", asked)));
    for (path, app) in
        [("/files/shop/a", "shop"), ("/files/main/a", "main"), ("/x/files/shop/a", "shop")]
    {
        assert_eq!(d.get("nb.test", path).text(), app, "{path}");
    }
    assert_eq!(d.get("nb.test", "/files/nobody/a").status, 404);
    assert_eq!(d.get("nb.test", "/api/files/1").text(), "main");
    // Alone it is like any other program.
    d.rewrite(&host("nb", "client_app_headers = true"));
    d.ok(&["reload"]);
    let shop = "GET /files/x HTTP/1.1\r\nHost: nb.test\r\nX-App: shop\r\n\r\n";
    eventually("it is told what clients say", || {
        request(d.port, shop).is_some_and(|answer| answer.text() == "shop")
    });
    assert_eq!(d.get("nb.test", "/files/x").text(), "none");
}

/// A request that was made for a program of one app does not select another where it waits.
#[test]
fn who_follows_an_app_into_a_shared_program_selects_no_other() {
    let nb = host("nb", "") + &sharer("blog", "nb", "");
    let alone = host("shop", "env = { START_DELAY = \"60000\" }");
    let d = Doorbell::with(&(nb.clone() + &alone));
    let mut waiting = d.connect();
    waiting.send("GET /?__appName=blog HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    eventually("it waits", || d.status("shop")["state"] == "starting");
    d.rewrite(&(nb + &sharer("shop", "nb", "")));
    d.ok(&["reload"]);
    assert_eq!(waiting.read().status, 503);
    assert_eq!(d.get("shop.test", "/?__appName=blog").text(), "shop");
}

#[test]
fn a_folder_of_files_is_like_any_other_where_no_nocobase_is() {
    let d = Doorbell::with(&family("", ""));
    assert_eq!(d.get("shop.test", "/files/blog/a").text(), "shop");
    assert_eq!(d.get("main.test", "/files/blog/a").text(), "none");
}

#[test]
fn clients_choose_where_the_app_with_the_program_allows_it() {
    let d = Doorbell::with(&(family("client_app_headers = true", "") + &node("alone", "")));
    let ask = |version: &str, host: &str, path: &str, fields: &str| -> Response {
        let head = format!("GET {path} HTTP/{version}\r\nHost: {host}.test\r\n{fields}\r\n");
        request(d.port, head).expect("an answer")
    };
    for (path, fields, app) in [
        ("/", "", "none"),
        ("/", "X-App: main\r\n", "none"),
        ("/", "X-App: shop\r\n", "shop"),
        ("/apps/main/", "X-App: shop\r\n", "shop"),
        ("/?__appName=blog", "X-App: shop\r\n", "blog"),
        ("/api/__app/blog/x", "X-App: shop\r\n", "blog"),
    ] {
        for version in ["1.1", "1.0"] {
            assert_eq!(ask(version, "main", path, fields).text(), app, "{path} {fields}");
        }
        let field = ["-H", fields.trim_end()];
        let field = if fields.is_empty() { &[][..] } else { &field };
        assert_eq!(curl(&d, "--http2-prior-knowledge", field, "main", path), app, "{path}");
    }
    for name in ["alone", "nobody"] {
        let fields = format!("X-App: {name}\r\n");
        assert_eq!(ask("1.1", "main", "/", &fields).status, 404, "{name}");
    }
    // What was read is not read by anybody else, who may read it otherwise.
    let fields = "X-App: main\r\nX-App: shop\r\nx_app: shop\r\nX-Hostname: shop.test\r\n";
    assert_eq!(ask("1.1", "main", "/names", fields).text(), "");
    // The others allow nothing.
    assert_eq!(ask("1.1", "shop", "/", "X-App: blog\r\n").text(), "shop");
    // It is as if the request had come there.
    d.ok(&["disable", "shop"]);
    assert_eq!(ask("1.1", "main", "/", "X-App: shop\r\n").status, 503);
    assert_eq!(ask("1.1", "main", "/", "").status, 200);
}
