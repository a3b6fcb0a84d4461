//! Holds a document against the schema and reports everything that does not fit, each where it stands.

use std::collections::BTreeSet;

use super::diagnostics::{Code, Diagnostic, Report, quoted};
use super::mend::Faults;
use super::scalar::{Kind, Trap};
use super::schema::{Expected, Shape};
use super::source::{Source, Span};
use super::suggest;
use super::text;
use super::tree::{Entry, Node, Scalar, Value};

/// Reports what in `document` is not as the schema says, and returns where.
pub(crate) fn check(source: &Source<'_>, document: &Node, report: &mut Report) -> Faults {
    let mut walk = Walk { source, report, faults: Faults::default() };
    if is_foreign(document) {
        let help = "a cluster begins with `apiVersion: flypg/v1` and `kind: PostgresCluster`".to_owned();
        let span = document.span_of("apiVersion");
        let message = "this document is not a PostgresCluster";
        walk.fault(&Path::Root, Code::WrongType, message, span, "of another program?", vec![help]);
    } else {
        walk.node(Shape::root(), document, &Path::Root);
    }
    walk.faults
}

/// A mapping that shares nothing with ours, or says that it is something else: its fields are not ours to judge.
fn is_foreign(document: &Node) -> bool {
    let named = |name: &str| document.entry(name).and_then(|entry| entry.value.scalar());
    let known = |entry: &Entry| {
        let names: Vec<_> = Shape::root().fields().into_iter().flatten().map(|(name, _)| name).collect();
        suggest::similar(&entry.key, names.into_iter()).is_some()
    };
    match named("apiVersion") {
        Some(version) => {
            !version.text.starts_with("flypg") && named("kind").is_some_and(|k| k.text != "PostgresCluster")
        }
        None => !document.entries().is_empty() && !document.entries().iter().take(20).any(known),
    }
}

/// Where in the document, for messages.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// Such as `spec.regions.replicas[0]`; empty for the document itself.
    fn text(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Key(Path::Root, key) => (*key).to_owned(),
            Path::Key(parent, key) => format!("{}.{key}", parent.text()),
            Path::Item(parent, at) => format!("{}[{at}]", parent.text()),
        }
    }

    /// The same in the form [`Node::span_of`] takes.
    fn dotted(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Key(Path::Root, key) => (*key).to_owned(),
            Path::Key(parent, key) => format!("{}.{key}", parent.dotted()),
            Path::Item(parent, at) => format!("{}.{at}", parent.dotted()),
        }
    }

    fn name(&self) -> String {
        match self {
            Path::Root => "the document".to_owned(),
            path => quoted(&path.text()),
        }
    }
}

struct Walk<'a> {
    source: &'a Source<'a>,
    report: &'a mut Report,
    faults: Faults,
}

