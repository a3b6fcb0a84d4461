//! Any bytes are answered, quickly; and two readers of YAML see the same in what is accepted.

use std::time::Instant;

use proptest::prelude::*;
use serde::Deserialize;

use super::{EXAMPLES, GOOD, diagnostics, one};
use crate::spec::diagnostics::Report;
use crate::spec::scalar::Kind;
use crate::spec::source::Source;
use crate::spec::tree::{self, Node, Value};
use crate::spec::{Level, Style, check_all, parse};

/// The tree in `serde_yaml`'s words.
fn as_serde_yaml(node: &Node) -> serde_yaml::Value {
    match &node.value {
        Value::Refused => panic!("a good file has nothing refused"),
        Value::Sequence(items) => items.iter().map(as_serde_yaml).collect(),
        Value::Mapping(entries) => serde_yaml::Value::Mapping(
            // Every key of ours is text, as a struct's field is to serde.
            entries.iter().map(|e| (serde_yaml::Value::String(e.key.clone()), as_serde_yaml(&e.value))).collect(),
        ),
        Value::Scalar(scalar) => match scalar.kind() {
            Kind::Text => serde_yaml::Value::String(scalar.text.clone()),
            kind => {
                let value: serde_yaml::Value = serde_yaml::from_str(&scalar.text).unwrap();
                let same = match kind {
                    Kind::Null => value.is_null(),
                    Kind::Boolean => value.is_bool(),
                    Kind::Integer => value.is_u64() || value.is_i64() || value.is_f64() || value.is_string(),
                    Kind::Float => value.is_f64(),
                    Kind::Text => unreachable!(),
                };
                assert!(same, "{kind:?} is {value:?} to serde_yaml: {:?}", scalar.text);
                value
            }
        },
    }
}

fn both_readers_agree(text: &str) {
    let source = Source::decode("cluster.yaml", text.as_bytes()).unwrap();
    let mut report = Report::default();
    let documents = tree::read(&source, &mut report);
    assert_eq!(report.errors(), 0);
    let theirs: Vec<_> = serde_yaml::Deserializer::from_str(text)
        .map(|document| serde_yaml::Value::deserialize(document).unwrap())
        .collect();
    assert_eq!(documents.iter().map(as_serde_yaml).collect::<Vec<_>>(), theirs, "in\n{text}");
}

/// Whatever the bytes are: an answer, without raw control characters, and spans that are in the file.
fn answered(bytes: &[u8]) {
    let checked = check_all(&[("a\u{1b}[31m.yaml", bytes)]);
    let shown = checked.diagnostics.render(Style::Plain);
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
    assert!(shown.len() < 200_000);
    assert_eq!(checked.refused.is_empty(), checked.diagnostics.errors() == 0);
    assert!(checked.refused.is_empty() || checked.clusters.is_empty());
    serde_json::to_string(&checked.diagnostics).unwrap();
    checked.diagnostics.render(Style::Coloured);
    let lines = String::from_utf8_lossy(bytes).matches(['\n', '\r']).count() + 1;
    for place in checked.diagnostics.iter().filter_map(|d| d.place.as_ref()) {
        assert!((1..=lines).contains(&place.line) && place.column >= 1, "{place:?}");
    }
    if let (false, Ok(text)) = (checked.clusters.is_empty(), std::str::from_utf8(bytes)) {
        both_readers_agree(text.strip_prefix('\u{feff}').unwrap_or(text));
    }
}

#[test]
fn both_readers_agree_on_the_examples() {
    EXAMPLES.iter().for_each(|(_, text)| both_readers_agree(text));
}

#[test]
fn both_readers_agree_on_words() {
    for word in [
        "null",
        "~",
        "true",
        "True",
        "tRue",
        "yes",
        "on",
        "0",
        "-0",
        "+1",
        "010",
        "-010",
        "0x1F",
        "0o17",
        "0b11",
        "0x",
        "1.5",
        ".5",
        "5.",
        "1e3",
        "1E+3",
        "-.5e-2",
        ".inf",
        "-.INF",
        "+.inf",
        ".nan",
        "-.nan",
        "inf",
        "nan",
        "infinity",
        "1_000",
        "12:30",
        "18446744073709551615",
        "-9223372036854775808",
        "1e400",
        "0.0.1",
        "16MB",
        "80%",
        "2026-11-22",
        "=",
        "--",
        "+",
        "1-2",
        "'1'",
        "\"~\"",
    ] {
        both_readers_agree(&format!("a: {word}\nb: [{word}, c]\n"));
    }
}

