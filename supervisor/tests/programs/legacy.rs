//! What an app's first process gets from us, and what it does not.

use doorbell_supervisor::message::StateName;

use crate::house::{House, OPEN_FILES, python};

/// Tells the limit on open files, the blocked signals, the open descriptors, process group and
/// folder; then listens.
const TELL: &str = r#"
import os, resource, socket
print("files", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
for line in open("/proc/self/status"):
    if line.startswith("SigBlk"):
        print(*line.split())
print("descriptors", *[fd for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + fd)])
print("leads", os.getpgrp() == os.getpid(), os.getcwd(), os.readlink("/proc/self/fd/0"))
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(os.environ["PORT"])))
s.listen(8)
print("listens", flush=True)
s.accept()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_begins_with_its_own_limits_and_nothing_of_ours() {
    let house = House::new();
    let app = house.define(python("app", TELL)).await;
    let lease = house.gate.visit(&app).await;
    house.until_state(&app, StateName::Ready).await;
    crate::house::eventually("it told", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(house.log(&app)).len() > 5
        })
    })
    .await;
    let log = house.log(&app).await.join("\n");
    let folder = std::env::temp_dir().canonicalize().unwrap();
    assert!(log.contains(&format!("files {OPEN_FILES}\n")), "{log}");
    assert!(log.contains("SigBlk: 0000000000000000"), "{log}");
    let held = log.lines().find_map(|line| line.strip_prefix("descriptors ")).unwrap();
    for held in held.split(' ') {
        assert!(["0", "1", "2"].contains(&held) || was_inherited(held), "{held}: {log}");
    }
    assert!(log.contains(&format!("leads True {} /dev/null", folder.display())), "{log}");
    drop(lease);
    house.shutdown().await;
}

/// Whether it came to the test from whoever started it: all that we open closes on execve(2).
fn was_inherited(descriptor: &str) -> bool {
    const CLOEXEC: u32 = 0o2_000_000;
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}"));
    let about = about.unwrap_or_default();
    let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & CLOEXEC == 0)
}
