use bytes::Bytes;

use super::*;

struct Scene {
    fields: String,
    peer: &'static str,
    trusted: bool,
    prefix: &'static str,
    client_app_headers: bool,
    app: Option<&'static str>,
}

fn from(peer: &'static str, fields: &str) -> Scene {
    let fields = fields.to_owned();
    Scene { fields, peer, trusted: false, prefix: "", client_app_headers: false, app: None }
}

impl Scene {
    fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }

    fn passage(&self) -> Passage {
        let text = format!("GET / HTTP/1.1\r\nHost: blog.example\r\n{}\r\n", self.fields);
        let head = RequestHead::parse(Bytes::from(text), 8192).unwrap();
        let peer = format!("{}:5000", self.peer).parse().unwrap();
        let facts = ConnFacts::new(Some(peer), Some(80), self.trusted);
        let nets = ["10.0.0.0/8".parse().unwrap()];
        let rules = Rules {
            trusted_proxies: &nets,
            stripped_prefix: self.prefix,
            client_app_headers: self.client_app_headers,
            app: self.app,
        };
        Passage::of(&head, &facts, rules)
    }

    fn set(&self, name: &str) -> Option<String> {
        let passage = self.passage();
        let found = passage.set().find(|(have, _)| *have == name);
        found.map(|(_, value)| value.to_owned())
    }

    fn removed(&self) -> Vec<String> {
        let passage = self.passage();
        let names = self.fields.lines().filter_map(|line| line.split_once(':'));
        let gone = names.filter(|(name, _)| passage.takes_out(name.as_bytes()));
        gone.map(|(name, _)| name.to_ascii_lowercase()).collect()
    }
}

#[test]
fn a_strangers_forwarding_headers_are_replaced() {
    let s = from(
        "192.0.2.1",
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
         X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Request-ID: mine\r\n",
    );
    assert_eq!(s.set("x-forwarded-for").unwrap(), "192.0.2.1");
    assert_eq!(s.set("x-forwarded-proto").unwrap(), "http");
    assert_eq!(s.set("x-forwarded-host").unwrap(), "blog.example");
    assert_eq!(s.set("x-forwarded-port").unwrap(), "80");
    assert_eq!(s.set("x-real-ip").unwrap(), "192.0.2.1");
    assert_eq!(s.set("forwarded").unwrap(), "for=192.0.2.1;host=\"blog.example\";proto=http");
    assert_ne!(s.set("x-request-id").unwrap(), "mine");
    assert_eq!(s.passage().client, Some([192, 0, 2, 1].into()));
}

#[test]
fn a_trusted_proxys_headers_are_kept_and_continued() {
    let s = from(
        "10.0.0.1",
        "X-Forwarded-For: 6.6.6.6, 198.51.100.9, 10.0.0.7\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: shop.example\r\nX-Request-ID: theirs\r\nForwarded: for=198.51.100.9\r\n",
    )
    .trusted();
    assert_eq!(s.set("x-forwarded-for").unwrap(), "6.6.6.6, 198.51.100.9, 10.0.0.7, 10.0.0.1");
    assert_eq!(s.set("x-forwarded-proto").unwrap(), "https");
    assert_eq!(s.set("x-forwarded-host").unwrap(), "shop.example");
    assert_eq!(s.set("x-request-id").unwrap(), "theirs");
    assert_eq!(s.set("x-real-ip").unwrap(), "198.51.100.9");
    assert!(s.set("forwarded").unwrap().starts_with("for=198.51.100.9, for=10.0.0.1;"));
}

#[test]
fn nonsense_from_a_trusted_proxy_names_no_client() {
    let s = from("10.0.0.1", "X-Forwarded-For: 198.51.100.9, nonsense\r\n").trusted();
    assert_eq!(s.passage().client, Some([10, 0, 0, 1].into()));
    let long = format!("X-Request-ID: {}\r\n", "a".repeat(200));
    assert_eq!(from("10.0.0.1", &long).trusted().set("x-request-id").unwrap().len(), 36);
}

#[test]
fn addresses_are_read_in_every_spelling() {
    for text in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:443"] {
        assert_eq!(address(text.as_bytes()), Some("2001:db8::1".parse().unwrap()), "{text}");
    }
    assert_eq!(address(b"::ffff:192.0.2.1"), Some([192, 0, 2, 1].into()));
    assert_eq!(address(b"192.0.2.1:80"), Some([192, 0, 2, 1].into()));
    assert_eq!(address(b"unknown"), None);
}

