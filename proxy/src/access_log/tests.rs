use super::*;

fn record() -> AccessRecord<'static> {
    AccessRecord {
        client: Some([192, 0, 2, 7].into()),
        authorization: None,
        method: "GET",
        target: b"/a?b=\"\x1b",
        version: "HTTP/1.1",
        host: "blog.example",
        status: 200,
        sent_bytes: 12,
        received_bytes: 0,
        referer: None,
        user_agent: Some(b"curl/8"),
        took: Duration::from_millis(2),
        held: Duration::ZERO,
        app: Some("blog"),
        request_id: "id-1",
    }
}

fn line(format: AccessLogFormat) -> String {
    let mut out = Vec::new();
    record().write(format, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn combined_is_nginx_byte_for_byte() {
    let line = line(AccessLogFormat::Combined);
    let (start, rest) = line.split_once('[').unwrap();
    let (_, end) = rest.split_once(']').unwrap();
    assert_eq!(start, "192.0.2.7 - - ");
    assert_eq!(end, " \"GET /a?b=\\x22\\x1B HTTP/1.1\" 200 12 \"-\" \"curl/8\"\n");
}

#[test]
fn the_user_is_told_escaped_and_the_password_is_not() {
    let mut out = Vec::new();
    // `al"ice:secret`
    let record = AccessRecord { authorization: Some(b"Basic YWwiaWNlOnNlY3JldA=="), ..record() };
    record.write(AccessLogFormat::Combined, &mut out);
    record.write(AccessLogFormat::Json, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.starts_with("192.0.2.7 - al\\x22ice ["), "{text}");
    assert!(text.contains(r#""user_id":"al\"ice""#), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn json_has_caddys_keys_on_one_line() {
    let line = line(AccessLogFormat::Json);
    assert_eq!(line.matches('\n').count(), 1);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["request"]["remote_ip"], "192.0.2.7");
    assert_eq!(value["request"]["headers"]["User-Agent"][0], "curl/8");
    assert_eq!(value["status"], 200);
    assert_eq!(value["doorbell"]["app"], "blog");
}

#[test]
fn every_line_reaches_the_file_also_across_a_reopen() {
    let folder = std::env::temp_dir().join(format!("doorbell-log-{}", std::process::id()));
    let path = folder.join("access.log");
    let moved = folder.join("access.log.1");
    std::fs::create_dir_all(&folder).unwrap();
    let open = || {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        LogSink::File(file)
    };
    let metrics = Arc::new(ServerMetrics::default());
    let log = AccessLog::start(AccessLogFormat::Combined, open(), Arc::clone(&metrics)).unwrap();
    for _ in 0..1000 {
        log.record(&record());
    }
    std::fs::rename(&path, &moved).unwrap();
    log.turn_to(open());
    for _ in 0..1000 {
        log.record(&record());
    }
    log.close();
    let count = |path| std::fs::read_to_string(path).unwrap_or_default().lines().count();
    assert_eq!(count(&path) + count(&moved), 2000);
    assert_eq!(metrics.log_lines_dropped.load(Ordering::Relaxed), 0);
    std::fs::remove_dir_all(folder).unwrap();
}
