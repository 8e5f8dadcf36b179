//! Programs that people run, unchanged, from their registries. `./test` installs them.

use std::path::PathBuf;

use doorbell_tests::{Connection, Doorbell, eventually};

pub(crate) fn installed(path: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/test-apps").join(path);
    assert!(root.exists(), "{} is missing: run ./test, which installs it", root.display());
    std::fs::canonicalize(&root).unwrap_or(root)
}

#[test]
fn pythons_http_server() {
    let apps = "[app.files]\nhosts = [\"files.test\"]\ndirectory = \"{apps}\"\n\
                command = [\"python3\", \"-m\", \"http.server\", \"--bind\", \"127.0.0.1\", \"{port}\"]\n";
    let d = Doorbell::with(apps);
    let page = d.get("files.test", "/node.js");
    assert_eq!(page.status, 200);
    assert_eq!(
        page.body,
        std::fs::read(doorbell_tests::app_dir().join("node.js")).expect("the file")
    );
    let mut connections: Vec<Connection> = (0..50).map(|_| d.connect()).collect();
    for connection in &mut connections {
        connection.send_get("files.test", "/server.py");
    }
    assert!(connections.iter_mut().all(|connection| connection.read().status == 200));
}

#[test]
fn node_red_with_its_websocket() {
    let program = installed("node_modules/node-red/red.js");
    let apps = format!(
        "[app.red]\nhosts = [\"red.test\"]\nready = {{ http = \"/\", deadline = \"60s\" }}\n\
         command = [\"node\", \"{}\", \"--port\", \"{{port}}\", \"--userDir\", \"{{dir}}/red\", \
         \"-D\", \"uiHost=127.0.0.1\"]\n",
        program.display()
    );
    let d = Doorbell::with(&apps);
    let page = d.get("red.test", "/");
    assert_eq!(page.status, 200, "{}", d.ok(&["status", "red"]));
    assert!(page.text().contains("Node-RED"), "{}", page.text());
    let mut socket = doorbell_tests::WebSocket::open(d.port, "red.test", "/comms").expect("/comms");
    socket.send("{\"subscribe\":\"notification/#\"}");
    assert!(socket.read().is_some(), "Node-RED says something on its WebSocket");
    let pid = d.app_pid("red").expect("a process");
    d.ok(&["stop", "red"]);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn datasette() {
    let program = installed("venv/bin/datasette");
    let apps = format!(
        "[app.data]\nhosts = [\"data.test\"]\nidle = {{ stop_after = \"1s\" }}\n\
         ready = {{ http = \"/-/versions.json\", status = 200, deadline = \"60s\" }}\n\
         command = [\"{}\", \"serve\", \"--memory\", \"--host\", \"127.0.0.1\", \"--port\", \"{{port}}\"]\n",
        program.display()
    );
    let d = Doorbell::with(&apps);
    let answer = d.get("data.test", "/_memory.json?sql=select+6*7+as+answer&_shape=array");
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), d.ok(&["status", "data"]));
    assert_eq!(answer.json()[0]["answer"], 42);
    d.wait_for_state("data", "stopped");
    let reason = d.status("data")["reason"].to_string();
    assert!(!reason.contains("crash") && !reason.contains("failed"), "a clean stop: {reason}");
    eventually("it wakes again", || d.get("data.test", "/-/versions.json").status == 200);
}