#[test]
#[expect(clippy::disallowed_methods, clippy::print_stderr, reason = "how long each takes is printed for people")]
fn bombs_are_answered() {
    let repeat = |piece: &str, times: usize| piece.repeat(times).into_bytes();
    let levels: String =
        (1..=9).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))).collect();
    let bombs: Vec<(&str, Vec<u8>)> = vec![
        ("200 KiB of [", repeat("[", 200 << 10)),
        ("200 KiB of {", repeat("{", 200 << 10)),
        ("200 KiB of [ below a key", [b"spec: ".to_vec(), repeat("[", 200 << 10)].concat()),
        ("200 KiB of {a:", repeat("{a: ", 50 << 10)),
        ("200 KiB of - ", repeat("- ", 100 << 10)),
        ("200 KiB of ? ", repeat("? ", 100 << 10)),
        ("200 KiB of [], ", [b"[".to_vec(), repeat("[],", 66_000)].concat()),
        ("200 KiB of a: b, ", [b"{".to_vec(), repeat("a: b, ", 40_000)].concat()),
        ("one sequence of 100,000 items", [b"[".to_vec(), repeat("a,", 100_000), b"]".to_vec()].concat()),
        ("200 KiB of quotes", repeat("\"", 200 << 10)),
        ("one quoted text", [b"a: \"".to_vec(), repeat("x ", 100 << 10), b"\"".to_vec()].concat()),
        ("200 KiB of one plain word", repeat("x", 200 << 10)),
        ("200 KiB of one key", [repeat("x", 200 << 10), b": 1".to_vec()].concat()),
        ("200 KiB of colons", repeat(":", 200 << 10)),
        ("200 KiB of tabs", repeat("\t", 200 << 10)),
        ("200 KiB of line breaks", repeat("\n", 200 << 10)),
        ("200 KiB of carriage returns", repeat("\r", 200 << 10)),
        ("200 KiB of ---", repeat("---\n", 50 << 10)),
        ("200 KiB of comments", repeat("# x\n", 50 << 10)),
        ("200 KiB of anchors", repeat("&a ", 66 << 10)),
        ("200 KiB of anchored keys", repeat("- &a b\n", 28 << 10)),
        ("200 KiB of unknown keys", (0..15_000).flat_map(|n| format!("k{n}: {n}\n").into_bytes()).collect()),
        ("200 KiB of one key again and again", repeat("a: 1\n", 19_000)),
        (
            "200 KiB of misspelt fields",
            [GOOD.as_bytes().to_vec(), (0..9_000).flat_map(|n| format!("  storag{n}: 1\n").into_bytes()).collect()]
                .concat(),
        ),
        (
            "10,000 misspelt parameters",
            [
                b"spec: {postgres: {parameters: {".to_vec(),
                (0..9_000).flat_map(|n| format!("P{n}: 010, ").into_bytes()).collect(),
                b"}}}".to_vec(),
            ]
            .concat(),
        ),
        ("aliases of aliases", format!("a0: &a0 [x]\n{levels}").into_bytes()),
        ("an alias to itself", b"a: &a [*a]".to_vec()),
        ("1 MB", vec![b'a'; 1 << 20]),
        ("1 MB of [", repeat("[", 1 << 20)),
        ("200 KiB of wide characters", repeat("\u{1f600}: [", 36 << 10)),
        ("200 KiB of block scalars", repeat("a: |\n  x\n", 20 << 10)),
        ("200 KiB of block scalar text", [b"a: |\n".to_vec(), repeat("  x\n", 50 << 10)].concat()),
        ("a deep staircase", (0..600).flat_map(|n| format!("{}a:\n", " ".repeat(n)).into_bytes()).collect()),
    ];
    for (name, bytes) in bombs {
        let start = Instant::now();
        answered(&bytes);
        eprintln!("{name}: {:?}", start.elapsed());
    }
}

