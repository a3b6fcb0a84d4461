//! What is wrong with a file, in the form a person can act on: where, what was expected, what to write instead.

use std::fmt;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level as Severity, Origin, Renderer, Snippet};
use serde::Serialize;

/// How bad it is. Nothing is applied from a file that has an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Error,
    /// The file is applied; its author may not have meant it.
    Warning,
}

/// The kind of mistake, for programs that read the JSON form. People read the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Not UTF-8.
    Encoding,
    TooLarge,
    TooDeep,
    /// Not YAML.
    Syntax,
    /// YAML that is not taken: anchors, aliases, tags, merge keys, keys that are not text.
    Unsupported,
    DuplicateKey,
    UnknownField,
    MissingField,
    WrongType,
    /// Of the right type, and not one of the values that may stand here.
    BadValue,
    /// Good by itself, and at odds with something else.
    Conflict,
    DuplicateCluster,
    /// Good, and perhaps not meant.
    Doubtful,
    /// There were more than are shown.
    More,
}

/// A piece of one line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// In characters; 0 between two characters.
    pub length: usize,
    /// What was expected, or what stands here.
    pub label: String,
    #[serde(flatten)]
    excerpt: Excerpt,
}

impl Place {
    pub(crate) fn new(
        file: &str,
        line: usize,
        column: usize,
        length: usize,
        excerpt: Excerpt,
        label: impl Into<String>,
    ) -> Self {
        Self { file: printable(file), line, column, length, label: printable(&label.into()), excerpt }
    }

    fn shares_line(&self, other: &Place) -> bool {
        (&self.file, self.line, &self.excerpt.source) == (&other.file, other.line, &other.excerpt.source)
    }

    fn annotation(&self, kind: AnnotationKind) -> Annotation<'_> {
        let label = (!self.label.is_empty()).then_some(self.label.as_str());
        kind.span(self.excerpt.bytes()).label(label)
    }

    /// Adds this place to `group`, with another one of the same line.
    fn elements<'a>(&'a self, kind: AnnotationKind, also: Option<Annotation<'a>>, group: Group<'a>) -> Group<'a> {
        let snippet = Snippet::source(self.excerpt.source.as_str())
            .line_start(self.line)
            .fold(false)
            .annotation(self.annotation(kind))
            .annotations(also);
        if self.excerpt.cut == 0 {
            return group.element(snippet.path(self.file.as_str()));
        }
        // The renderer would count columns from the cut.
        let origin = Origin::path(self.file.as_str()).line(self.line).char_column(self.column);
        group.element(origin).element(snippet)
    }

    pub(crate) fn labelled(&self, label: &str) -> Self {
        Self { label: printable(label), ..self.clone() }
    }
}

/// The line around a [`Place`], cut where it is very long. Control characters are replaced one for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Excerpt {
    source: String,
    /// How many characters of the line were cut off before `source`.
    #[serde(skip)]
    cut: usize,
    /// Where the place begins in `source`, in characters from 0.
    #[serde(skip)]
    start: usize,
    #[serde(skip)]
    length: usize,
}

impl Excerpt {
    const WIDTH: usize = 4000;

    /// `column` (from 0) and `length` count characters of `line`.
    pub(crate) fn of(line: &str, column: usize, length: usize) -> Self {
        let cut = if column < Self::WIDTH / 2 { 0 } else { column - Self::WIDTH / 4 };
        let source: String = line.chars().skip(cut).take(Self::WIDTH).map(shown).collect();
        Self { source, cut, start: column - cut, length: length.min(Self::WIDTH) }
    }

    /// The place as bytes of `source`, which is what the renderer counts in.
    fn bytes(&self) -> std::ops::Range<usize> {
        let at = |nth: usize| self.source.char_indices().nth(nth).map_or(self.source.len(), |(byte, _)| byte);
        at(self.start)..at(self.start + self.length)
    }
}

/// One mistake, complete in itself: showing it needs neither the file nor the parser.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub level: Level,
    pub code: Code,
    pub message: String,
    pub file: String,
    /// Absent where the whole file is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// Somewhere else that has to do with it, such as the first of two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub related: Option<Place>,
    /// What to do about it; the first is the best.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub help: Vec<String>,
}

impl Diagnostic {
    pub(crate) fn error(code: Code, file: &str, message: impl AsRef<str>) -> Self {
        Self::new(Level::Error, code, file, message)
    }

