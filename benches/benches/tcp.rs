//! What a TCP app's connections cost: bytes, round trips, connections; HAProxy and Doorbell in turns before the
//! same app.
//!
//! The proxy is alone on the first core; client and app share the second, so that the proxy's own processor time
//! is the figure to compare. Options: `--rounds N` (5), `--seconds N` of each measurement (1).
#![allow(clippy::print_stdout, reason = "its tables are what a bench is for")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use doorbell_benches::{
    cost,
    doorbell::Doorbell,
    figures::{median, short, table},
    machine::{self, Core},
    options::option,
    proxies,
    server::{Server, free_address},
};

/// Bytes of a round trip's answer.
const SMALL: u64 = 64;
/// Bytes that are asked for at once where many are wanted.
const LARGE: u64 = 64 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Bytes,
    RoundTrips,
    Connections,
}

impl Load {
    const ALL: [Self; 3] = [Self::Bytes, Self::RoundTrips, Self::Connections];

    /// What is counted, for people.
    fn unit(self) -> &'static str {
        match self {
            Self::Bytes => "GB",
            Self::RoundTrips => "round trips of 64 B",
            Self::Connections => "connections with a round trip",
        }
    }

    /// Makes load for a while; tells how much of the unit there was.
    fn run(self, address: SocketAddr, lasts: Duration) -> anyhow::Result<f64> {
        let end = Instant::now() + lasts;
        let mut buffer = vec![0; 256 * 1024];
        let mut connection = connect(address)?;
        let mut count = 0.0;
        while Instant::now() < end {
            match self {
                Self::Bytes => {
                    ask(&mut connection, LARGE, &mut buffer)?;
                    count += LARGE as f64 / 1e9;
                }
                Self::RoundTrips => {
                    ask(&mut connection, SMALL, &mut buffer)?;
                    count += 1.0;
                }
                Self::Connections => {
                    ask(&mut connection, SMALL, &mut buffer)?;
                    connection = connect(address)?;
                    count += 1.0;
                }
            }
        }
        Ok(count)
    }
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(connection)
}

/// Asks for bytes and reads all of them.
fn ask(connection: &mut TcpStream, bytes: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
    connection.write_all(&bytes.to_le_bytes())?;
    let mut left = bytes;
    while left > 0 {
        let read = connection.read(buffer)?;
        anyhow::ensure!(read > 0, "the connection ended with {left} bytes missing");
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}

/// Somebody between client and app, and its processes.
struct Between {
    name: &'static str,
    address: SocketAddr,
    pids: Vec<u32>,
}

impl Between {
    fn used(&self) -> anyhow::Result<Duration> {
        self.pids.iter().map(|pid| cost::processor_time_alone(*pid)).sum()
    }
}

fn main() -> anyhow::Result<()> {
    let rounds: usize = option("--rounds", 5)?;
    let lasts = Duration::from_secs(option("--seconds", 1)?);
    machine::raise_descriptor_limit();
    println!("{}\n", machine::describe());

    let (address, upstream) = (free_address()?, free_address()?);
    // The app is Doorbell's child, and is not to take its core.
    let app = env!("CARGO_BIN_EXE_bench-app");
    let core = machine::number(Core::Load)?;
    let apps = format!(
        "[tcp.bench]\nlisten = \"{address}\"\nport = {}\ndirectory = \"/\"\n\
         command = [\"taskset\", \"-c\", \"{core}\", \"{app}\", \"stream\"]\n",
        upstream.port()
    );
    let doorbell = Doorbell::start(&apps, Core::Measured)?;
    ask(&mut connect(address)?, SMALL, &mut [0; 64])?;
    let pids = doorbell.parts().into_iter().map(|(_, pid)| pid).collect();
    let mut between = vec![Between { name: "Doorbell", address, pids }];
    let (_folder, folder) = proxies::folder()?;
    let mut servers = Vec::new();
    for (name, line) in
        [("HAProxy", "no option splice-auto"), ("HAProxy, splicing", "option splice-auto")]
    {
        let (folder, address) = (folder.join(name), free_address()?);
        let command = proxies::haproxy_tcp(&folder, address, upstream, line)?;
        let mut server = Server::spawn(command, Core::Measured, &folder.join("output"))?;
        server.listens(address)?;
        between.push(Between { name, address, pids: cost::tree(server.pid()) });
        servers.push(server);
    }

    for load in Load::ALL {
        let mut measured = vec![Vec::new(); between.len()];
        for round in 0..rounds {
            for turn in 0..between.len() {
                let at = (turn + round) % between.len();
                let before = between[at].used()?;
                let since = Instant::now();
                let count = machine::on(Core::Load, || load.run(between[at].address, lasts))??;
                let (took, used) = (since.elapsed(), between[at].used()? - before);
                measured[at].push((count / took.as_secs_f64(), used.as_secs_f64() * 1e6 / count));
            }
        }
        let rows: Vec<_> = between.iter().zip(&measured).map(|(one, all)| row(one, all)).collect();
        println!("{}", table(&[load.unit(), "per second", "CPU µs each"], &rows));
    }
    Ok(())
}

fn row(between: &Between, measured: &[(f64, f64)]) -> Vec<String> {
    let (rates, costs): (Vec<f64>, Vec<f64>) = measured.iter().copied().unzip();
    vec![between.name.to_owned(), short(median(&rates)), short(median(&costs))]
}
