//! An app that knows when it began and when it was ready, and answers with both.
//!
//! `bench-app PATH [MILLISECONDS [DEED AMOUNT]]`: how it becomes ready (`connect`, `http`, `notify` or
//! `activation`), and what it takes to get there; `bench-app alone` says when it began, and ends. `bench-app
//! stream` speaks no HTTP: it sends as many bytes as it is asked for by eight, the lowest first.
//! What it does besides: `keep` so many MiB of memory, `spin` in so many threads, `shout` lines of so
//! many bytes without end.
//! Times are those of CLOCK_MONOTONIC, which all processes share. Nothing is written on the way, so
//! that nothing is measured but the start.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixDatagram,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use doorbell_benches::clock;

fn main() -> anyhow::Result<()> {
    let began = clock::now();
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().context("which readiness path?")?;
    if path == "alone" {
        std::io::stdout().write_all(began.as_nanos().to_string().as_bytes())?;
        return Ok(());
    }
    if path == "stream" {
        return stream(&listen()?);
    }
    let takes = arguments.next().map_or(Ok(0), |text| text.parse())?;
    doorbell_benches::wait::pass(Duration::from_millis(takes));
    let deed = arguments.next();
    let amount = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let kept = deed.map(|deed| begin(&deed, amount)).transpose()?;

    let listener = if path == "activation" { inherited()? } else { listen()? };
    let ready = clock::now();
    if path == "notify" {
        let socket = std::env::var("NOTIFY_SOCKET").context("nobody to notify")?;
        UnixDatagram::unbound()?.send_to(b"READY=1", socket)?;
    }
    let body = format!("{} {} {}", began.as_nanos(), ready.as_nanos(), std::process::id());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    for client in listener.incoming() {
        // A client that leaves, such as a probe that only connects, concerns nobody.
        drop(client.and_then(|client| serve(client, answer.as_bytes())));
    }
    drop(kept);
    Ok(())
}

/// Begins what it does besides; what it keeps is kept as long as what this gives.
fn begin(deed: &str, amount: usize) -> anyhow::Result<Vec<u8>> {
    match deed {
        // Something that is no zero, so that it is there.
        "keep" => return Ok((0..amount << 20).map(|at| (at % 251) as u8).collect()),
        "spin" => (0..amount).for_each(|_| {
            drop(thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            }))
        }),
        "shout" => drop(thread::spawn(move || shout(amount))),
        _ => anyhow::bail!("unknown deed {deed:?}"),
    }
    Ok(Vec::new())
}

/// Gives each client what it asks for, again and again.
fn stream(listener: &TcpListener) -> anyhow::Result<()> {
    loop {
        let (mut client, _) = listener.accept()?;
        client.set_nodelay(true)?;
        thread::spawn(move || {
            let (mut asked, bytes) = ([0; 8], vec![b'x'; 256 * 1024]);
            // Its end is the client's to decide.
            while client.read_exact(&mut asked).is_ok() {
                let mut left = u64::from_le_bytes(asked);
                while left > 0 {
                    let piece = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    match client.write(&bytes[..piece]) {
                        Ok(written) => left -= written as u64,
                        Err(_) => return,
                    }
                }
            }
        });
    }
}

/// As much as is taken.
fn shout(bytes: usize) {
    let mut line = vec![b'x'; bytes];
    line.push(b'\n');
    while std::io::stdout().write_all(&line).is_ok() {}
}

fn listen() -> anyhow::Result<TcpListener> {
    let port = std::env::var("PORT").context("no PORT")?;
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
    // The standard library's 128 are too few for a crowd: each one too many waits a second.
    rustix::net::listen(&listener, 4096)?;
    Ok(listener)
}

/// The socket that Doorbell listens on for us (sd_listen_fds(3)).
fn inherited() -> anyhow::Result<TcpListener> {
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    listener.context("nothing was inherited")
}

fn serve(mut client: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut head = [0; 4096];
    let mut length = 0;
    while !head[..length].ends_with(b"\r\n\r\n") {
        match client.read(&mut head[length..])? {
            0 => return Ok(()),
            more => length += more,
        }
    }
    client.write_all(answer)
}
