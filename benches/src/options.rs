//! Options of a bench: `cargo bench ... -- --rounds 3`.

use std::str::FromStr;

/// The value behind `--name`, or the default.
///
/// # Errors
/// If there is a value that cannot be read.
pub fn option<T: FromStr>(name: &str, default: T) -> anyhow::Result<T> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    match arguments.next() {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| anyhow::anyhow!("{name}: cannot make sense of {text:?}"))
        }
    }
}
