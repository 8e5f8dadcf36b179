//! Secrets: whose they are, and what they are changed with.

use doorbell_config::registry::{Edit, Expect, Owner, What};

use crate::place::{Place, edit, id, of, somebody, write};

crate::on_both!(
    secrets_leave_their_app_as_it_is,
    what_a_files_app_has_is_no_business_of_the_registrys_of_its_id,
    a_secret_is_resealed_only_as_it_was_read,
);

async fn secrets_leave_their_app_as_it_is(place: Place) {
    let registry = place.open().await;
    let put_secret = |sealed: &[u8]| What::PutSecret { name: "key".into(), sealed: sealed.into() };

    let last = write(&registry, "blog", "one").await;
    for sealed in [&b"1"[..], b"", &[0, 255, 0]] {
        let edits = [edit("blog", Expect::Revision(last), put_secret(sealed))];
        registry.write(&edits, &somebody()).await.unwrap();
        let secrets = registry.secrets(&of("blog")).await.unwrap();
        assert_eq!((secrets.len(), &*secrets[0].sealed), (1, sealed));
        assert!(!format!("{secrets:?}").contains("255"));
    }
    let keep = |name: &str| {
        let what = What::KeepSecret { name: name.into(), sealed: b"kept".to_vec() };
        [edit("blog", Expect::Revision(last), what)]
    };
    registry.write(&keep("key"), &somebody()).await.unwrap();
    registry.write(&keep("other"), &somebody()).await.unwrap();
    let secrets = registry.secrets(&of("blog")).await.unwrap();
    assert_eq!((&*secrets[0].sealed, &*secrets[1].sealed), (&[0, 255, 0][..], &b"kept"[..]));
    let remove = [edit("blog", Expect::Revision(last), What::RemoveSecret { name: "key".into() })];
    registry.write(&remove, &somebody()).await.unwrap();
    assert_eq!(registry.secrets(&of("blog")).await.unwrap().len(), 1);
    assert_eq!(registry.app(&id("blog")).await.unwrap().unwrap().revision, last);
}

/// An app of a file is not here, and has secrets and a version too.
async fn what_a_files_app_has_is_no_business_of_the_registrys_of_its_id(place: Place) {
    let registry = place.open().await;
    let of_file = Owner::File(id("blog"));
    let put_secret = |is_of_file, sealed: &[u8]| {
        let what = What::PutSecret { name: "key".into(), sealed: sealed.into() };
        Edit { is_of_file, ..edit("blog", Expect::Anything, what) }
    };
    let reach = What::Reach("7".into());
    let reach = Edit { is_of_file: true, ..edit("blog", Expect::Anything, reach) };
    registry.write(&[put_secret(true, b"file's"), reach], &somebody()).await.unwrap();
    assert!(registry.app(&id("blog")).await.unwrap().is_none());
    let is_there = async || {
        let secrets = registry.secrets(&of_file).await.unwrap();
        assert_eq!((secrets.len(), &*secrets[0].sealed), (1, &b"file's"[..]));
        assert_eq!(registry.upgraded_to(&of_file).await.unwrap().as_deref(), Some("7"));
    };
    write(&registry, "blog", "one").await;
    assert_eq!(registry.secrets(&of("blog")).await.unwrap(), []);
    assert_eq!(registry.upgraded_to(&of("blog")).await.unwrap(), None);
    registry.write(&[put_secret(false, b"registry's")], &somebody()).await.unwrap();
    is_there().await;
    let rename = |from: &str, to| edit(from, Expect::Present, What::Rename(id(to)));
    registry.write(&[rename("blog", "news")], &somebody()).await.unwrap();
    is_there().await;
    assert_eq!(&*registry.secrets(&of("news")).await.unwrap()[0].sealed, b"registry's");
    registry.write(&[rename("news", "blog")], &somebody()).await.unwrap();
    is_there().await;
    let mut owners = registry.owners_of_secrets().await.unwrap();
    owners.sort();
    assert_eq!(owners, [of("blog"), of_file.clone()]);
    let delete = [edit("blog", Expect::Present, What::Delete)];
    registry.write(&delete, &somebody()).await.unwrap();
    is_there().await;
    assert_eq!(registry.owners_of_secrets().await.unwrap(), std::slice::from_ref(&of_file));
}

async fn a_secret_is_resealed_only_as_it_was_read(place: Place) {
    let registry = place.open().await;
    let put_secret = |app: &str, sealed: &[u8]| {
        let what = What::PutSecret { name: "key".into(), sealed: sealed.into() };
        edit(app, Expect::Anything, what)
    };
    let secrets = [put_secret("blog", b"old"), put_secret("shop", b"old")];
    registry.write(&secrets, &somebody()).await.unwrap();
    let mut owners = registry.owners_of_secrets().await.unwrap();
    owners.sort();
    assert_eq!(owners, [of("blog"), of("shop")]);
    let before = registry.secrets(&of("blog")).await.unwrap().remove(0);
    // Somebody stores another value between the reading and the writing.
    registry.write(&[put_secret("shop", b"newer")], &somebody()).await.unwrap();
    let reseal = |app: &str| {
        let (was, sealed) = (b"old".to_vec(), b"resealed".to_vec());
        edit(app, Expect::Anything, What::Reseal { name: "key".into(), was, sealed })
    };
    registry.write(&[reseal("blog"), reseal("shop")], &somebody()).await.unwrap();
    let blog = registry.secrets(&of("blog")).await.unwrap().remove(0);
    assert_eq!((&*blog.sealed, blog.changed_at), (&b"resealed"[..], before.changed_at));
    let shop = registry.secrets(&of("shop")).await.unwrap().remove(0);
    assert_eq!(&*shop.sealed, b"newer");
}
