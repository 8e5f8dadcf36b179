//! What a config that is right means: every key arrives, and what is left out is as documented.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use doorbell_config::{
    file::{load, load_text, load_watched},
    name::ByteSize,
    spec::{
        AccessLogFormat, AppSpec, AppTimeouts, Backend, Config, EndpointSpec, KeepsAwake,
        ListenAddr, ListenNotice, LogFormat, LogOutput, MilliCores, PlaceholderValues, PrefixRule,
        Probe, ProcessSpec, ProxyProtocol, ResourceSpec, ServerSpec, StartMode, UpstreamServer,
        UserSpec, Visitor,
    },
};

fn environment(name: &str) -> Option<String> {
    let known = [("DOMAIN", "example.com"), ("TOKEN", "hunter2{port}"), ("EMPTY", "")];
    known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good").join(name)
}

fn full() -> Config {
    load(&fixture("full.toml"), &environment).unwrap_or_else(|problems| panic!("{problems}"))
}

fn text(text: &str) -> Config {
    load_text(Path::new("/etc/doorbell/doorbell.toml"), text.into(), &environment)
        .unwrap_or_else(|problems| panic!("{problems}"))
}

fn app<'c>(config: &'c Config, id: &str) -> &'c AppSpec {
    config.apps.iter().find(|app| app.id.as_str() == id).expect("the app is in the config")
}

fn process(app: &AppSpec) -> &ProcessSpec {
    match &app.backend {
        Backend::Process(process) => process,
        Backend::Upstream(_) | Backend::Shared(_) => panic!("no process: {app:?}"),
    }
}

fn rendered(process: &ProcessSpec, app: &AppSpec) -> (Vec<String>, BTreeMap<String, String>) {
    let base_path = app.base_path();
    let values = PlaceholderValues {
        port: Some(4000),
        socket: Some(Path::new("/run/a.sock")),
        id: &app.id,
        base_path: &base_path,
        version: None,
        secret: None,
        database: &[],
    };
    let command = process.command.iter().map(|part| part.render(&values)).collect();
    let env = process.env.iter().map(|(name, value)| (name.clone(), value.render(&values)));
    (command, env.collect())
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = text("");
    assert_eq!(config.server, ServerSpec::default());
    assert!(config.apps.is_empty());
}

#[test]
fn every_server_key_arrives() {
    let server = full().server;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good");
    assert_eq!(server.listen.len(), 4);
    assert_eq!(server.listen[0], ListenAddr::Tcp("[::]:8080".parse().unwrap()));
    assert_eq!(server.listen[3], ListenAddr::Unix(folder.join("http.sock")));
    assert_eq!(server.admin[0], ListenAddr::Unix(folder.join("admin.sock")));
    assert_eq!(server.state_dir, folder.join("state"));
    assert_eq!(server.log_dir, Path::new("/var/log/doorbell"));
    let proxies: Vec<_> = server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["10.0.0.1/32", "10.0.0.0/8"]);
    assert!(!server.path_access);
    assert_eq!(server.default_app.unwrap().as_str(), "blog");
    let limits = &server.limits;
    assert_eq!((limits.connections, limits.held_requests, limits.parallel_starts), (5, 6, 7));
    assert_eq!((limits.head, limits.uri), (ByteSize(16 << 10), ByteSize(4 << 10)));
    assert_eq!(limits.body_rate, ByteSize(0));
    let timeouts = &server.timeouts;
    let seconds = [timeouts.header, timeouts.keep_alive, timeouts.body_idle, timeouts.write_idle]
        .map(|timeout| timeout.as_secs());
    assert_eq!(seconds, [1, 2, 3, 4]);
    assert_eq!(timeouts.shutdown, Duration::ZERO);
    let access_log = server.access_log.unwrap();
    assert_eq!(access_log.output, LogOutput::Stdout);
    assert_eq!(access_log.format, AccessLogFormat::Json);
    assert_eq!(server.log.level, "info,doorbell_proxy=debug");
    assert_eq!(server.log.format, LogFormat::Json);
}

