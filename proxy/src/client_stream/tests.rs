use tokio::net::UnixStream;

use tokio::io::AsyncWriteExt;

use super::{arrival::H2_PREFACE, *};
use crate::head::HeadError;

const LIMITS: HeadLimits = HeadLimits { size: 1024, target: 512, total: Duration::from_secs(3) };

fn pair() -> (UnixStream, ClientStream) {
    let (client, server) = UnixStream::pair().unwrap();
    (
        client,
        ClientStream::new(
            Transport::Unix(server),
            ConnFacts::new(None, None, false),
            Duration::from_secs(60),
        ),
    )
}

async fn head_of(stream: &mut ClientStream) -> Bytes {
    match stream.read_head(LIMITS).await.unwrap() {
        Arrival::Head(head) => head,
        other => panic!("no head: {other:?}"),
    }
}

#[tokio::test]
async fn a_pipelined_request_stays_out_of_the_body() {
    let (mut client, mut stream) = pair();
    client.write_all(b"POST /a HTTP/1.1\r\n\r\nhelloGET /b HTTP/1.1\r\n\r\n").await.unwrap();
    let head = head_of(&mut stream).await;
    stream.begin(head.clone(), BodyKind::Length(5), BodyLimits::default());
    let mut got = vec![0; head.len() + 5];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got[head.len()..], b"hello");
    assert!(stream.body_done());
    let more = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 9])).await;
    assert!(more.is_err(), "read past the body: {more:?}");
    assert_eq!(&head_of(&mut stream).await[..6], b"GET /b");
}

#[tokio::test]
async fn a_client_that_leaves_behind_the_body_is_seen() {
    let (mut client, mut stream) = pair();
    client.write_all(b"GET / HTTP/1.1\r\n\r\nGET").await.unwrap();
    let head = head_of(&mut stream).await;
    stream.begin(Bytes::new(), BodyKind::None, BodyLimits::default());
    drop((client, head));
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test]
async fn leaving_is_seen_while_a_body_waits_and_the_body_is_not_lost() {
    let (mut client, mut stream) = pair();
    client.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
    let head = head_of(&mut stream).await;
    client.write_all(b"hello").await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(20), stream.left()).await;
    assert!(waited.is_err(), "taken for gone");
    stream.begin(Bytes::new(), BodyKind::Length(5), BodyLimits::default());
    let mut got = [0; 5];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");
    client.write_all(b"x").await.unwrap();
    drop((client, head));
    stream.left().await;
}

#[tokio::test]
async fn heads_come_in_any_pieces() {
    let (mut client, mut stream) = pair();
    let whole = b"\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let writer = async {
        for byte in whole {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let ((), head) = tokio::join!(writer, head_of(&mut stream));
    assert_eq!(&head[..], &whole[2..]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_has_a_total_deadline() {
    let (mut client, mut stream) = pair();
    let drip = async {
        loop {
            client.write_all(b"X").await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        arrival = stream.read_head(LIMITS) => {
            assert!(matches!(arrival.unwrap(), Arrival::Late));
        }
        () = drip => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_ends_in_silence() {
    let (_client, mut stream) = pair();
    assert!(!stream.wait(Duration::from_secs(5)).await.unwrap());
}

#[tokio::test]
async fn too_much_head_is_refused_by_its_kind() {
    let (mut client, mut stream) = pair();
    client.write_all(format!("GET /{} ", "a".repeat(2000)).as_bytes()).await.unwrap();
    let arrival = stream.read_head(LIMITS).await.unwrap();
    assert!(matches!(arrival, Arrival::Refused(HeadError::TargetTooLong)), "{arrival:?}");
    let (mut client, mut stream) = pair();
    client
        .write_all(format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(2000)).as_bytes())
        .await
        .unwrap();
    let arrival = stream.read_head(LIMITS).await.unwrap();
    assert!(matches!(arrival, Arrival::Refused(HeadError::FieldsTooLarge)), "{arrival:?}");
}

#[tokio::test]
async fn http2_is_told_by_its_preface_and_read_from_the_start() {
    let (mut client, mut stream) = pair();
    client.write_all(H2_PREFACE).await.unwrap();
    assert!(matches!(stream.read_head(LIMITS).await.unwrap(), Arrival::Http2));
    let mut got = [0; H2_PREFACE.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, H2_PREFACE);
}

#[tokio::test]
async fn bad_chunks_are_noted_for_the_answer() {
    let (mut client, mut stream) = pair();
    client.write_all(b"zz\r\n").await.unwrap();
    stream.begin(Bytes::new(), BodyKind::UntilEnd, BodyLimits::default());
    stream.read(&mut [0; 9]).await.unwrap_err();
    assert_eq!(stream.facts().trouble(), Trouble::Chunking);
}

#[tokio::test]
async fn small_writes_are_gathered_and_large_ones_keep_their_order() {
    let (mut client, mut stream) = pair();
    let large = vec![7; 300_000];
    let write = async {
        stream.write_all(b"head").await.unwrap();
        stream.write_all(&large).await.unwrap();
        stream.write_all(b"tail").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.sent, 300_008);
        AsyncWriteExt::shutdown(&mut stream).await.unwrap();
    };
    let mut got = Vec::new();
    let ((), read) = tokio::join!(write, client.read_to_end(&mut got));
    read.unwrap();
    assert_eq!(&got[..4], b"head");
    assert_eq!(&got[4..300_004], &large[..]);
    assert_eq!(&got[300_004..], b"tail");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_given_up() {
    let (_client, mut stream) = pair();
    let error = stream.write_all(&vec![7; 10_000_000]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
