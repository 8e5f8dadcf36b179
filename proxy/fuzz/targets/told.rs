//! What a proxy tells the control process: figures, and questions about passes. Whatever it says is no message, or is
//! cut to what a proxy of ours says, can be added up, and makes a page.
#![no_main]

use doorbell_proxy::{
    figures_desk::Told,
    metrics::{
        export::{AppView, Reloads, encode},
        figures::Figures,
    },
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut told) = serde_json::from_slice::<Told>(bytes) else { return };
    told.figures.keep_within_bounds();
    let mut again = told.figures.clone();
    again.keep_within_bounds();
    assert_eq!(again, told.figures, "cut once and for all");
    // It is kept as text for the next control process, and understood there.
    let text = serde_json::to_string(&told.figures).expect("JSON");
    assert_eq!(serde_json::from_str::<Figures>(&text).expect("what was said"), told.figures);
    let mut sum = Figures::default();
    for _ in 0..3 {
        sum.add(&told.figures);
    }
    let view = |(id, figures)| {
        AppView { id, replica: None, figures: Some(figures), snapshot: None, usage: None }
    };
    let apps: Vec<_> = sum.apps.iter().map(|(id, figures)| view((id.as_str(), figures))).collect();
    encode(&apps, &sum.other, &sum.server, Reloads::default()).expect("a page");
    let before = sum.server.accepted;
    sum.settle();
    assert_eq!((sum.server.connections, sum.server.accepted), (0, before));
});
