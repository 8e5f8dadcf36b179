//! No version may take a word for another: what each kind of message looks like is written down.

use std::{collections::BTreeSet, fmt::Debug};

use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::forms;

/// Something that is of one of several kinds.
trait Kinds {
    /// All there are.
    const ALL: &'static [&'static str];

    /// Which it is.
    fn kind(&self) -> &'static str;
}

/// Names all variants of an enum: one that is left out does not compile.
macro_rules! kinds {
    ($of:ident: $($variant:ident)*) => {
        impl Kinds for $of {
            const ALL: &'static [&'static str] = &[$(stringify!($variant)),*];

            fn kind(&self) -> &'static str {
                match self { $(Self::$variant { .. } => stringify!($variant)),* }
            }
        }
    };
}

kinds!(FromProxy: Hello Listening Introduced Report Applied Echoed);
kinds!(GateReport: Wanted Retired Busy Drained Unreachable Answered NotAnswered Lacks);
kinds!(ToProxy: Welcome Apps Listen AccessLog Apply Order Echo Gates Control Drain);
kinds!(GateOrder: Open Reopen Shut AskRetire Refuse Hold Progress Probe EndProbe Forget);
kinds!(FromControl: Hello Held Admin Introduced Apps Wish Prepared Keep);
kinds!(Wish: Configure Operate Usages Upgrade);
kinds!(ToControl: Welcome Apps Rejected ServedInstead Admin Begin Snapshot Forgotten Answer Proxy Listening Reload
    Closing Hold Prepare Release End);
kinds!(Answer: Configured Operated Usages Upgraded);

#[track_caller]
fn are_all<'m, T: Kinds + 'm>(messages: impl IntoIterator<Item = &'m T>) {
    let there: BTreeSet<_> = messages.into_iter().map(Kinds::kind).collect();
    assert_eq!(there, T::ALL.iter().copied().collect(), "one of each kind is written down");
}

#[track_caller]
fn read<T: Kinds + Serialize + DeserializeOwned + Debug>(name: &str) -> Vec<T> {
    let messages = forms::are_understood(name);
    are_all(&messages);
    messages
}

#[test]
fn another_versions_proxy_is_understood() {
    let messages = read::<FromProxy>("wire/from_proxy");
    are_all(messages.iter().filter_map(|message| match message {
        FromProxy::Report(report) => Some(report),
        _ => None,
    }));
}

#[test]
fn another_versions_proxy_understands() {
    let messages = read::<ToProxy>("wire/to_proxy");
    are_all(messages.iter().filter_map(|message| match message {
        ToProxy::Order(order) => Some(order),
        _ => None,
    }));
}

#[test]
fn another_versions_control_process_is_understood() {
    let messages = read::<FromControl>("wire/from_control");
    are_all(messages.iter().filter_map(|message| match message {
        FromControl::Wish { wish, .. } => Some(&**wish),
        _ => None,
    }));
}

#[test]
fn another_versions_control_process_understands() {
    let messages = read::<ToControl>("wire/to_control");
    are_all(messages.iter().filter_map(|message| match message {
        ToControl::Answer { answer, .. } => Some(&**answer),
        _ => None,
    }));
}
