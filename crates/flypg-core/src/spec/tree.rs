//! YAML as a tree in which everything knows where it stands. Bounded in depth and size; what a cluster file has no
//! use for (anchors, aliases, tags, merge keys) is refused, so that a file means what it shows.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use super::diagnostics::{Code, Diagnostic, Report, quoted};
use super::source::{Source, Span};

pub(crate) const MAX_DEPTH: usize = 64;
pub(crate) const MAX_NODES: usize = 20_000;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Was refused already; nothing more is to be said about it.
    Refused,
}

#[derive(Debug)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Without quotes, so that it may be a number, a boolean or null.
    pub(crate) plain: bool,
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    /// A mapping's entries, in the order of the file; of anything else, none.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    pub(crate) fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// What a path such as `spec.regions.replicas.0.code` leads to, or the nearest thing above it that is there: of
    /// a mapping's entry that is missing below, the key.
    pub(crate) fn span_of(&self, path: &str) -> Span {
        let (mut node, mut nearest) = (self, self.first_key());
        for segment in path.split('.').filter(|s| !s.is_empty()) {
            match &node.value {
                Value::Mapping(_) => match node.entry(segment) {
                    Some(entry) => (node, nearest) = (&entry.value, entry.key_span),
                    None => return nearest,
                },
                Value::Sequence(items) => match segment.parse().ok().and_then(|at: usize| items.get(at)) {
                    Some(item) => (node, nearest) = (item, item.first_key()),
                    None => return nearest,
                },
                Value::Scalar(_) | Value::Refused => return nearest,
            }
        }
        match node.value {
            Value::Scalar(_) => node.span,
            _ => nearest,
        }
    }

    fn first_key(&self) -> Span {
        match &self.value {
            Value::Mapping(entries) => entries.first().map_or(self.span, |entry| entry.key_span),
            _ => self.span,
        }
    }
}

/// The documents of `source`, in order; what follows a syntax error is not read.
pub(crate) fn read(source: &Source<'_>, report: &mut Report) -> Vec<Node> {
    let mut builder = Builder::new(source, report);
    for event in Parser::new_from_str(source.text) {
        let more = match event {
            Ok((event, span)) => {
                let span = builder.offsets.span(&span);
                builder.accept(event, span)
            }
            Err(error) => {
                builder.syntax(&error);
                false
            }
        };
        if !more {
            break;
        }
    }
    builder.documents
}

/// The parser counts characters, we count bytes.
struct Offsets(Option<Vec<usize>>);

impl Offsets {
    fn new(text: &str) -> Self {
        Self((!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()))
    }

    fn byte(&self, character: usize) -> usize {
        match &self.0 {
            None => character,
            Some(bytes) => bytes.get(character).or(bytes.last()).copied().unwrap_or(0),
        }
    }

    fn span(&self, span: &saphyr_parser::Span) -> Span {
        Span::new(self.byte(span.start.index()), self.byte(span.end.index()))
    }
}

/// A collection whose end has not come yet.
enum Open {
    Sequence { start: Span, items: Vec<Node>, refused: bool },
    Mapping { start: Span, entries: Vec<Entry>, key: Option<(String, Span)>, refused: bool },
}

