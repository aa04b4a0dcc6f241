//! Server-sent events, as streamable HTTP carries JSON-RPC messages in them.
//!
//! Owns the cutting of a byte stream into events. Event names other than `message` are passed
//! over, ids and retry hints are not kept: a lost answer is asked for again, not resumed.
//!
//! INVARIANT: what waits for the end of an event never grows beyond the limit.

/// Cuts a stream into the data of its `message` events.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// Bytes of the line that has not ended.
    line: Vec<u8>,
    /// Data of the event that has not ended, one line feed between its lines.
    data: Vec<u8>,
    has_data: bool,
    is_message: bool,
    after_cr: bool,
    max_bytes: usize,
}

/// An event is larger than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Decoder {
    /// A decoder for events of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            line: Vec::new(),
            data: Vec::new(),
            has_data: false,
            is_message: true,
            after_cr: false,
            max_bytes,
        }
    }

    /// Takes the next bytes; gives the events that they end.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > self.max_bytes {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    /// Ends a line; an empty one ends the event.
    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let is_event = std::mem::take(&mut self.has_data) && self.is_message;
            self.is_message = true;
            return (is_event && !data.is_empty()).then_some(data);
        }
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (field, rest) = line.split_at(colon);
        let value = rest.strip_prefix(b":").unwrap_or(rest);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            b"event" => self.is_message = value.is_empty() || value == b"message",
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&str]) -> Vec<String> {
        let mut decoder = Decoder::new(64);
        let events = chunks.iter().flat_map(|chunk| decoder.push(chunk.as_bytes()).unwrap());
        events.map(|event| String::from_utf8(event).unwrap()).collect()
    }

    #[test]
    fn every_line_ending_and_every_cut_gives_the_same_events() {
        let text = ": hello\nid: 7\nevent: message\ndata: {\"a\":\ndata:1}\n\ndata: x\n\n";
        for ending in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', ending);
            for cut in 0..text.len() {
                let (first, second) = text.split_at(cut);
                assert_eq!(all(&[first, second]), ["{\"a\":\n1}", "x"], "{ending:?} {cut}");
            }
        }
    }

    #[test]
    fn other_events_and_empty_ones_are_passed_over() {
        let text = "event: ping\ndata: 1\n\ndata:\n\n\n\nevent\ndata: 2\n\ndata: cut off";
        assert_eq!(all(&[text]), ["2"]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut decoder = Decoder::new(8);
        assert_eq!(decoder.push(b"data: 12345678"), Err(TooLarge));
        let mut decoder = Decoder::new(8);
        assert_eq!(decoder.push(b"data:1\ndata:2\ndata:3\ndata:4\ndata:5\n"), Err(TooLarge));
    }
}
