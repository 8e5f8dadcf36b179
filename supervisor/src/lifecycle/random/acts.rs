//! What may happen in the world of an app.

use proptest::prelude::*;

use crate::lifecycle::{Hours, Needed, Needs};

/// What the world does next. Numbers choose among what is possible.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Request,
    LeaseEnds,
    /// Of somebody who may not wake the app, nor keep it awake.
    RequestAside,
    AsideEnds,
    InstanceReady(u8),
    InstanceFails(u8, bool),
    UpgradeFails(u8),
    InstanceGone(u8),
    TimerFires,
    Admit,
    Start,
    Stop,
    StopNow,
    Restart,
    Redefine(bool, bool),
    Disable(bool),
    Enable(bool),
    Shutdown,
    Stale(u8),
    Unreachable,
    Thaws(u8, bool),
    /// The instance's own work is to keep it awake for so many seconds, or no more.
    KeepAwake(u8),
    /// The next time that it is asked whether it is idle, it asks for that meanwhile.
    KeepAwakeMeanwhile,
    /// Whoever is idle is to yield: by stopping, or not necessarily.
    Yield(bool),
    /// `None`: one of them failed a moment ago.
    Needs(Option<Needs>),
    Needed(Needed),
    Hours(Hours),
    Pass(u16),
}

/// How the apps are that it needs, the failure of one that lasts no time included.
fn needs() -> impl Strategy<Value = Option<Needs>> {
    prop_oneof![
        4 => Just(Some(Needs::Met)),
        2 => Just(Some(Needs::Coming)),
        1 => Just(Some(Needs::Off)),
        1 => Just(None),
    ]
}

pub(super) fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => Just(Act::Request),
        4 => Just(Act::LeaseEnds),
        3 => Just(Act::RequestAside),
        3 => Just(Act::AsideEnds),
        6 => any::<u8>().prop_map(Act::InstanceReady),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(n, clean)| Act::InstanceFails(n, clean)),
        1 => any::<u8>().prop_map(Act::UpgradeFails),
        5 => any::<u8>().prop_map(Act::InstanceGone),
        5 => Just(Act::TimerFires),
        6 => Just(Act::Admit),
        1 => Just(Act::Start),
        1 => Just(Act::Stop),
        1 => Just(Act::StopNow),
        2 => Just(Act::Restart),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(a, b)| Act::Redefine(a, b)),
        1 => any::<bool>().prop_map(Act::Disable),
        2 => any::<bool>().prop_map(Act::Enable),
        1 => Just(Act::Shutdown),
        1 => any::<u8>().prop_map(Act::Stale),
        1 => Just(Act::Unreachable),
        5 => (any::<u8>(), any::<bool>()).prop_map(|(n, well)| Act::Thaws(n, well)),
        2 => any::<u8>().prop_map(Act::KeepAwake),
        1 => Just(Act::KeepAwakeMeanwhile),
        1 => any::<bool>().prop_map(Act::Yield),
        3 => needs().prop_map(Act::Needs),
        3 => prop_oneof![
            Just(Needed::No),
            Just(Needed::Asleep),
            Just(Needed::Awake)
        ]
        .prop_map(Act::Needed),
        2 => prop_oneof![Just(Hours::Free), Just(Hours::Kept)].prop_map(Act::Hours),
        2 => any::<u16>().prop_map(Act::Pass),
    ];
    prop::collection::vec(act, 1..120)
}