#[test]
fn fields_that_choose_an_app_or_pass_for_ours_are_taken_out() {
    let s = from(
        "192.0.2.1",
        "X-App: main\r\nx-hostname: h\r\nX_Forwarded_For: 6.6.6.6\r\nX_App: a\r\nProxy: evil\r\n\
         X-Custom: stays\r\n",
    );
    assert_eq!(s.removed(), ["x-app", "x-hostname", "x_forwarded_for", "x_app", "proxy"]);
    let mut allowed = from("192.0.2.1", "X-App: main\r\nX_App: a\r\n");
    allowed.client_app_headers = true;
    assert_eq!(allowed.removed(), ["x_app"]);
}

#[test]
fn an_app_of_several_is_named_whatever_a_client_says() {
    let mut s = from("192.0.2.1", "X-App: main\r\nX-Hostname: h\r\nX_App: a\r\n");
    s.app = Some("shop");
    for (allowed, removed) in
        [(false, &["x-app", "x-hostname", "x_app"][..]), (true, &["x-app", "x_app"])]
    {
        s.client_app_headers = allowed;
        assert_eq!(s.set("x-app").as_deref(), Some("shop"));
        assert_eq!(s.removed(), removed);
    }
    let mut passage = s.passage();
    let id = passage.request_id().to_owned();
    let mut rules =
        Rules { trusted_proxies: &[], stripped_prefix: "", client_app_headers: true, app: None };
    passage.is_for(rules);
    assert!(passage.set().all(|(name, _)| name != "x-app") && !passage.takes_out(b"x-app"));
    rules.app = s.app;
    passage.is_for(rules);
    assert_eq!(passage.set().filter(|(name, _)| *name == "x-app").count(), 1);
    assert_eq!(passage.request_id(), id);
}

#[test]
fn a_stripped_prefix_is_told_behind_the_outer_one() {
    let mut s = from("10.0.0.1", "X-Forwarded-Prefix: /outer/\r\n").trusted();
    s.prefix = "/blog";
    assert_eq!(s.set("x-forwarded-prefix").unwrap(), "/outer/blog");
    let mut s = from("192.0.2.1", "X-Forwarded-Prefix: /evil\r\n");
    assert_eq!(s.set("x-forwarded-prefix"), None);
    assert_eq!(s.removed(), ["x-forwarded-prefix"]);
    s.prefix = "/blog";
    assert_eq!(s.set("x-forwarded-prefix").unwrap(), "/blog");
}

#[test]
fn the_port_is_that_of_the_proxy_which_ends_tls() {
    let port = |fields: &str| from("10.0.0.1", fields).trusted().set("x-forwarded-port").unwrap();
    assert_eq!(port("X-Forwarded-Proto: https\r\n"), "443");
    assert_eq!(port("X-Forwarded-Proto: http\r\n"), "80");
    assert_eq!(port("X-Forwarded-Proto: https, http\r\n"), "443");
    let with_host = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example:8443\r\n";
    assert_eq!(port(with_host), "8443");
    assert_eq!(port("X-Forwarded-Proto: https\r\nX-Forwarded-Host: [2001:db8::1]\r\n"), "443");
    assert_eq!(port("X-Forwarded-Proto: https\r\nX-Forwarded-Port: 444\r\n"), "444");
    assert_eq!(port(""), "80", "our own");
    let stranger = from("192.0.2.1", "X-Forwarded-Proto: https\r\n");
    assert_eq!(stranger.set("x-forwarded-port").unwrap(), "80");
}

#[test]
fn a_trusted_proxy_may_tell_the_client_in_other_words() {
    let client = |fields: &str| {
        let s = from("10.0.0.1", fields).trusted();
        assert_eq!(s.set("x-real-ip"), s.passage().client.map(|ip| ip.to_string()));
        s.set("x-real-ip").unwrap()
    };
    assert_eq!(client("Forwarded: for=198.51.100.9;proto=https\r\n"), "198.51.100.9");
    let list = "Forwarded: for=6.6.6.6, for=\"[2001:db8::1]:47\";host=a, For=10.0.0.7\r\n";
    assert_eq!(client(list), "2001:db8::1");
    assert_eq!(client("Forwarded: for=6.6.6.6, for=unknown\r\n"), "10.0.0.1");
    assert_eq!(client("Forwarded: proto=https\r\n"), "10.0.0.1");
    assert_eq!(client("X-Real-IP: 198.51.100.9\r\n"), "198.51.100.9");
    assert_eq!(client("X-Real-IP: nonsense\r\n"), "10.0.0.1");
    let both = "X-Forwarded-For: 198.51.100.9\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 7.7.7.7\r\n";
    assert_eq!(client(both), "198.51.100.9");
    let s = from("10.0.0.1", "X-Real-IP: 198.51.100.9\r\n").trusted();
    assert_eq!(s.set("x-forwarded-for").unwrap(), "198.51.100.9, 10.0.0.1");
    let stranger = from("192.0.2.1", "X-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n");
    assert_eq!(stranger.set("x-real-ip").unwrap(), "192.0.2.1");
}