#[test]
fn every_key_of_a_process_arrives() {
    let config = full();
    let app = app(&config, "blog");
    assert_eq!(app.name, "Blog of ours");
    let claims: Vec<_> = app.routes.claims().map(|(host, path)| format!("{host} {path}")).collect();
    assert_eq!(claims, ["* /blog", "* /~blog"]);
    assert_eq!((app.routes.prefix, app.routes.path_access), (PrefixRule::Strip, PrefixRule::Keep));
    assert!(app.client_app_headers && app.routes.scope_cookies && !app.http2);
    assert_eq!((app.limits.held_requests, app.limits.body), (8, Some(ByteSize(5 << 20))));
    let expected = AppTimeouts {
        hold: Duration::from_secs(11),
        connect: Duration::from_secs(12),
        response_idle: None,
        upgraded_idle: Some(Duration::from_secs(13)),
        write_idle: Duration::from_secs(14),
        keep_alive: Duration::ZERO,
    };
    assert_eq!(*app.timeouts, expected);
    let process = process(app);
    assert_eq!(process.start, StartMode::WithServer);
    assert!(process.directory.ends_with("tests/good/blog"));
    assert_eq!(process.endpoint, EndpointSpec::FixedPort(3000));
    let Probe::Http(probe) = &process.ready.probe else { panic!("{:?}", process.ready) };
    assert_eq!((probe.path.as_str(), probe.status), ("/healthz?x=1", Some(200)));
    assert_eq!(probe.body.as_deref(), Some("ok"));
    assert_eq!(probe.host.as_deref(), Some("blog.example.com"));
    assert_eq!(process.ready.deadline, Duration::from_secs(10));
    assert_eq!((process.ready.listen, process.no_new_privs), (ListenNotice::Never, true));
    assert_eq!(process.idle_freeze_after, Some(Duration::from_secs(90)));
    assert_eq!(process.idle_stop_after, Some(Duration::from_secs(5400)));
    let wake = app.wake.as_deref().expect("rules");
    let visitor =
        |method, path, agent: &'static str| Visitor { method, path, user_agent: agent.as_bytes() };
    assert!(wake.lets_wake(&visitor("GET", "/x", "Firefox")));
    for (method, path, agent) in
        [("PUT", "/x", ""), ("GET", "/up/x", ""), ("GET", "/x", "Bot"), ("GET", "/x", "uptimes/2")]
    {
        assert!(!wake.lets_wake(&visitor(method, path, agent)), "{method} {path} {agent}");
    }
    assert_eq!(wake.keeps_awake, KeepsAwake::All);
    assert_eq!((wake.asleep.status, wake.asleep.body.as_deref()), (200, Some("asleep")));
    let awake = process.awake.as_ref().expect("hours");
    let windows: Vec<_> = awake.windows.iter().map(ToString::to_string).collect();
    let working = "Mon,Tue,Wed,Thu,Fri 08:00-18:00 Europe/Berlin";
    assert_eq!(
        (windows, awake.prewarm),
        (vec![working.to_owned(), "Sat 22:00-02:00".to_owned()], Some(Duration::from_secs(600)))
    );
    assert_eq!((process.stop.signal, process.stop.grace.as_secs()), (2, 1));
    assert_eq!(process.stop.drain, Duration::ZERO);
    let back_off = &process.back_off;
    let seconds = [back_off.initial, back_off.max, back_off.reset_after].map(|at| at.as_secs());
    assert_eq!(seconds, [1, 2, 3]);
    assert_eq!((process.logs.max_size, process.logs.keep), (ByteSize(4096), 0));
    let resources = ResourceSpec {
        memory: Some(ByteSize(512 << 20)),
        cpu: Some(MilliCores(1500)),
        processes: Some(200),
        files: Some(4096),
    };
    assert_eq!(*process.resources, resources);
    let user = UserSpec { name: "www-data".into(), group: Some("adm".into()) };
    assert_eq!(process.user.as_deref(), Some(&user));
}

#[test]
fn placeholders_are_filled_in_and_the_environment_brings_none() {
    let config = full();
    let app = app(&config, "blog");
    let (command, env) = rendered(process(app), app);
    assert_eq!(command, ["node", "--port=4000", "{}", "${HOME}"]);
    assert_eq!(env["TOKEN"], "hunter2{port}");
    assert_eq!((env["PORT"].as_str(), env["HOST"].as_str()), ("x4000", "127.0.0.1"));
    assert_eq!(env["BASE"], "/blog");
}

