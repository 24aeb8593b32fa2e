//! Server-sent events from bytes that may be split anywhere.
//!
//! Only the `data` field matters to model providers; comments, names and ids are passed over. Lines end
//! in LF, CR LF or CR, as the HTML standard says.

#[derive(Debug, Default)]
pub(super) struct Decoder {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_return: bool,
}

impl Decoder {
    /// The data of each event that `bytes` completed.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        for byte in bytes {
            let second_half = std::mem::take(&mut self.after_return) && *byte == b'\n';
            match byte {
                b'\n' if second_half => {}
                b'\n' | b'\r' => {
                    self.after_return = *byte == b'\r';
                    events.extend(self.end_line());
                }
                _ => self.line.push(*byte),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.data
                .extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
            self.has_data = true;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_events() {
        let text = "\u{feff}: hello\r\n\r\ndata: {\"a\":\"\u{e9}\u{1f6eb}\"}\r\n\r\nevent: x\rdata:b\rdata: c\r\rdata: d\n\nid: 1\n\n";
        let expected = ["{\"a\":\"\u{e9}\u{1f6eb}\"}", "b\nc", "d"];
        for first in 0..text.len() {
            for size in 1..5 {
                let mut decoder = Decoder::default();
                let (head, tail) = text.as_bytes().split_at(first);
                let mut events = decoder.feed(head);
                for chunk in tail.chunks(size) {
                    events.extend(decoder.feed(chunk));
                }
                let events: Vec<_> = events
                    .into_iter()
                    .map(|event| String::from_utf8(event).unwrap())
                    .collect();
                assert_eq!(events, expected, "split at {first}, then every {size}");
            }
        }
    }
}
