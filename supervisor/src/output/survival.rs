//! The real thing: a reader that is killed again and again while an app prints.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use doorbell_config::{
    name::{AppId, ByteSize},
    spec::OutputSpec,
};

use super::{Capture, Logs, OutputPipe, Tail, tests::read_all};

/// Says to the test's own program that it is the reader, and where.
const FOLDER: &str = "DOORBELL_TEST_READER";
const KILLS: u64 = 40;
/// Prints numbers until it is told to end, some of them within long lines.
const PRINTER: &str = r#"
n=0
long=$(printf '%03000d' 0)
while [ ! -e stop ]; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        echo "$n"; echo "$((n + 1)) short"; echo "$((n + 2)) $long"; printf "$((n + 3))"; echo " torn"
        n=$((n + 4))
    done
done
echo "$n end"
"#;

fn capture(folder: &Path, pipe: OutputPipe) -> Capture {
    let logs = Logs::new(folder.join("log"));
    let spec = OutputSpec { max_size: ByteSize(100_000), keep: 1_000_000 };
    let log = logs.open(&AppId::parse("app").unwrap(), spec);
    Capture::start(pipe, log, Arc::new(Tail::default())).unwrap()
}

/// Not a test: what is killed by the one below.
#[tokio::test]
#[ignore = "is run by a_reader_that_is_killed_leaves_every_line_to_the_next"]
async fn reader() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let _capture = capture(folder, OutputPipe::reopen(&folder.join("1.out")).unwrap());
    eprintln!("reads");
    std::future::pending().await
}

fn start_reader(folder: &Path) -> Child {
    let name = format!("{}::reader", module_path!().split_once("::").unwrap().1);
    let mut reader = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let says = BufReader::new(reader.stderr.take().unwrap());
    assert!(says.lines().any(|line| line.unwrap() == "reads"));
    reader
}

#[tokio::test]
async fn a_reader_that_is_killed_leaves_every_line_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.out");
    let (pipe, apps) = OutputPipe::create(&path).unwrap();
    let mut printer = Command::new("sh")
        .args(["-c", PRINTER])
        .current_dir(folder.path())
        .stdout(apps)
        .spawn()
        .unwrap();
    drop(pipe);
    for kill in 0..KILLS {
        let mut reader = start_reader(folder.path());
        // Moments that are spread, and hit every part of the reader's work.
        tokio::time::sleep(Duration::from_micros(300 + kill * 7919 % 40_000)).await;
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
    fs::write(folder.path().join("stop"), "").unwrap();
    let capture = capture(folder.path(), OutputPipe::reopen(&path).unwrap());
    let ended = tokio::task::spawn_blocking(move || printer.wait().unwrap());
    assert!(ended.await.unwrap().success(), "the app never noticed");
    capture.finish().await;
    let log = read_all(&folder.path().join("log/app"));
    let mut numbers = 0;
    for (line, expected) in log.lines().zip(0_u64..) {
        let number = line.split(' ').next().and_then(|number| number.parse().ok());
        assert_eq!(number, Some(expected), "{line:?}");
        numbers += 1;
    }
    assert!(log.ends_with(" end\n") && numbers > 4 * KILLS, "{numbers}");
}