#[test]
fn every_key_of_an_upstream_arrives() {
    let config = full();
    let app = app(&config, "shop");
    let Backend::Upstream(upstream) = &app.backend else { panic!("{app:?}") };
    let server = |host: &str, port| UpstreamServer::Https { host: host.into(), port };
    assert_eq!(upstream.servers, [server("a.example.com", 443), server("b.example.com", 8443)]);
    assert_eq!((upstream.max_fails, upstream.fail_timeout.as_secs()), (9, 1));
    let health = upstream.health.as_ref().unwrap();
    assert_eq!((health.probe.path.as_str(), health.probe.status), ("/up", Some(204)));
    assert_eq!((health.interval.as_secs(), health.timeout.as_secs()), (5, 1));
    let hosts: Vec<_> = app.routes.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["*.example.com", "xn--bcher-kva.example"]);
    assert!(app.http2);
}

#[test]
fn every_key_of_a_tcp_app_arrives() {
    let config = full();
    let app = app(&config, "db");
    let tcp = app.tcp().expect("a TCP app");
    let listen =
        [ListenAddr::Tcp("[::]:5432".parse().unwrap()), ListenAddr::Unix(fixture("db.sock"))];
    assert_eq!((tcp.listen.as_slice(), tcp.proxy_protocol), (&listen[..], ProxyProtocol::Version1));
    assert_eq!((app.name.as_str(), app.limits.held_requests), ("Database", 9));
    assert!(app.routes.claims().next().is_none());
    let seconds = |duration: Duration| duration.as_secs();
    let timeouts = &app.timeouts;
    assert_eq!((seconds(timeouts.hold), seconds(timeouts.connect)), (21, 2));
    assert_eq!(timeouts.upgraded_idle.map(seconds), Some(3600));
    let process = process(app);
    assert_eq!(process.ready.probe, Probe::Notify);
    assert!(process.no_new_privs && process.directory.ends_with("tests/good/db"));
    assert_eq!(process.idle_stop_after.map(seconds), Some(3600));
    assert_eq!((process.stop.signal, seconds(process.stop.grace)), (2, 60));
    assert_eq!((process.logs.keep, process.resources.processes), (1, Some(100)));
    let enclosure = &process.enclosure;
    assert!(enclosure.private_tmp && enclosure.read_only == [PathBuf::from("/")]);
    assert_eq!(enclosure.read_write, [fixture("db")]);
    assert_eq!(process.needs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["always"]);
    let awake = process.awake.as_ref().expect("hours");
    assert_eq!((awake.windows.len(), awake.prewarm.map(seconds)), (1, Some(300)));
    assert!(app.wake.is_none() && process.user.is_some());
}

#[test]
fn apps_come_in_the_order_of_the_files_each_file_once() {
    let config = full();
    let ids: Vec<_> = config.apps.iter().map(|app| app.id.as_str()).collect();
    assert_eq!(ids, ["shop", "blog", "db", "always", "last"]);
    let sources = load_watched(&fixture("full.toml"), &environment).sources;
    let names = sources.iter().map(|seen| seen.path.file_name().unwrap().to_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["full.toml", "apps", "a.toml", "b.toml", "c.toml"]);
}

#[test]
fn what_was_looked_at_is_told_also_of_a_config_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(path("sites/empty")).unwrap();
    std::fs::create_dir_all(path("sites/blog")).unwrap();
    std::fs::write(path("sites/blog/app.toml"), "[app.blog]\nhots = [\"a\"]\n").unwrap();
    std::fs::write(path("main.toml"), "include = [\"sites/*/app.toml\"]\n").unwrap();
    let loaded = load_watched(&path("main.toml"), &environment);
    assert!(loaded.outcome.is_err());
    // A folder that holds no app yet is where one may appear.
    for name in ["main.toml", "sites", "sites/empty", "sites/blog", "sites/blog/app.toml"] {
        assert!(
            loaded.sources.iter().any(|seen| seen.path == path(name)),
            "{name}: {:?}",
            loaded.sources
        );
    }
    std::fs::remove_file(path("main.toml")).unwrap();
    let missing = load_watched(&path("main.toml"), &environment).sources;
    assert!(missing[0].path == path("main.toml") && missing[0].is_current());
    std::fs::write(path("main.toml"), "").unwrap();
    assert!(!missing[0].is_current());
}

