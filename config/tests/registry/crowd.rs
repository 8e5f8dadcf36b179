//! Many who write at once.

use std::time::Duration;

use doorbell_config::registry::{Expect, RegistryError, Revision, WriteError};

use crate::place::{Place, ids, put, somebody, write};

crate::on_both!(
    two_hundred_writers_lose_nothing,
    a_reader_beside_many_writers_misses_no_change,
    of_many_that_create_one_app_one_does,
    a_write_that_is_dropped_blocks_nobody,
);

async fn two_hundred_writers_lose_nothing(place: Place) {
    let registries = [place.open().await, place.open().await];
    let writers: Vec<_> = (0..200)
        .map(|number| {
            let registry = registries[number % 2].clone();
            tokio::spawn(async move { write(&registry, &format!("app-{number}"), "one").await })
        })
        .collect();
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.push(writer.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=200).map(Revision::new).collect::<Vec<_>>());
    assert_eq!(ids(&registries[0]).await.len(), 200);
    assert_eq!(registries[1].audit(None, None, 1000).await.unwrap().len(), 200);
}

/// Reads change after change while others write, and compares with what is there in the end.
async fn a_reader_beside_many_writers_misses_no_change(place: Place) {
    const WRITERS: usize = 8;
    const WRITES: usize = 15;
    let registry = place.open().await;
    let other = place.open().await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let registry = if writer % 2 == 0 { registry.clone() } else { other.clone() };
            tokio::spawn(async move {
                for number in 0..WRITES {
                    let app = format!("app-{writer}-{number}");
                    let further = format!("more-{writer}-{number}");
                    let edits =
                        [put(&app, Expect::Absent, "one"), put(&further, Expect::Absent, "one")];
                    // SQLite lets two programs in as it comes: one may wait too long.
                    while let Err(error) = registry.write(&edits, &somebody()).await {
                        let is_late =
                            matches!(error, WriteError::Registry(RegistryError::Locked(_)));
                        assert!(is_late, "{error}");
                    }
                }
            })
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    let mut now = Revision::ZERO;
    while seen.len() < WRITERS * WRITES * 2 {
        let changes = registry.changes_since(now).await.unwrap();
        for app in &changes.put {
            assert!(app.revision <= changes.now, "{} is beyond {}", app.revision, changes.now);
            assert!(seen.insert(app.id.clone()), "{} came twice", app.id);
        }
        assert!(changes.now >= now);
        now = changes.now;
        // What was missed does not come: the reader would wait for ever.
        let is_over = writers.iter().all(tokio::task::JoinHandle::is_finished);
        if is_over && registry.revision().await.unwrap() == now {
            break;
        }
    }
    assert_eq!(seen.len(), WRITERS * WRITES * 2);
}

async fn of_many_that_create_one_app_one_does(place: Place) {
    let registry = place.open().await;
    let writers: Vec<_> = (0..20)
        .map(|number| {
            let registry = registry.clone();
            tokio::spawn(async move {
                let edits = [put("blog", Expect::Absent, &number.to_string())];
                registry.write(&edits, &somebody()).await.is_ok()
            })
        })
        .collect();
    let mut winners = 0;
    for writer in writers {
        winners += u32::from(writer.await.unwrap());
    }
    assert_eq!(winners, 1);
    assert_eq!(registry.audit(None, None, 100).await.unwrap().len(), 1);
}

async fn a_write_that_is_dropped_blocks_nobody(place: Place) {
    let registry = place.open().await;
    write(&registry, "blog", "one").await;
    for number in 0..60 {
        let edits = [put("shop", Expect::Anything, "one"), put("zoo", Expect::Anything, "one")];
        let cut = Duration::from_micros(number * 100);
        let _ = tokio::time::timeout(cut, registry.write(&edits, &somebody())).await;
    }
    tokio::time::timeout(Duration::from_secs(5), write(&registry, "blog", "two")).await.unwrap();
    let there = ids(&registry).await;
    assert_eq!(there.contains(&"shop".to_owned()), there.contains(&"zoo".to_owned()));
}
