//! What a confined process can and cannot do: tried by this program, which starts itself anew for it.
//!
//! Every try says how it went; what this machine's kernel or user cannot show says so too. Run it as
//! root and as an ordinary user, to whom different things are possible.

use std::{env, error::Error, fmt::Display, process::ExitCode};

mod control;
mod forbidden;
mod needed;
mod proxy;
mod raw;
mod registry;
mod starter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Names the case that a child plays.
const CASE: &str = "DOORBELL_SANDBOX_CASE";

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// A case: its name, what the test does, and what the child that it starts does.
struct Case {
    name: &'static str,
    test: fn(&str) -> Outcome,
    child: fn(&mut Report) -> Outcome,
}

const CASES: [Case; 6] = [
    Case {
        name: "the_proxy_keeps_what_it_needs_and_nothing_else",
        test: proxy::test,
        child: proxy::child,
    },
    Case {
        name: "a_confined_process_can_abort",
        test: starter::expect_abort,
        child: starter::abort_confined,
    },
    Case {
        name: "a_process_with_threads_is_not_confined",
        test: starter::expect_success,
        child: starter::confine_with_a_thread,
    },
    Case {
        name: "a_path_that_is_not_there_is_named",
        test: starter::expect_success,
        child: starter::confine_without_a_path,
    },
    Case {
        name: "the_proxy_that_is_run_cannot_reach_the_registry",
        test: registry::test,
        child: registry::child,
    },
    Case { name: "the_control_role_keeps_its_folders", test: control::test, child: control::child },
];

fn main() -> ExitCode {
    let outcome = match env::var(CASE) {
        Ok(name) => play(&name),
        Err(_) => run(env::args().skip(1).find(|argument| !argument.starts_with('-'))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs all cases whose name contains the filter.
fn run(filter: Option<String>) -> Outcome {
    let filter = filter.unwrap_or_default();
    let mut failed = 0;
    for Case { name, test, .. } in CASES.iter().filter(|case| case.name.contains(&filter)) {
        match test(name) {
            Ok(()) => say(format_args!("test {name} ... ok")),
            Err(error) => {
                failed += 1;
                say(format_args!("test {name} ... FAILED: {error}"));
            }
        }
    }
    if failed == 0 { Ok(()) } else { Err(format!("{failed} failed").into()) }
}

/// Plays the child of a case.
fn play(name: &str) -> Outcome {
    let case = CASES.iter().find(|case| case.name == name).ok_or("no such case")?;
    let mut report = Report { failed: 0 };
    (case.child)(&mut report)?;
    if report.failed == 0 { Ok(()) } else { Err(format!("{} tries failed", report.failed).into()) }
}

/// What was tried in a child.
struct Report {
    failed: usize,
}

impl Report {
    /// It must work.
    fn works<T, E: Display>(&mut self, what: &str, outcome: Result<T, E>) {
        match outcome {
            Ok(_) => say(format_args!("    works: {what}")),
            Err(error) => self.fail(format_args!("{what} must work: {error}")),
        }
    }

    /// It must fail, for want of permission.
    fn fails<T>(&mut self, what: &str, outcome: std::io::Result<T>) {
        match outcome {
            Err(error) if is_refusal(&error) => say(format_args!("    fails: {what}: {error}")),
            Err(error) => self.fail(format_args!("{what} failed in another way: {error}")),
            Ok(_) => self.fail(format_args!("{what} must fail")),
        }
    }

    fn left_out(&mut self, what: &str, why: &dyn Display) {
        say(format_args!("    LEFT OUT: {what}: {why}"));
    }

    fn fail(&mut self, what: impl Display) {
        self.failed += 1;
        say(format_args!("    FAILED: {what}"));
    }
}

fn is_refusal(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES | libc::ENOSYS))
}

/// One line on standard output.
#[allow(clippy::print_stdout)]
fn say(line: impl Display) {
    println!("{line}");
}