struct Builder<'a> {
    source: &'a Source<'a>,
    report: &'a mut Report,
    offsets: Offsets,
    open: Vec<Open>,
    nodes: usize,
    /// Where the last event ended: an anchor or a tag stands between there and its node.
    last_end: usize,
    documents: Vec<Node>,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Source<'a>, report: &'a mut Report) -> Self {
        let offsets = Offsets::new(source.text);
        Self { source, report, offsets, open: Vec::new(), nodes: 0, last_end: 0, documents: Vec::new() }
    }

    /// Takes the next event. False once reading on would tell nothing more.
    fn accept(&mut self, event: Event<'_>, span: Span) -> bool {
        let more = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let refused = self.refuse_properties(anchor, tag.is_some(), span);
                self.scalar(text, style, span, refused)
            }
            Event::Alias(_) => {
                self.unsupported(span, "aliases are not taken", "written out in full, a file shows what it asks for");
                self.node(Node { span, value: Value::Refused })
            }
            Event::SequenceStart(anchor, tag) => {
                let refused = self.refuse_properties(anchor, tag.is_some(), span);
                self.open(Open::Sequence { start: span, items: Vec::new(), refused })
            }
            Event::MappingStart(anchor, tag) => {
                let refused = self.refuse_properties(anchor, tag.is_some(), span);
                self.open(Open::Mapping { start: span, entries: Vec::new(), key: None, refused })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::DocumentStart(_) | Event::DocumentEnd | Event::StreamStart | Event::StreamEnd | Event::Nothing => {
                true
            }
        };
        self.last_end = self.last_end.max(span.end);
        more
    }

    fn scalar(&mut self, text: Cow<'_, str>, style: ScalarStyle, span: Span, refused: bool) -> bool {
        let plain = style == ScalarStyle::Plain;
        if let Some(Open::Mapping { key: key @ None, .. }) = self.open.last_mut() {
            *key = Some((text.clone().into_owned(), span));
            if text == "<<" {
                self.unsupported(span, "merge keys are not taken", "write the fields out where they belong");
            }
            return true;
        }
        let value = if refused { Value::Refused } else { Value::Scalar(Scalar { text: text.into_owned(), plain }) };
        self.node(Node { span, value })
    }

    fn open(&mut self, collection: Open) -> bool {
        let (Open::Sequence { start, .. } | Open::Mapping { start, .. }) = collection;
        if let Some(Open::Mapping { key: None, .. }) = self.open.last() {
            self.unsupported(start, "a key must be plain text", "write the key without brackets or braces");
            return false;
        }
        if self.open.len() >= MAX_DEPTH {
            self.too_deep(start);
            return false;
        }
        self.open.push(collection);
        true
    }

    fn close(&mut self, end: Span) -> bool {
        let node = match self.open.pop() {
            Some(Open::Sequence { start, items, refused }) => {
                let value = if refused { Value::Refused } else { Value::Sequence(items) };
                Node { span: Span::new(start.start, end.end), value }
            }
            Some(Open::Mapping { start, entries, refused, .. }) => {
                let entries = self.without_duplicates(entries);
                let value = if refused { Value::Refused } else { Value::Mapping(entries) };
                Node { span: Span::new(start.start, end.end), value }
            }
            None => return false,
        };
        self.node(node)
    }

    /// Puts a complete node where it belongs.
    fn node(&mut self, mut node: Node) -> bool {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let place = self.source.place(node.span, format!("value number {MAX_NODES}"));
            let message = "this file holds too many values";
            self.report.add(Diagnostic::error(Code::TooLarge, self.source.file, message).at(place));
            return false;
        }
        match self.open.last_mut() {
            None => self.documents.push(node),
            Some(Open::Sequence { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, key, .. }) => match key.take() {
                Some((key, key_span)) => {
                    if node.span.start == node.span.end && matches!(node.value, Value::Scalar(_)) {
                        node.span = key_span; // nothing is written there: its key stands for it
                    }
                    entries.push(Entry { key, key_span, value: node });
                }
                None => {
                    self.unsupported(node.span, "a key must be plain text", "write the key without brackets or braces");
                    return false;
                }
            },
        }
        true
    }

    fn without_duplicates(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut first: BTreeMap<String, Span> = BTreeMap::new();
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            match first.get(&entry.key) {
                None => {
                    first.insert(entry.key.clone(), entry.key_span);
                    kept.push(entry);
                }
                Some(_) if self.report.is_full() => {
                    let message = "duplicate key";
                    self.report.add(Diagnostic::error(Code::DuplicateKey, self.source.file, message));
                }
                Some(&earlier) => {
                    let message = format!("the key {} stands here twice", quoted(&entry.key));
                    self.report.add(
                        Diagnostic::error(Code::DuplicateKey, self.source.file, message)
                            .at(self.source.place(entry.key_span, "the second"))
                            .related(self.source.place(earlier, "the first"))
                            .help("keep one of them"),
                    );
                }
            }
        }
        kept
    }

    /// Whether the node whose event spans `span` has an anchor or a tag, which is then reported.
    fn refuse_properties(&mut self, anchor: usize, tagged: bool, span: Span) -> bool {
        if anchor == 0 && !tagged {
            return false;
        }
        let (sign, what, help) = if tagged {
            ('!', "tags are not taken", "write the value alone; put text that looks like a number in quotes")
        } else {
            ('&', "anchors are not taken", "without aliases an anchor has no use; remove it")
        };
        let between = self.source.slice(Span::new(self.last_end, span.start.max(self.last_end)));
        let at = match between.find(sign) {
            Some(offset) => {
                let start = self.last_end + offset;
                let length = between[offset..].find(char::is_whitespace).unwrap_or(between.len() - offset);
                Span::new(start, start + length)
            }
            None => span,
        };
        self.unsupported(at, what, help);
        true
    }

    fn unsupported(&mut self, span: Span, message: &str, help: &str) {
        let place = self.source.place(span, "");
        self.report.add(Diagnostic::error(Code::Unsupported, self.source.file, message).at(place).help(help));
    }

    fn too_deep(&mut self, span: Span) {
        let message = format!("this file is nested more than {MAX_DEPTH} deep");
        let place = self.source.place(Span::new(span.start, span.start), "too deep from here on");
        self.report.add(Diagnostic::error(Code::TooDeep, self.source.file, message).at(place));
    }

    fn syntax(&mut self, error: &ScanError) {
        let at = self.offsets.byte(error.marker().index()).min(self.source.text.len());
        let info = error.info();
        if info == "recursion limit exceeded" {
            return self.too_deep(Span::new(at, at));
        }
        let text = self.source.text;
        let line_start = text[..at].rfind(['\n', '\r']).map_or(0, |end| end + 1);
        let before = &text[line_start..at];
        let (sentence, help) = plain_words(info, before);
        // Of what ends too early, the end of the last line that says something is a better place than the end of file.
        let at = match before.rfind('\t') {
            Some(tab) if sentence.contains("tab") => line_start + tab, // it is noticed one character later
            None if sentence.contains("tab") => indenting_tab(text, line_start).unwrap_or(at), // or many lines earlier
            _ if text[at..].trim_start().is_empty() => text.trim_end().len(),
            _ if sentence == NO_KEY_HERE => line_start + before.len() - before.trim_start().len(),
            _ => at,
        };
        let rest = &text[at..];
        let length = match sentence == NO_KEY_HERE {
            true => rest.find(':').unwrap_or(0),
            false => rest.chars().next().filter(|c| !matches!(c, '\n' | '\r')).map_or(0, char::len_utf8),
        };
        let place = self.source.place(Span::new(at, at + length), sentence);
        let mut diagnostic = Diagnostic::error(Code::Syntax, self.source.file, "this is not YAML").at(place);
        if let Some(Open::Sequence { start, .. } | Open::Mapping { start, .. }) = self.open.last()
            && text[start.start..].starts_with(['{', '['])
        {
            let bracket = Span::new(start.start, start.start + 1);
            diagnostic = diagnostic.related(self.source.place(bracket, "opened here"));
        }
        self.report.add(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }
}