impl Walk<'_> {
    fn fault(
        &mut self,
        path: &Path<'_>,
        code: Code,
        message: impl AsRef<str>,
        span: Span,
        label: impl Into<String>,
        help: Vec<String>,
    ) {
        self.faults.add(path.dotted());
        let mut diagnostic = Diagnostic::error(code, self.source.file, message);
        if !self.report.is_full() {
            diagnostic = diagnostic.at(self.source.place(span, label));
            for text in help {
                diagnostic = diagnostic.help(text);
            }
        }
        self.report.add(diagnostic);
    }

    fn node(&mut self, shape: Shape, node: &Node, path: &Path<'_>) {
        match (&node.value, shape.expected()) {
            (Value::Refused, _) => self.faults.add(path.dotted()),
            (Value::Scalar(scalar), _) if scalar.kind() == Kind::Null => {
                if !shape.nullable {
                    let message = format!("{} has no value", path.name());
                    self.fault(
                        path,
                        Code::WrongType,
                        message,
                        node.span,
                        format!("expected {}", choices(&shape)),
                        vec![],
                    );
                }
            }
            (Value::Mapping(entries), Expected::Mapping) => self.mapping(shape, node, entries, path),
            (Value::Sequence(items), Expected::Sequence) => {
                let shape = shape.items().expect("every sequence of the schema says what its items are");
                for (at, item) in items.iter().enumerate() {
                    self.node(shape, item, &Path::Item(path, at));
                }
            }
            (Value::Scalar(scalar), Expected::Word) => self.word(shape, scalar, node.span, path),
            (Value::Scalar(scalar), Expected::Text) => self.text(shape, scalar, node.span, path),
            (Value::Scalar(scalar), Expected::Integer) => self.integer(shape, scalar, node.span, path),
            (Value::Scalar(scalar), Expected::Boolean) => self.boolean(scalar, node.span, path),
            (Value::Scalar(scalar), Expected::AnyScalar) => self.any_scalar(scalar, node.span, path),
            (found, _) => {
                let found = match found {
                    Value::Mapping(_) => "a mapping",
                    Value::Sequence(_) => "a list",
                    _ => "a single value",
                };
                let message = format!("{} is {found}", path.name());
                let help = match (shape.expected(), shape.fields()) {
                    (Expected::Mapping, Some(fields)) => {
                        vec![format!("its fields are {}", list("and", fields.map(|(name, _)| name)))]
                    }
                    (Expected::Sequence, _) => vec!["begin each item with `- `".to_owned()],
                    _ => vec![],
                };
                let span = match found {
                    "a mapping" => node.span_of(""),
                    _ => node.span,
                };
                self.fault(path, Code::WrongType, message, span, format!("expected {}", choices(&shape)), help);
            }
        }
    }

    fn mapping(&mut self, shape: Shape, node: &Node, entries: &[Entry], path: &Path<'_>) {
        if shape.fields().is_none() {
            let items = shape.items().expect("a mapping without fields says what its values are");
            for entry in entries {
                self.node(items, &entry.value, &Path::Key(path, &entry.key));
            }
            return;
        }
        let present: BTreeSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let names: Vec<&str> = shape.fields().into_iter().flatten().map(|(name, _)| name).collect();
        let absent: Vec<&str> = names.iter().copied().filter(|name| !present.contains(name)).collect();
        let mut renamed = BTreeSet::new();
        for entry in entries {
            if let Some(field) = shape.field(&entry.key) {
                self.node(field, &entry.value, &Path::Key(path, &entry.key));
                continue;
            }
            if entry.key == "<<" {
                continue; // the tree has told
            }
            let similar = suggest::similar(&entry.key, absent.iter().copied());
            self.unknown(entry, similar, &names, path);
            if let Some((name, field)) = similar.and_then(|name| Some((name, shape.field(name)?))) {
                renamed.insert(name);
                // What stands below a misspelt key is checked as well: every error at once.
                self.node(field, &entry.value, &Path::Key(path, name));
            }
        }
        for name in shape.required().filter(|name| !present.contains(name) && !renamed.contains(name)) {
            let field = shape.field(name).expect("what is required is a field");
            let message = match path {
                Path::Root => format!("`{name}` is missing"),
                path => format!("`{name}` is missing from {}", path.name()),
            };
            let help = match field.example() {
                Some(example) => format!("add `{name}: {example}`"),
                None => format!("add `{name}:`, {}", noun(&field)),
            };
            let label = format!("expected `{name}` in here");
            self.fault(&Path::Key(path, name), Code::MissingField, message, node.span_of(""), label, vec![help]);
        }
    }

    fn unknown(&mut self, entry: &Entry, similar: Option<&str>, names: &[&str], path: &Path<'_>) {
        let message = match path {
            Path::Root => format!("unknown field {}", quoted(&entry.key)),
            path => format!("unknown field {} in {}", quoted(&entry.key), path.name()),
        };
        let mut help = Vec::new();
        match (similar, suggest::elsewhere(&entry.key)) {
            (Some(name), _) => help.push(format!("did you mean `{name}`?")),
            (None, Some(home)) => help.push(format!("`{}` belongs in `{home}`", entry.key)),
            (None, None) => help.push(format!("the fields here are {}", list("and", names.iter().copied()))),
        }
        self.fault(
            &Path::Key(path, similar.unwrap_or(&entry.key)),
            Code::UnknownField,
            message,
            entry.key_span,
            "not a field",
            help,
        );
    }

    fn word(&mut self, shape: Shape, scalar: &Scalar, span: Span, path: &Path<'_>) {
        let words: Vec<_> = shape.words().collect();
        if words.iter().any(|(word, _)| *word == scalar.text) {
            return;
        }
        let noun = noun(&shape);
        let message = format!("{} is not {noun}", quoted(&scalar.text));
        let similar = suggest::similar(&scalar.text, words.iter().map(|(word, _)| *word)).or_else(|| {
            let by_description = |(word, description): &(&'static str, Option<&str>)| {
                description.is_some_and(|d| d.eq_ignore_ascii_case(&scalar.text)).then_some(*word)
            };
            let became_boolean = scalar.kind() == Kind::Boolean && scalar.text.eq_ignore_ascii_case("false");
            let off = words.iter().find(|(word, _)| became_boolean && *word == "off").map(|(word, _)| *word);
            off.or_else(|| words.iter().find_map(by_description))
        });
        let described = |wanted: &str| {
            let description = words.iter().find(|(word, _)| *word == wanted).and_then(|(_, description)| *description);
            let short = description.map(|d| d.trim_end_matches('.')).filter(|d| d.len() < 60 && !d.contains('.'));
            short.map_or_else(|| format!("`{wanted}`"), |short| format!("`{wanted}` ({short})"))
        };
        let mut help: Vec<_> = similar.map(|word| format!("did you mean {}?", described(word))).into_iter().collect();
        if words.len() > FEW {
            help.push(format!("there are {}", words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" ")));
        }
        let label = match words.len() {
            ..=FEW => format!("expected {}", choices(&shape)),
            _ => format!("expected {noun} for {}", path.name()),
        };
        self.fault(path, Code::BadValue, message, span, label, help);
    }

    fn text(&mut self, shape: Shape, scalar: &Scalar, span: Span, path: &Path<'_>) {
        if !text::accepts(shape.name, &scalar.text) {
            let noun = noun(&shape);
            let message = format!("{} is not {noun}", quoted(&scalar.text));
            let example = shape.example().map(|example| format!(", such as `{example}`")).unwrap_or_default();
            let mut help: Vec<_> = text::repaired(shape.name, &scalar.text)
                .map(|meant| format!("did you mean `{meant}`?"))
                .into_iter()
                .collect();
            help.extend(text::rule(shape.name).map(str::to_owned));
            return self.fault(path, Code::BadValue, message, span, format!("expected {noun}{example}"), help);
        }
        let found = match scalar.kind() {
            Kind::Text => match scalar.trap() {
                Some(trap) => explain(trap),
                None => return,
            },
            Kind::Boolean => "this is a boolean, not text".to_owned(),
            Kind::Null | Kind::Integer | Kind::Float => "this is a number, not text".to_owned(),
        };
        let message = format!("{} is not text", path.name());
        let help = format!("put it in quotes: `\"{}\"`", scalar.text);
        self.fault(path, Code::WrongType, message, span, found, vec![help]);
    }

    fn integer(&mut self, shape: Shape, scalar: &Scalar, span: Span, path: &Path<'_>) {
        let expected = match shape.range() {
            Some((least, greatest)) => format!("a whole number from {least} to {greatest}"),
            None => "a whole number".to_owned(),
        };
        let number = canonical_integer(&scalar.text).filter(|_| scalar.plain);
        match number {
            Some(number) if shape.range().is_none_or(|(least, greatest)| (least..=greatest).contains(&number)) => {}
            Some(number) => {
                let message = format!("{} cannot be {number}", path.name());
                let help = shape.advice(number).map(str::to_owned).into_iter().collect();
                self.fault(path, Code::BadValue, message, span, format!("expected {expected}"), help);
            }
            None => {
                let message = format!("{} is not a whole number", path.name());
                let mut help = Vec::new();
                match scalar.trap() {
                    Some(trap @ (Trap::LeadingZero | Trap::OtherBase)) => help.push(explain(trap)),
                    _ if !scalar.plain && canonical_integer(&scalar.text).is_some() => {
                        help.push(format!("remove the quotes: `{}`", scalar.text));
                    }
                    _ => {}
                }
                self.fault(path, Code::WrongType, message, span, format!("expected {expected}"), help);
            }
        }
    }

    fn boolean(&mut self, scalar: &Scalar, span: Span, path: &Path<'_>) {
        if scalar.kind() == Kind::Boolean {
            return;
        }
        let message = format!("{} is not a boolean", path.name());
        let mut help = Vec::new();
        match (scalar.trap(), scalar.text.as_str()) {
            (Some(Trap::Boolean(meant)), word) => {
                help.push(format!("`{word}` is text in YAML 1.2; write `{meant}`"));
            }
            (_, "true" | "false") => help.push(format!("remove the quotes: `{}`", scalar.text)),
            _ => {}
        }
        self.fault(path, Code::WrongType, message, span, "expected `true` or `false`", help);
    }

    /// `on` and `off` mean the same to PostgreSQL as text and as booleans; a number with a leading zero does not.
    fn any_scalar(&mut self, scalar: &Scalar, span: Span, path: &Path<'_>) {
        if let Some(trap @ (Trap::LeadingZero | Trap::OtherBase)) = scalar.trap() {
            let message = format!("{} is ambiguous", path.name());
            let help = vec![format!("put it in quotes if it is meant as it stands: `\"{}\"`", scalar.text)];
            self.fault(path, Code::WrongType, message, span, explain(trap), help);
        }
    }
}

