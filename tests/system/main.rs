//! System tests: the real binary in front of real programs, over loopback.
//!
//! One file per promise: what goes over the wire, how apps wake, how processes live and die, how a
//! reload goes, what is seen of it all. `./test` builds the binary and installs what they need.

mod absence;
mod activation;
mod adoption;
mod awake;
mod browser;
mod command_line;
mod counting;
mod crowd;
mod deaths;
mod enclosure;
mod following;
mod frost;
mod h2c;
mod hardship;
mod hostile;
mod hours;
mod house;
mod http2;
mod imports;
mod limits;
mod listening;
mod memory_budget;
mod needs;
mod observing;
mod pages;
mod passes;
mod pool;
mod processes;
mod real_apps;
mod records;
mod registry;
mod reloading;
mod replicas;
mod restarting;
mod roles;
mod routing;
mod scripted;
mod sharing;
mod stopping;
mod storm;
mod survival;
mod tcp;
mod telling;
mod tls;
mod upgrading;
mod upstreams;
mod users;
mod wake;
mod watching;
mod wire;

/// The Node test program as an app, with more lines of its own.
fn node(id: &str, more: &str) -> String {
    format!(
        "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"node\", \"{{apps}}/node.js\"]\n\
         directory = \"{{apps}}\"\n{more}\n"
    )
}

/// The Python test program as an app, in a mode.
fn python(id: &str, mode: &str, more: &str) -> String {
    format!(
        "[app.{id}]\nhosts = [\"{id}.test\"]\ncommand = [\"python3\", \"{{apps}}/server.py\", \"{mode}\"]\n\
         directory = \"{{apps}}\"\n{more}\n"
    )
}
