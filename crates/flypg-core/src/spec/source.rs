//! The text of one file, and where in it things stand.

use super::diagnostics::{Code, Diagnostic, Excerpt, Place};

/// Files are written by people; more than this is a mistake or an attack.
pub const MAX_BYTES: usize = 256 * 1024;

/// A range of bytes in a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }
}

/// A decoded file: UTF-8, without its byte order mark.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
    /// Byte offset of the first character of each line.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    /// Decodes `bytes`, or says why it cannot.
    pub(crate) fn decode(file: &'a str, bytes: &'a [u8]) -> Result<Self, Box<Diagnostic>> {
        if bytes.len() > MAX_BYTES {
            let message = format!("this file is too large: at most {MAX_BYTES} bytes are read");
            let help = "a cluster takes about one kilobyte; split the clusters over several files";
            return Err(Diagnostic::error(Code::TooLarge, file, message).help(help).into());
        }
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || is_utf16_without_mark(bytes) {
            let help = "save it as UTF-8; for example `iconv -f UTF-16 -t UTF-8 old.yaml > new.yaml`";
            return Err(Diagnostic::error(Code::Encoding, file, "this file is UTF-16, not UTF-8").help(help).into());
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { file, text, lines: line_starts(text) }),
            Err(error) => Err(not_utf8(file, bytes, error.valid_up_to()).into()),
        }
    }

    /// Where `span` stands, ready to be shown. A span over several lines is shown by its first.
    pub(crate) fn place(&self, span: Span, label: impl Into<String>) -> Place {
        let start = floor_char(self.text, span.start);
        let line = self.lines.partition_point(|&offset| offset <= start).max(1) - 1;
        let offset = self.lines[line];
        let rest = &self.text[offset..];
        let content = &rest[..rest.find(['\n', '\r']).unwrap_or(rest.len())];
        let within = (start - offset).min(content.len());
        let end = floor_char(self.text, span.end).clamp(offset + within, offset + content.len()) - offset;
        let column = content[..within].chars().count();
        let length = content[within..end].chars().count();
        Place::new(self.file, line + 1, column + 1, length, Excerpt::of(content, column, length), label)
    }

    /// The empty span at a line and a column, both from 1, the column in characters.
    pub(crate) fn at(&self, line: usize, column: usize) -> Span {
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let offset = self.text[start..].char_indices().nth(column.saturating_sub(1)).map_or(0, |(offset, _)| offset);
        Span::new(start + offset, start + offset)
    }

    pub(crate) fn slice(&self, span: Span) -> &'a str {
        &self.text[floor_char(self.text, span.start)..floor_char(self.text, span.end)]
    }
}

/// Text with a NUL in every other byte, as UTF-16 of YAML has from its first character on.
fn is_utf16_without_mark(bytes: &[u8]) -> bool {
    matches!(bytes, [0, b, 0, d, ..] | [b, 0, d, 0, ..] if *b != 0 && *d != 0)
}

fn line_starts(text: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let breaks = bytes.iter().enumerate().filter_map(|(at, byte)| match byte {
        b'\n' => Some(at + 1),
        b'\r' if bytes.get(at + 1) != Some(&b'\n') => Some(at + 1),
        _ => None,
    });
    std::iter::once(0).chain(breaks).collect()
}

fn floor_char(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn not_utf8(file: &str, bytes: &[u8], at: usize) -> Diagnostic {
    let good = std::str::from_utf8(&bytes[..at]).expect("valid up to here, as the decoder said");
    let lines = line_starts(good);
    let offset = lines.last().copied().unwrap_or(0);
    let column = good[offset..].chars().count();
    let end = bytes[at..].iter().position(|b| matches!(b, b'\n' | b'\r')).map_or(bytes.len(), |n| at + n);
    let content = String::from_utf8_lossy(&bytes[offset..end]);
    let label = format!("byte 0x{:02x} does not belong here", bytes[at]);
    let place = Place::new(file, lines.len(), column + 1, 1, Excerpt::of(&content, column, 1), label);
    Diagnostic::error(Code::Encoding, file, "this file is not UTF-8").at(place).help("save it as UTF-8")
}
