//! Watches HTTP/2 frame headers as they come in, and ends connections that send floods of frames
//! which cost us work and carry nothing.
//!
//! The HTTP/2 library bounds header lists, CONTINUATION and rapid resets; SETTINGS, PING, PRIORITY
//! and empty DATA frames it answers as long as they come (CVE-2019-9512, -9513, -9515, -9518). Here
//! each connection has a budget of such frames that refills with time and with real work.

use std::time::Instant;

/// Length of the client connection preface, RFC 9113 section 3.4.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
/// Control frames that may come at once.
const BURST: f64 = 200.0;
/// Control frames a second that a connection may send for ever.
const PER_SECOND: f64 = 20.0;
/// What a HEADERS or non-empty DATA frame earns, and so many bytes that go out. Clients that measure
/// their way ping while they get data; what answers a ping or an empty frame is far shorter.
const EARNED_BY_WORK: f64 = 2.0;
const WORK_BYTES: usize = 2048;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;

/// A connection's budget of frames that carry nothing.
#[derive(Debug)]
pub struct FrameGuard {
    skip: usize,
    header: [u8; FRAME_HEADER],
    have: usize,
    budget: f64,
    refilled: Instant,
    /// Bytes that went out and have not earned anything yet.
    written: usize,
}

/// The peer floods: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flood of HTTP/2 control frames")]
pub struct Flood;

impl FrameGuard {
    /// A guard for a connection whose preface is still to pass.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            skip: PREFACE,
            header: [0; FRAME_HEADER],
            have: 0,
            budget: BURST,
            refilled: now,
            written: 0,
        }
    }

    /// Takes note of bytes that went out.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        let pieces = self.written / WORK_BYTES;
        self.written %= WORK_BYTES;
        self.budget = (self.budget + pieces as f64 * EARNED_BY_WORK).min(BURST);
    }

    /// Takes bytes that came in.
    ///
    /// # Errors
    /// [`Flood`] when the budget is spent.
    pub fn watch(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (FRAME_HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == FRAME_HEADER {
                self.have = 0;
                self.frame(now)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, now: Instant) -> Result<(), Flood> {
        let [a, b, c, kind, ..] = self.header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        match kind {
            DATA if length > 0 => self.budget = (self.budget + EARNED_BY_WORK).min(BURST),
            HEADERS => self.budget = (self.budget + EARNED_BY_WORK).min(BURST),
            DATA | PRIORITY | RST_STREAM | SETTINGS | PING => self.spend(now)?,
            _ => {}
        }
        Ok(())
    }

    fn spend(&mut self, now: Instant) -> Result<(), Flood> {
        self.budget -= 1.0;
        if self.budget < 0.0 {
            let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
            self.budget = (self.budget + elapsed * PER_SECOND).min(BURST);
            self.refilled = now;
        }
        if self.budget < 0.0 { Err(Flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0, (length >> 8) as u8, length as u8, kind, 0, 0, 0, 0, 1];
        bytes.resize(FRAME_HEADER + length, 0);
        bytes
    }

    fn started(now: Instant) -> FrameGuard {
        let mut guard = FrameGuard::new(now);
        guard.watch(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now).unwrap();
        guard
    }

    #[test]
    fn floods_of_frames_that_carry_nothing_are_stopped() {
        for kind in [SETTINGS, PING, PRIORITY, RST_STREAM, DATA] {
            let now = Instant::now();
            let mut guard = started(now);
            let length = if kind == PING { 8 } else { 0 };
            let stopped = (0..1000).find(|_| guard.watch(&frame(kind, length), now).is_err());
            assert_eq!(stopped, Some(200), "frame type {kind}");
        }
    }

    #[test]
    fn real_work_and_slow_pings_go_on_for_ever() {
        let start = Instant::now();
        let mut guard = started(start);
        for nth in 0..100_000_u64 {
            let now = start + Duration::from_millis(nth * 60);
            guard.watch(&frame(PING, 8), now).unwrap();
            guard.watch(&frame(DATA, 100), now).unwrap();
            guard.watch(&frame(RST_STREAM, 4), now).unwrap();
        }
        for nth in 0..10_000_u64 {
            let now = start + Duration::from_secs(10_000) + Duration::from_millis(nth * 60);
            guard.watch(&frame(PING, 8), now).unwrap();
        }
    }

    #[test]
    fn pings_that_measure_a_download_go_on_and_answers_to_pings_earn_nothing() {
        let now = Instant::now();
        let mut guard = started(now);
        for _ in 0..100_000 {
            guard.watch(&frame(PING, 8), now).unwrap();
            guard.wrote(17 + 1400);
        }
        let mut guard = started(now);
        let stopped = (0..1000).find(|_| {
            guard.wrote(17);
            guard.watch(&frame(PING, 8), now).is_err()
        });
        assert!(stopped.is_some());
    }

    #[test]
    fn any_split_counts_the_same() {
        let now = Instant::now();
        let stream: Vec<u8> = (0..150).flat_map(|_| frame(PING, 8)).collect();
        for cut in [1, 5, 9, 13] {
            let mut guard = started(now);
            for piece in stream.chunks(cut) {
                guard.watch(piece, now).unwrap();
            }
            assert!((guard.budget - 50.0).abs() < 0.1);
        }
    }
}