    pub(crate) fn new(level: Level, code: Code, file: &str, message: impl AsRef<str>) -> Self {
        let message = printable(message.as_ref());
        Self { level, code, message, file: printable(file), place: None, related: None, help: Vec::new() }
    }

    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    pub(crate) fn related(mut self, place: Place) -> Self {
        self.related = Some(place);
        self
    }

    pub(crate) fn help(mut self, text: impl AsRef<str>) -> Self {
        self.help.push(printable(text.as_ref()));
        self
    }

    fn position(&self) -> (&str, usize, usize) {
        self.place.as_ref().map_or((&self.file, 0, 0), |p| (&self.file, p.line, p.column))
    }

    fn group(&self) -> Group<'_> {
        let severity = match self.level {
            Level::Error => Severity::ERROR,
            Level::Warning => Severity::WARNING,
        };
        let mut group = Group::with_title(severity.primary_title(self.message.as_str()));
        match (&self.place, &self.related) {
            (None, _) => group = group.element(Origin::path(self.file.as_str())),
            (Some(place), Some(related)) if place.shares_line(related) => {
                let related = related.annotation(AnnotationKind::Context);
                group = place.elements(AnnotationKind::Primary, Some(related), group);
            }
            (Some(place), related) => {
                group = place.elements(AnnotationKind::Primary, None, group);
                if let Some(related) = related {
                    group = related.elements(AnnotationKind::Context, None, group);
                }
            }
        }
        group.elements(self.help.iter().map(|text| Severity::HELP.message(text.as_str())))
    }
}

/// Whether the text carries ANSI colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Coloured,
}

/// Everything that was found in one file or several, in the order of their places. As an error it has at least one
/// [`Level::Error`]; as text it reads like a compiler's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Columns of a line of source that are shown.
    const WIDTH: usize = 140;

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them are errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.level == Level::Error).count()
    }

    /// As a person reads it, one blank line between two, a line break at the end.
    pub fn render(&self, style: Style) -> String {
        let renderer = match style {
            Style::Plain => Renderer::plain(),
            Style::Coloured => Renderer::styled(),
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(Self::WIDTH);
        let shown: Vec<_> = self.0.iter().map(|d| renderer.render(&[d.group()])).collect();
        if shown.is_empty() { String::new() } else { shown.join("\n\n") + "\n" }
    }

    pub(crate) fn extend(&mut self, more: Diagnostics) {
        self.0.extend(more.0);
    }

    pub(crate) fn sort(&mut self) {
        self.0.sort_by(|a, b| a.position().cmp(&b.position()).then(a.level.cmp(&b.level)));
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl std::error::Error for Diagnostics {}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Diagnostic> for Diagnostics {
    fn from_iter<I: IntoIterator<Item = Diagnostic>>(iter: I) -> Self {
        let mut all = Self(iter.into_iter().collect());
        all.sort();
        all
    }
}

/// Collects what one file has wrong. Keeps a bounded number, because a file of nonsense has no bound.
#[derive(Debug, Default)]
pub(crate) struct Report {
    found: Vec<Diagnostic>,
    more: usize,
}

impl Report {
    const KEPT: usize = 50;

    pub(crate) fn add(&mut self, diagnostic: Diagnostic) {
        if self.found.len() < Self::KEPT {
            self.found.push(diagnostic);
        } else {
            self.more += usize::from(diagnostic.level == Level::Error);
        }
    }

    /// Whether the next diagnostic would only be counted, so that work on its text can be saved.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= Self::KEPT
    }

    pub(crate) fn errors(&self) -> usize {
        self.more + self.found.iter().filter(|d| d.level == Level::Error).count()
    }

    pub(crate) fn finish(self, file: &str) -> Diagnostics {
        let mut all: Diagnostics = self.found.into_iter().collect();
        if self.more > 0 {
            let message = format!("{} more errors in this file are not shown", self.more);
            all.0.push(Diagnostic::error(Code::More, file, message));
        }
        all
    }
}

/// `text` in backticks, on one line, cut where it is long.
pub(crate) fn quoted(text: &str) -> String {
    const LONG: usize = 60;
    let mut short: String = text.chars().take(LONG).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("`{}`", printable(&short))
}

fn printable(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// Terminals act on control characters and reorder text around bidirectional ones: neither is printed as it is.
fn shown(c: char) -> char {
    match c {
        '\t' => ' ',
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        _ => c,
    }
}
