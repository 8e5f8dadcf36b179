//! The head of an HTTP/1 request: what is let through has a path in normal form and fields that lie
//! within it.
#![no_main]

use bytes::Bytes;
use doorbell_config::path::normalize;
use doorbell_proxy::head::RequestHead;

/// The longest target that is allowed.
const TARGET: u64 = 8 * 1024;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(head) = RequestHead::parse(Bytes::copy_from_slice(bytes), TARGET) else { return };
    assert!(head.raw_target().len() as u64 <= TARGET);
    if head.target() != "*" {
        assert_eq!(normalize(head.path()).as_deref(), Ok(head.path()));
    }
    for (name, value) in head.fields() {
        assert!(!name.is_empty());
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
    assert!(head.all_fields("host").count() <= 1);
    assert!(head.all_fields("content-length").count() <= 1);
});
