//! Server-sent events: cutting a byte stream into events without touching their bytes.
//!
//! INVARIANT: the concatenation of all blocks handed out plus the rest is the input.

use bytes::{Bytes, BytesMut};

/// One event as it came, blank line included.
#[derive(Debug, PartialEq, Eq)]
pub struct Block(pub Bytes);

impl Block {
    /// The event's data: its `data` lines joined by newlines; empty for comments and pings.
    #[must_use]
    pub fn data(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let lines = text.lines().filter_map(|line| line.strip_prefix("data:"));
        lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
    }
}

impl Block {
    /// The event without its `id` line: a stream of ours cannot be resumed, and must not be had
    /// again from behind us.
    #[must_use]
    pub fn without_id(&self) -> Bytes {
        let text = String::from_utf8_lossy(&self.0);
        let kept = text.split_inclusive('\n').filter(|line| !line.starts_with("id"));
        Bytes::from(kept.collect::<String>())
    }
}

/// Cuts blocks off an incoming stream.
#[derive(Debug, Default)]
pub struct Cutter {
    buffer: BytesMut,
    seen: usize,
}

impl Cutter {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes wait for the end of their event.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole event.
    pub fn next_block(&mut self) -> Option<Block> {
        let from = self.seen.saturating_sub(3);
        let tail = self.buffer.get(from..)?;
        let Some(end) = end_of_block(tail) else {
            self.seen = self.buffer.len();
            return None;
        };
        self.seen = 0;
        Some(Block(self.buffer.split_to(from + end).freeze()))
    }
}

/// Index just past the first blank line (LF or CRLF line ends).
fn end_of_block(bytes: &[u8]) -> Option<usize> {
    let lf = bytes.windows(2).position(|w| w == b"\n\n").map(|i| i + 2);
    let crlf = bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|i| i + 4);
    match (lf, crlf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// An event that carries one JSON-RPC message.
#[must_use]
pub fn message_event(json: &str) -> Bytes {
    Bytes::from(format!("event: message\ndata: {json}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn data_lines_are_joined() {
        let block =
            Block(Bytes::from_static(b"id: 1\nevent: message\ndata: {\"a\":\ndata: 1}\n\n"));
        assert_eq!(block.data(), "{\"a\":\n1}");
    }

    proptest! {
        #[test]
        fn cutting_is_independent_of_chunks(
            text in "(data: [a-z]{0,5}\r?\n(\r?\n)?){0,20}",
            cuts in proptest::collection::vec(1usize..7, 1..40),
        ) {
            let mut whole = Cutter::default();
            whole.push(text.as_bytes());
            let expected: Vec<_> = std::iter::from_fn(|| whole.next_block()).collect();
            let mut pieces = Cutter::default();
            let mut got = Vec::new();
            let (mut rest, mut i) = (text.as_bytes(), 0);
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(cuts[i % cuts.len()].min(rest.len()));
                pieces.push(head);
                got.extend(std::iter::from_fn(|| pieces.next_block()));
                (rest, i) = (tail, i + 1);
            }
            prop_assert_eq!(got, expected);
        }
    }
}
