//! Passes of operators: whatever is done to one, only as it was signed it is good, and only for its app.
#![no_main]

use doorbell_config::name::AppId;
use doorbell_proxy::pass::{Key, Kind};
use doorbell_supervisor::protocol::Seed;

const UNTIL: u64 = 1000;

libfuzzer_sys::fuzz_target!(|input: (u16, u16, &str)| {
    let (at, cut, text) = input;
    let Some(key) = Key::of(&Seed([7; 32])) else { return };
    let seal = key.seal();
    assert_eq!(seal.app_of(Kind::Pass, text, 0), None, "forged");
    let Ok(app) = AppId::parse("blog") else { return };
    let pass = key.sign(Kind::Pass, &app, UNTIL);
    assert_eq!(seal.app_of(Kind::Pass, &pass, UNTIL - 1), Some(app));
    // A piece of it is another.
    let from = usize::from(at) % (pass.len() + 1);
    let to = from + usize::from(cut) % (pass.len() - from + 1);
    let bent = format!("{}{text}{}", &pass[..from], &pass[to..]);
    let good = seal.app_of(Kind::Pass, &bent, 0);
    assert_eq!(good.is_some(), bent == pass);
    assert_eq!(seal.app_of(Kind::Link, &bent, 0), None);
});
