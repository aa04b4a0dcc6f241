//! The bridge over stdio: one JSON-RPC message a line, in and out.
//!
//! INVARIANT: nothing but messages is written. When the client goes, or the program is stopped,
//! what pays is finished and kept before this returns; what does not pay is dropped.

use super::{Bridge, send};
use crate::passage::Downstream;
use countersign_core::wire::jsonrpc::{self, Message};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{
        AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader,
    },
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Messages that wait to be written.
const WAITING_MAX: usize = 256;
/// Longest line that is read.
const LINE_BYTES_MAX: usize = 4 << 20;
/// How long requests that do not pay may still run after the client has gone.
const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a session at the server is waited for.
const FAREWELL: Duration = Duration::from_secs(2);

enum Line {
    Message(String),
    TooLong,
    End,
}

impl Bridge {
    /// Serves one client until it closes its output or `stop` becomes true.
    ///
    /// # Errors
    /// The client cannot be read from or written to.
    pub async fn serve_stdio(
        self: Arc<Self>,
        input: impl AsyncRead + Unpin,
        output: impl AsyncWrite + Unpin + Send + 'static,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let (out, waiting) = mpsc::channel(WAITING_MAX);
        let writing = tokio::spawn(write(waiting, output));
        let of = Arc::new(Downstream::default());
        let (mut running, mut following) = (JoinSet::new(), JoinSet::new());
        let mut input = BufReader::new(input);
        let mut buffer = Vec::new();
        let is_stopped = loop {
            let line = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break true,
                Some(_) = running.join_next() => continue,
                line = read_line(&mut input, &mut buffer) => line?,
            };
            match line {
                Line::End => break false,
                Line::TooLong => {
                    let message = "the message is larger than this client may send";
                    send(&out, jsonrpc::error(None, -32600, message, None)).await;
                }
                Line::Message(text) if is_request(&text) => {
                    let (bridge, of, out) = (Arc::clone(&self), Arc::clone(&of), out.clone());
                    running.spawn(async move { bridge.take(&of, out, &text).await });
                }
                Line::Message(text) => {
                    // In order: what follows an `initialized` counts on it.
                    self.take(&of, out.clone(), &text).await;
                    if text.contains("notifications/initialized") && following.is_empty() {
                        let (bridge, of, out) = (Arc::clone(&self), Arc::clone(&of), out.clone());
                        following.spawn(async move { bridge.follow(&of, &out).await });
                    }
                }
            }
        };
        self.finish(&of, &mut running, is_stopped, stop).await;
        following.shutdown().await;
        drop(out);
        writing.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    }

    /// Waits for what pays, and a little for what does not.
    async fn finish(
        &self,
        of: &Downstream,
        running: &mut JoinSet<()>,
        is_stopped: bool,
        mut stop: watch::Receiver<bool>,
    ) {
        if !is_stopped {
            tokio::select! {
                () = all(running) => {}
                () = tokio::time::sleep(GRACE) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        of.withdraw_all();
        all(running).await;
        let _unheard = tokio::time::timeout(FAREWELL, self.client.close_for(of)).await;
    }
}

async fn all(running: &mut JoinSet<()>) {
    while running.join_next().await.is_some() {}
}

fn is_request(text: &str) -> bool {
    matches!(Message::parse_relayed(text.as_bytes(), text.len()), Ok(Message::Request(_)))
}

/// Reads a line; one that is too long is passed over to its end. What was read of a line stays in
/// `buffer` when this is dropped.
async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    buffer: &mut Vec<u8>,
) -> io::Result<Line> {
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return Ok(Line::End);
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let (line, _) = available.split_at(end.unwrap_or(available.len()));
        if buffer.len() <= LINE_BYTES_MAX {
            buffer.extend_from_slice(line);
        }
        let used = line.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_none() {
            continue;
        }
        let line = std::mem::take(buffer);
        if line.len() > LINE_BYTES_MAX {
            return Ok(Line::TooLong);
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        if !text.is_empty() {
            return Ok(Line::Message(text));
        }
    }
}

async fn write(
    mut waiting: mpsc::Receiver<String>,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(mut message) = waiting.recv().await {
        message.push('\n');
        output.write_all(message.as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}
