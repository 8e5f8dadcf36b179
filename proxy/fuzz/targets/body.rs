//! Where a body ends: however its bytes are split, the answer is the same.
#![no_main]

use doorbell_proxy::{
    framing::{BodyError, BodyTracker},
    head::BodyKind,
};

const LIMIT: u64 = 1024;

/// Bytes that belong to the body, and whether it has ended.
fn follow(kind: BodyKind, pieces: &[&[u8]]) -> Result<(usize, u64, bool), BodyError> {
    let mut body = BodyTracker::new(kind, Some(LIMIT));
    let mut taken = 0;
    for piece in pieces {
        let of_body = body.advance(piece)?;
        assert!(of_body == piece.len() || body.is_done());
        taken += of_body;
    }
    assert!(body.content() <= LIMIT && body.content() <= taken as u64);
    Ok((taken, body.content(), body.is_done()))
}

libfuzzer_sys::fuzz_target!(|input: (u16, u8, &[u8])| {
    let (cut, length, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
    let one_by_one: Vec<_> = bytes.chunks(1).collect();
    for kind in [BodyKind::UntilEnd, BodyKind::Length(length.into()), BodyKind::None] {
        let whole = follow(kind, &[bytes]);
        assert_eq!(follow(kind, &[first, second]), whole);
        assert_eq!(follow(kind, &one_by_one), whole);
    }
});
