//! What the processes say to each other: whatever the bytes, and however they are split, they are
//! messages up to a point, and behind it the connection ends.
#![no_main]

use std::{cell::RefCell, io::Write, os::unix::net::UnixStream};

use doorbell_supervisor::{
    protocol::{FromControl, FromProxy, PROXY_LIMITS, TRUSTED_LIMITS, ToControl, ToProxy},
    wire::{self, Frame, Limits},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::runtime::{Builder, Runtime};

/// Less than what a socket holds, so that nobody has to read while it is written.
const MOST: usize = 16 * 1024;

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().enable_io().build().expect("a runtime"));
}

/// The messages, and whether what came behind them was forbidden.
fn read<T>(pieces: &[&[u8]], limits: Limits) -> (Vec<String>, bool)
where
    T: Serialize + DeserializeOwned + Send + 'static,
{
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let (mut ours, theirs) = UnixStream::pair().expect("a pair");
            let (_sender, mut receiver) =
                wire::open::<T>(theirs, limits).expect("a connection");
            for piece in pieces {
                ours.write_all(piece).expect("there is room");
                // Each piece is read by itself.
                tokio::task::yield_now().await;
            }
            drop(ours);
            let mut messages = Vec::new();
            loop {
                match receiver.next().await {
                    Ok(Some((message, descriptors))) => {
                        assert!(descriptors.is_empty());
                        // What was understood can be said, and is understood as the same again.
                        Frame::of(&message).expect("a frame");
                        messages.push(serde_json::to_string(&message).expect("JSON"));
                    }
                    Ok(None) => return (messages, false),
                    Err(_) => return (messages, true),
                }
            }
        })
    })
}

/// However it is split, it says the same.
fn is_the_same<T>(whole: &[u8], cut: u16, limits: Limits)
where
    T: Serialize + DeserializeOwned + Send + 'static,
{
    let (first, second) = whole.split_at(usize::from(cut) % (whole.len() + 1));
    assert_eq!(read::<T>(&[first, second], limits), read::<T>(&[whole], limits));
}

libfuzzer_sys::fuzz_target!(|input: (u8, u16, bool, &[u8])| {
    let (who, cut, is_framed, bytes) = input;
    let bytes = &bytes[..bytes.len().min(MOST)];
    // With a head that is right the fuzzer gets to the text sooner.
    let mut framed = Vec::new();
    if is_framed {
        let length = u32::try_from(bytes.len()).expect("it is short");
        framed.extend_from_slice(&length.to_le_bytes());
        framed.push(0);
    }
    framed.extend_from_slice(bytes);
    match who % 4 {
        0 => is_the_same::<FromProxy>(&framed, cut, PROXY_LIMITS),
        1 => is_the_same::<FromControl>(&framed, cut, TRUSTED_LIMITS),
        2 => is_the_same::<ToProxy>(&framed, cut, TRUSTED_LIMITS),
        _ => is_the_same::<ToControl>(&framed, cut, TRUSTED_LIMITS),
    }
});
