//! The watch over HTTP/2 frames: however the bytes are split, a flood is a flood.
#![no_main]

use std::time::Instant;

use doorbell_proxy::frame_guard::FrameGuard;

fn is_flood<'a>(now: Instant, pieces: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut guard = FrameGuard::new(now);
    pieces.into_iter().any(|piece| guard.watch(piece, now).is_err())
}

libfuzzer_sys::fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
    let now = Instant::now();
    let whole = is_flood(now, [bytes]);
    assert_eq!(is_flood(now, [first, second]), whole);
    assert_eq!(is_flood(now, bytes.chunks(1)), whole);
});
