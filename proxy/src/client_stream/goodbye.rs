//! A connection's end, so that the last answer arrives.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
};

use super::{ClientStream, Phase};
use crate::transport::Transport;

/// How long the rest of an answer may take to send when the connection is given up.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Connections that are closed gently at once; beyond it they are just closed.
static LINGERING: Semaphore = Semaphore::const_new(1024);

/// Says goodbye so that the client can read the last answer: a close with unread data in the socket
/// would reset the connection under it (RFC 9112 section 9.6).
pub async fn close_gently(mut io: Transport) {
    const PATIENCE: Duration = Duration::from_secs(2);
    const MOST: usize = 4 * 1024 * 1024;
    let _place = match LINGERING.try_acquire() {
        Ok(place) => place,
        // Too many goodbyes at once: this one is short.
        Err(_) => return,
    };
    let goodbye = async {
        io.shutdown().await?;
        let mut sink = BytesMut::with_capacity(16 * 1024);
        let mut total = 0;
        while total < MOST {
            sink.clear();
            match io.read_buf(&mut sink).await? {
                0 => break,
                n => total += n,
            }
        }
        Ok::<_, io::Error>(())
    };
    // Either way the connection ends here; there is nobody left to tell.
    drop(tokio::time::timeout(PATIENCE, goodbye).await);
}

impl Drop for ClientStream {
    /// An answer given while the client still sends must not be lost to a reset, and the beginning
    /// of one that broke off is still sent.
    fn drop(&mut self) {
        let unread = matches!(&self.phase, Phase::Request(body) if !body.is_done());
        let unsent = !self.gathered.is_empty();
        if let (true, Some(mut io)) = (unsent || (unread && self.sent > 0), self.io.take())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let gathered = std::mem::take(&mut self.gathered);
            runtime.spawn(async move {
                let last = tokio::time::timeout(LAST_WORDS, io.write_all(&gathered)).await;
                if matches!(last, Ok(Ok(()))) {
                    close_gently(io).await;
                }
            });
        }
    }
}
