//! The payloads that one message holds.

use std::sync::Arc;

use crate::reading::Frame;

/// The most payloads of one message; what is behind them is one that is too large.
const PIECES_MAX: usize = 16_384;

/// The payloads of one message, as frames of their own.
#[derive(Debug)]
pub struct Pieces<'f> {
    frame: Frame<'f>,
    /// What was not given yet.
    rest: Option<&'f [u8]>,
    delimiter: Option<Arc<str>>,
    given: usize,
}

impl<'f> Pieces<'f> {
    /// All that stands between delimiters and is not blank; a message that is blank is one piece.
    pub(super) fn new(frame: Frame<'f>, delimiter: Option<Arc<str>>) -> Self {
        let delimiter = delimiter.filter(|_| !frame.payload.trim_ascii().is_empty());
        Self { frame, rest: Some(frame.payload), delimiter, given: 0 }
    }
}

impl<'f> Iterator for Pieces<'f> {
    type Item = Frame<'f>;

    fn next(&mut self) -> Option<Frame<'f>> {
        let Some(delimiter) = &self.delimiter else {
            return self.rest.take().map(|_| self.frame);
        };
        loop {
            let rest = self.rest?;
            if self.given == PIECES_MAX {
                self.rest = None;
                return Some(Frame { payload: rest, oversize: Some(rest.len() as u64), ..self.frame });
            }
            let found = rest.windows(delimiter.len()).position(|window| window == delimiter.as_bytes());
            let (piece, behind) = match found {
                Some(at) => (&rest[..at], rest.get(at + delimiter.len()..)),
                None => (rest, None),
            };
            self.rest = behind;
            if !piece.trim_ascii().is_empty() {
                self.given += 1;
                // Lines of other systems.
                let payload = piece.strip_suffix(b"\r").filter(|_| &**delimiter == "\n").unwrap_or(piece);
                return Some(Frame { payload, ..self.frame });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(payload: &str, delimiter: Option<&str>) -> Vec<String> {
        let frame = Frame { origin: "t", payload: payload.as_bytes(), retained: true, oversize: None };
        let pieces = Pieces::new(frame, delimiter.map(Arc::from));
        pieces.map(|piece| String::from_utf8(piece.payload.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_message_falls_into_its_payloads() {
        assert_eq!(pieces("a\r\nb\n\n c", Some("\n")), ["a", "b", " c"]);
        assert_eq!(pieces("a;;b;c;;", Some(";;")), ["a", "b;c"]);
        assert_eq!(pieces("a\r;b", Some(";")), ["a\r", "b"]);
        assert_eq!(pieces("a\nb", None), ["a\nb"]);
    }

    #[test]
    fn the_payloads_of_a_message_are_bounded() {
        let payload = "1\n".repeat(PIECES_MAX + 5);
        let frame = Frame { origin: "t", payload: payload.as_bytes(), retained: false, oversize: None };
        let pieces: Vec<_> = Pieces::new(frame, Some(Arc::from("\n"))).collect();
        assert_eq!(pieces.len(), PIECES_MAX + 1);
        assert_eq!(pieces.last().and_then(|piece| piece.oversize), Some(10));
    }

    #[test]
    fn a_message_is_at_least_one_payload() {
        assert_eq!(pieces("", Some("\n")), [""]);
        assert_eq!(pieces("\n\n", Some("\n")), ["\n\n"]);
        assert_eq!(pieces("", None), [""]);
    }
}