fn explain(trap: Trap) -> String {
    match trap {
        Trap::LeadingZero => "a leading zero means octal to some YAML readers and text to others",
        Trap::OtherBase => "YAML readers disagree on numbers that are not decimal",
        Trap::Boolean(_) => "some YAML readers take this for a boolean",
    }
    .to_owned()
}

/// A decimal number in its one spelling.
fn canonical_integer(text: &str) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// As many choices as are told in one breath.
const FEW: usize = 6;

/// What may stand here, word by word if they are few.
fn choices(shape: &Shape) -> String {
    let words: Vec<_> = shape.words().map(|(word, _)| word).collect();
    if (1..=FEW).contains(&words.len()) { list("or", words.into_iter()) } else { noun(shape) }
}

fn noun(shape: &Shape) -> String {
    if let Some(title) = shape.title().filter(|_| shape.expected() != Expected::Mapping) {
        return title.to_owned();
    }
    match shape.expected() {
        Expected::Mapping => "a mapping",
        Expected::Sequence => "a list",
        Expected::Text | Expected::Word => "text",
        Expected::Integer => "a whole number",
        Expected::Boolean => "`true` or `false`",
        Expected::AnyScalar => "a value",
    }
    .to_owned()
}

/// `a`, `b` or `c`
fn list<'a>(conjunction: &str, words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {conjunction} {last}", rest.join(", ")),
    }
}