/// Where the first tab stands that indents a line, from the line that starts at `from` on.
fn indenting_tab(text: &str, from: usize) -> Option<usize> {
    let mut start = from;
    for line in text[from..].split_inclusive(['\n', '\r']) {
        let indent = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
        if let Some(tab) = indent.find('\t') {
            return Some(start + tab);
        }
        start += line.len();
    }
    None
}

const NO_KEY_HERE: &str = "a key cannot stand here";

/// The parser's message in words that do not need its source, and what usually helps.
/// `before` is what stands on the line before the place.
fn plain_words(info: &str, before: &str) -> (String, Option<&'static str>) {
    let (sentence, help) = match info {
        "tab cannot be used as indentation"
        | "tabs disallowed in this context"
        | "tabs disallowed within this context (block indentation)"
        | "a block scalar content cannot start with a tab"
        | "while scanning a plain scalar, found a tab" => ("a tab is not indentation", Some("indent with spaces")),
        "mapping values are not allowed in this context" if !before.contains(':') => {
            (NO_KEY_HERE, Some("fields of one mapping start in the same column, and each has a `:` after its name"))
        }
        "mapping values are not allowed in this context" => {
            ("a second `:` on one line", Some("put text that contains `: ` in quotes, or begin a new line"))
        }
        "simple key expect ':'" | "simple key expected" => ("expected `:` after this key", Some("write `key: value`")),
        "while parsing a flow mapping, did not find expected ',' or '}'" => ("expected `,` or `}`", None),
        "while parsing a flow sequence, expected ',' or ']'" => ("expected `,` or `]`", None),
        "misplaced bracket" => ("this bracket closes nothing", None),
        "while scanning a quoted scalar, found unexpected end of stream" | "invalid indentation in quoted scalar" => {
            ("this text has no closing quote", Some("close it on the same line"))
        }
        "while parsing a block mapping, did not find expected key" | "invalid indentation" => {
            ("expected a key here", Some("fields that belong together start in the same column"))
        }
        "while parsing a block collection, did not find expected '-' indicator" => {
            ("expected `- ` here", Some("items of one list start in the same column"))
        }
        "block sequence entries are not allowed in this context" => {
            ("a list cannot begin here", Some("begin it on a new line"))
        }
        "while parsing node, found unknown anchor" => {
            ("an alias; aliases are not taken", Some("write the value out, or put the text in quotes"))
        }
        "did not find expected <document start>" | "did not find expected <document-start>" => {
            ("expected `---` or the end of the file", Some("separate documents with a line `---`"))
        }
        "found unprintable character" => ("a control character", Some("remove it")),
        "invalid trailing content after double-quoted scalar" => ("expected the line to end here", None),
        "unexpected eof" | "unexpected end of plain scalar" => ("the file ends too early", None),
        other => return (other.strip_prefix("while ").map_or(other.to_owned(), |rest| format!("while {rest}")), None),
    };
    (sentence.to_owned(), help)
}
