use std::{
    fs::File,
    io::{Read, Seek, Write},
};

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { text: 1 << 20, descriptors: 4 };

fn pair() -> ((Sender, Receiver<String>), (Sender, Receiver<String>)) {
    let (ours, theirs) = StdStream::pair().unwrap();
    (open(ours, LIMITS).unwrap(), open(theirs, LIMITS).unwrap())
}

/// What becomes of these bytes.
async fn read(bytes: &[u8]) -> io::Result<Vec<String>> {
    let (mut ours, theirs) = StdStream::pair().unwrap();
    let (_sender, mut receiver) = open::<String>(theirs, LIMITS).unwrap();
    let bytes = bytes.to_vec();
    let writing = tokio::task::spawn_blocking(move || {
        // The other side may hang up before everything is said.
        let _ = ours.write_all(&bytes);
    });
    let mut messages = Vec::new();
    let outcome = loop {
        match receiver.next().await {
            Ok(Some((message, _))) => messages.push(message),
            Ok(None) => break Ok(messages),
            Err(error) => break Err(error),
        }
    };
    drop(receiver);
    writing.await.unwrap();
    outcome
}

#[tokio::test]
async fn messages_arrive_whole_and_in_order() {
    let ((sender, _), (_, mut receiver)) = pair();
    let long = "x".repeat(500_000);
    let texts: Vec<String> = (0..100).map(|n| format!("{n} {long}")).collect();
    for text in &texts {
        sender.send(text).unwrap();
    }
    for text in &texts {
        assert_eq!(&receiver.next().await.unwrap().unwrap().0, text);
    }
}

#[tokio::test]
async fn the_end_comes_behind_the_last_message() {
    let ((sender, ours), (_theirs, mut receiver)) = pair();
    sender.send(&"last").unwrap();
    drop((sender, ours));
    assert_eq!(receiver.next().await.unwrap().unwrap().0, "last");
    assert!(receiver.next().await.unwrap().is_none());
}

#[tokio::test]
async fn descriptors_come_with_their_message() {
    let ((sender, _), (_, mut receiver)) = pair();
    for n in 0..50_u8 {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[n]).unwrap();
        let file = Arc::new(OwnedFd::from(file));
        let descriptors = vec![file; usize::from(n % 3)];
        sender.send_frame(Frame::with(&n.to_string(), descriptors).unwrap()).unwrap();
    }
    for n in 0..50_u8 {
        let (text, descriptors) = receiver.next().await.unwrap().unwrap();
        assert_eq!((text, descriptors.len()), (n.to_string(), usize::from(n % 3)));
        for descriptor in descriptors {
            let (mut file, mut content) = (File::from(descriptor), Vec::new());
            file.rewind().unwrap();
            file.read_to_end(&mut content).unwrap();
            assert_eq!(content, [n]);
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_is_told() {
    let ((sender, mut receiver), theirs) = pair();
    drop(theirs);
    assert!(receiver.next().await.unwrap().is_none());
    // What is sent into the void ends the sending.
    let _ = sender.send(&"hello");
    sender.closed().await;
    assert_eq!(sender.send(&"hello"), Err(Gone));
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection() {
    let frame =
        |length: u32, count: u8, text: &[u8]| [&length.to_le_bytes()[..], &[count], text].concat();
    let good = frame(4, 0, b"\"ab\"");
    assert_eq!(read(&good).await.unwrap(), ["ab"]);
    for bad in [
        frame(4, 0, b"abcd"),
        frame(4, 1, b"\"ab\""),
        frame(4, 255, b"\"ab\""),
        frame(u32::MAX, 0, b""),
        frame(1 << 21, 0, b""),
        frame(5, 0, b"\"ab\""),
        b"\x01".to_vec(),
    ] {
        let error = read(&[good.clone(), bad].concat()).await.unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}

#[tokio::test]
async fn descriptors_that_no_message_speaks_of_end_the_connection() {
    let (ours, theirs) = StdStream::pair().unwrap();
    let (_sender, mut receiver) = open::<String>(theirs, LIMITS).unwrap();
    ours.set_nonblocking(true).unwrap();
    let ours = UnixStream::from_std(ours).unwrap();
    let file = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
    let many = vec![file; 200];
    let text = [&4_u32.to_le_bytes()[..], &[0], b"\"ab\""].concat();
    let flood = async {
        for _ in 0..10 {
            if ours.async_io(Interest::WRITABLE, || try_write(&ours, &text, &many)).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        loop {
            if let Err(error) = receiver.next().await {
                break error;
            }
        }
    };
    tokio::select! {
        error = reading => assert!(error.to_string().contains("descriptors"), "{error}"),
        () = flood => unreachable!("it never ends"),
    }
}

proptest! {
    #[test]
    fn nothing_that_comes_in_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Any outcome is good but a panic, or none.
        let _ = runtime.block_on(read(&bytes));
    }
}