#[test]
fn what_is_there_and_cannot_be_read_is_a_mistake_and_not_an_absence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("apps")).unwrap();
    std::fs::write(path("apps/one.toml"), "[app.one]\ncommand = [\"one\"]\n").unwrap();
    std::fs::write(path("main.toml"), "include = [\"apps/*.toml\"]\n").unwrap();
    assert!(load_watched(&path("main.toml"), &environment).outcome.is_ok());
    std::os::unix::fs::symlink("nowhere", path("apps/two.toml")).unwrap();
    assert!(load_watched(&path("main.toml"), &environment).outcome.is_err());
    // What is named and not there yet is waited for.
    std::fs::write(path("main.toml"), "include = [\"later.toml\"]\n").unwrap();
    let sources = load_watched(&path("main.toml"), &environment).sources;
    let later = sources.iter().find(|seen| seen.path == path("later.toml")).unwrap();
    assert!(later.is_current());
    std::fs::write(path("later.toml"), "").unwrap();
    assert!(!later.is_current());
}

#[test]
fn what_listens_where_follows_from_what_the_app_asks_for() {
    let config = full();
    let always = process(app(&config, "always"));
    assert_eq!(always.endpoint, EndpointSpec::Socket);
    assert!(always.env.is_empty(), "no PORT for an app on a socket");
    assert_eq!((always.start, always.idle_stop_after), (StartMode::Always, None));
    assert_eq!(always.ready.probe, Probe::Notify);
    let last = process(app(&config, "last"));
    assert_eq!((last.endpoint, last.idle_stop_after), (EndpointSpec::AnyPort, None));
    assert_eq!(last.ready.probe, Probe::SocketActivation);
    assert!(last.env.contains_key("PORT"));
}

#[test]
fn instances_are_replicas_of_one_app() {
    let config = text("[app.blog]\ncommand = [\"a\"]\ninstances = 3\n");
    let blog = app(&config, "blog");
    let further: Vec<_> = blog.further_replicas().map(|id| id.to_string()).collect();
    assert_eq!((blog.instances(), further), (3, vec!["blog:2".to_owned(), "blog:3".to_owned()]));
    let second = AppSpec { id: blog.id.replica(2), ..blog.clone() };
    assert_eq!(second.base_path(), "/apps/blog");
    let once = text("[app.blog]\ncommand = [\"a\"]\n");
    assert_eq!(app(&once, "blog").further_replicas().count(), 0);
}

#[test]
fn an_app_that_says_little_gets_the_defaults() {
    let config = text("[app.a]\ncommand = [\"a\"]\n[app.b]\nupstream = \"http://127.0.0.1:1\"");
    let a = app(&config, "a");
    assert_eq!(a.name, "a");
    assert_eq!(a.base_path(), "/apps/a");
    let command = process(a).command.clone();
    assert_eq!(*process(a), ProcessSpec::new(Vec::clone(&command), "/etc/doorbell".into()));
    assert_eq!(*a.timeouts, AppTimeouts::default());
    assert!(matches!(&app(&config, "b").backend, Backend::Upstream(up) if up.health.is_none()));
}

#[test]
fn oddities_are_warnings() {
    let config = text(
        "include = [\"nothing-here/*.toml\"]\n[server]\npath_access = false\n[app.a]\ncommand = \
         [\"a\"]\nready = { deadline = \"5m\" }\nwake = { keeps_awake = \"all\" }",
    );
    let messages: Vec<_> =
        config.warnings.iter().map(|warning| (warning.line, warning.message.as_str())).collect();
    let expected = [
        (1, "no file matches this pattern"),
        (4, "no request can reach app `a`"),
        (6, "a start may take longer than requests wait for it"),
        (7, "nobody is kept from waking the app"),
    ];
    assert_eq!(messages, expected);
}