#[test]
fn what_is_nested_too_deep_is_told_where() {
    for bomb in ["[".repeat(70), "- ".repeat(70), "{a: ".repeat(70), "[".repeat(5000)] {
        let found = diagnostics(bomb.as_bytes());
        assert_eq!(found.iter().next().unwrap().message, "this file is nested more than 64 deep", "{found}");
    }
    let as_deep_as_may_be = format!("{}{}", "[".repeat(64), "]".repeat(64));
    assert!(!diagnostics(as_deep_as_may_be.as_bytes()).to_string().contains("nested more"));
}

/// Pieces of YAML, in any order.
fn yamlish() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "apiVersion: flypg/v1\n",
            "kind: PostgresCluster\n",
            "metadata:\n",
            "spec:\n",
            "  name: abc\n",
            "  ",
            "    ",
            "- ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            ", ",
            "\n",
            "\r\n",
            "\r",
            "---\n",
            "...\n",
            "# c\n",
            "&a ",
            "*a",
            "!!str ",
            "!x ",
            "<<: ",
            "'",
            "\"",
            "|\n",
            ">-\n",
            "? ",
            "\t",
            "%YAML 1.2\n",
            "%TAG ! x:\n",
            "\u{feff}",
            "\u{85}",
            "\u{2028}",
            "true",
            "null",
            "010",
            "1e5",
            "40GB",
            "80%",
            "é",
            "\0",
            "\u{7f}",
            "\\",
            "@",
            "`",
            "regions:\n",
            "size: 40",
        ])
        .prop_map(str::to_owned),
        "[a-z0-9:,\\[\\]{}\"' \n-]{0,6}",
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// A good file with some bytes removed, doubled, swapped or replaced.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<&str> = EXAMPLES.iter().map(|(_, text)| *text).chain([GOOD]).collect();
    let change = (any::<prop::sample::Index>(), 0u8..5, any::<u8>(), 1usize..20);
    (prop::sample::select(texts), prop::collection::vec(change, 1..6)).prop_map(|(text, changes)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, kind, byte, length) in changes {
            let at = at.index(bytes.len());
            let end = (at + length).min(bytes.len());
            match kind {
                0 => drop(bytes.drain(at..end)),
                1 => bytes[at] = byte,
                2 => bytes.insert(at, byte),
                3 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => bytes[at..end].reverse(),
            }
            if bytes.is_empty() {
                bytes.push(b'a');
            }
        }
        bytes
    })
}

proptest! {
    // `PROPTEST_CASES` makes it more.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        answered(&bytes);
    }

    #[test]
    fn random_text_is_answered(text in "\\PC{0,200}") {
        answered(text.as_bytes());
    }

    #[test]
    fn random_yaml_is_answered(text in yamlish()) {
        answered(text.as_bytes());
    }

    #[test]
    fn mutated_examples_are_answered(bytes in mutated()) {
        answered(&bytes);
    }
}

#[test]
fn line_ends_and_byte_order_marks_do_not_matter() {
    let dos = format!("\u{feff}{}", GOOD.replace('\n', "\r\n"));
    assert_eq!(one(&dos), one(GOOD));
    assert_eq!(one(&GOOD.replace('\n', "\r")), one(GOOD));
    let found = diagnostics(dos.replace("size", "sise").as_bytes());
    let place = found.iter().next().unwrap().place.as_ref().unwrap();
    assert_eq!((place.line, place.column, place.length), (13, 5, 4));
}

#[test]
fn places_count_characters() {
    let text = GOOD.replace("organization: acme", "organization: \"äöü€\", x");
    assert!(parse("cluster.yaml", text.as_bytes()).is_err());
    let found = diagnostics(GOOD.replace("{ code: ord, nodes: 3 }", "{ \"cöde€\": ord, nodes: 77 }").as_bytes());
    let places: Vec<_> = found.iter().filter(|d| d.level == Level::Error).filter_map(|d| d.place.as_ref()).collect();
    assert!(places.iter().any(|p| (p.line, p.column, p.length) == (10, 37, 2)), "{found}");
}
