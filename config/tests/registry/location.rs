//! Locations as operators write them.

use doorbell_config::registry::Location;

#[test]
fn both_kinds_are_read_and_shown() {
    for (text, shown) in [
        ("sqlite:/var/lib/doorbell/registry.db", "sqlite:/var/lib/doorbell/registry.db"),
        ("sqlite:///srv/a b?c.db", "sqlite:/srv/a b?c.db"),
        ("postgres://door@db.test/bell", "postgres://door@db.test:5432/bell"),
        ("postgresql://door@db.test:6432/bell", "postgres://door@db.test:6432/bell"),
        ("postgres://door@/bell?host=/run/pg", "postgres://door@/run/pg/bell"),
    ] {
        assert_eq!(text.parse::<Location>().unwrap().to_string(), shown);
    }
}

#[test]
fn a_password_is_never_shown() {
    for text in [
        "postgres://door:hunter2@db.test/bell?sslmode=require",
        "postgres://door@db.test/bell?password=hunter2",
        "postgres://door@db.test/bell?pasword=hunter2",
        "postgres://door@db.test/bell?sslmode=hunter2",
        "postgres://door:hunter2#x@db.test/bell",
        "postgres://door:hunter2/x@db.test/bell",
        "postgres://door:x?hunter2=y@db.test/bell",
        "mysql://door:hunter2@db.test/bell",
        "sqlite:hunter2",
    ] {
        let said = match text.parse::<Location>() {
            Ok(location) => format!("{location} {location:?}"),
            Err(error) => error.to_string(),
        };
        assert!(!said.contains("hunter2"), "{text}: {said}");
    }
}

#[test]
fn what_is_no_location_is_told_what_to_write() {
    for text in
        ["", "/var/lib/registry.db", "sqlite:", "sqlite:registry.db", "sqlite:/srv/", "mysql://x"]
    {
        let said = text.parse::<Location>().unwrap_err().to_string();
        assert!(said.contains("write"), "{text}: {said}");
    }
    let said = "postgres://x@y/z?ssl_mode=require".parse::<Location>().unwrap_err();
    assert!(said.to_string().contains("sslmode"), "{said}");
}