#[test]
fn apps_that_store_in_one_place_are_warned_of() {
    let app = |id: &str, more: &str| {
        format!(
            "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"a\"]\ndirectory = \"/srv/{id}\"\n{more}\n"
        )
    };
    let told = |a: &str, b: &str| -> Vec<String> {
        let config = text(&(app("a", a) + &app("b", b)));
        config.warnings.iter().map(|warning| warning.message.clone()).collect()
    };
    let database = |url: &str| format!("database = {{ new_connection = \"postgres://{url}\" }}");
    let env = |variable: &str| format!("env = {{ {variable} }}");
    let one = database("a:secret@db.test/shop");
    let cases = [
        (one.clone(), database("b@db.test:5432/shop?sslmode=require"), "use the same database"),
        (
            env("UPLOAD_DIR = \"/srv/files/\""),
            env("APP_STORAGE = \"/srv/./files\""),
            "store in the same folder",
        ),
        (
            "paths = [\"/a\"]\n".to_owned() + &env("STORAGE_PREFIX = \"X_\""),
            "paths = [\"/b\"]\n".to_owned() + &env("API_CLIENT_STORAGE_PREFIX = \"X_\""),
            "store under the same names in browsers",
        ),
    ];
    for (a, b, what) in &cases {
        // Browsers keep what they store by host.
        let hosts = |text: &str| text.replace("paths", "hosts = [\"x.test\"]\npaths");
        let (a, b) = (hosts(a), hosts(b));
        let without = |text: String| match text.contains("x.test") {
            true => text.replacen("hosts = [\"a.test\"]\n", "", 1).replacen(
                "hosts = [\"b.test\"]\n",
                "",
                1,
            ),
            false => text,
        };
        let config = text(&without(app("a", &a) + &app("b", &b)));
        let [warning] = &config.warnings[..] else { panic!("{what}: {:?}", config.warnings) };
        assert_eq!(warning.message, format!("apps `b` and `a` {what}"));
        assert!(!warning.to_string().contains("secret"), "{warning}");
        // Who needs the other knows of it.
        let config = text(&without(app("a", &a) + &app("b", &(b + "\nneeds = [\"a\"]"))));
        assert_eq!(config.warnings, [], "{what}");
    }
    for (a, b) in [
        (one.clone(), database("a:secret@db.test/other")),
        (one.clone(), database("a:secret@other.test/shop")),
        (one, "database = { new_database = \"postgres://a:secret@db.test/\" }".into()),
        (env("UPLOAD_DIR = \"./files\""), env("UPLOAD_DIR = \"./files\"")),
        (env("UPLOAD_DIR = \"/srv/{id}/files\""), env("UPLOAD_DIR = \"/srv/{id}/files\"")),
        (env("STORAGE_TYPE = \"local\""), env("STORAGE_TYPE = \"local\"")),
        (env("STORAGE_URL = \"s3://bucket\""), env("STORAGE_URL = \"s3://bucket\"")),
        (env("STORAGE_PREFIX = \"X_\""), env("STORAGE_PREFIX = \"X_\"")),
        (env("TABLE_PREFIX = \"/x/\""), env("TABLE_PREFIX = \"/x/\"")),
    ] {
        assert_eq!(told(&a, &b), [""; 0], "{a} {b}");
    }
}

#[test]
fn an_admin_address_beyond_loopback_is_warned_of() {
    let warnings = |address: &str| {
        text(&format!("[server]\nadmin = [\"unix:a.sock\", \"{address}\"]\n")).warnings
    };
    assert_eq!(warnings("127.0.0.1:9911"), []);
    assert_eq!(warnings("[::1]:9911"), []);
    let told = warnings("0.0.0.0:9911");
    assert!(told[0].message.contains("can be read from other machines"), "{told:?}");
}

#[test]
fn what_an_app_needs_arrives_in_order() {
    let config =
        load(&fixture("needs.toml"), &environment).unwrap_or_else(|wrong| panic!("{wrong}"));
    let needs = |id| process(app(&config, id)).needs.iter().map(ToString::to_string);
    assert_eq!(needs("web").collect::<Vec<_>>(), ["api", "cache"]);
    assert_eq!(needs("cache").count() + needs("db").count(), 0);
    let written = serde_json::to_value(app(&config, "db")).unwrap();
    assert_eq!(written["backend"]["Process"].get("needs"), None, "nothing is said of no needs");
}

#[test]
fn a_long_chain_of_needs_is_no_circle_until_it_is_closed() {
    let chain = |apps: usize, last: &str| -> String {
        let link = |n| format!("[app.a{n}]\ncommand = [\"true\"]\nneeds = [\"a{}\"]\n", n + 1);
        let end = format!("[app.a{apps}]\ncommand = [\"true\"]\n{last}");
        (0..apps).map(link).collect::<String>() + &end
    };
    let read = |text| load_text(Path::new("/etc/doorbell/doorbell.toml"), text, &environment);
    assert_eq!(read(chain(20_000, "")).unwrap().apps.len(), 20_001);
    let problems = read(chain(20_000, "needs = [\"a0\"]")).unwrap_err().to_string();
    let told = "a0 needs a1 needs a2 ";
    assert!(problems.contains(told) && problems.contains("... needs"), "{problems}");
    assert_eq!(problems.matches("error").count(), 1);
}
