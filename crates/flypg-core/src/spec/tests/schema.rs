use expect_test::expect_file;
use serde_json::Value;

use crate::spec::schema;
use crate::spec::schema::Shape;
use crate::spec::text;

/// `UPDATE_EXPECT=1` writes the file anew.
#[test]
fn the_schema_file_is_what_the_types_say() {
    let generated = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    expect_file!["../../../../../manifests/cluster.schema.json"].assert_eq(&generated);
}

/// [`Shape`] reads a part of JSON Schema. A word it does not know would be a rule nobody checks.
#[test]
fn the_schema_says_nothing_that_is_not_checked() {
    const READ: [&str; 16] = [
        "$ref",
        "additionalProperties",
        "anyOf",
        "const",
        "enum",
        "examples",
        "items",
        "maximum",
        "minimum",
        "oneOf",
        "pattern",
        "properties",
        "required",
        "type",
        "x-if-less",
        "x-if-more",
    ];
    const FOR_PEOPLE: [&str; 6] = ["$schema", "$defs", "title", "description", "format", "default"];
    fn visit(schema: &Value) {
        let Value::Object(schema) = schema else {
            return assert_eq!(schema, &Value::Bool(false), "only `additionalProperties: false` is no object");
        };
        for (word, value) in schema {
            assert!(READ.contains(&word.as_str()) || FOR_PEOPLE.contains(&word.as_str()), "unknown word {word}");
            match word.as_str() {
                "properties" | "$defs" => value.as_object().unwrap().values().for_each(visit),
                "additionalProperties" | "items" => visit(value),
                "anyOf" | "oneOf" => value.as_array().unwrap().iter().for_each(visit),
                _ => {}
            }
        }
    }
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    visit(&schema);
}

/// Every part of the schema can be read as a [`Shape`], and every field says what it is.
#[test]
fn every_field_is_described() {
    fn visit(shape: Shape, path: &str) {
        for (name, field) in shape.fields().into_iter().flatten() {
            assert!(field.description().is_some(), "{path}.{name} has no description");
            visit(field, &format!("{path}.{name}"));
        }
        if let Some(items) = shape.items() {
            visit(items, &format!("{path}[]"));
        }
    }
    visit(Shape::root(), "");
}

/// What the pattern generates, the function takes; and what the function takes, a JSON Schema validator does too.
mod patterns {
    use proptest::prelude::*;
    use proptest::string::string_regex;

    use super::text;

    #[test]
    fn take_their_examples() {
        for (name, _, examples) in text::PATTERNS {
            for example in *examples {
                assert!(text::accepts(name, example), "{name} takes {example}");
            }
        }
    }

    fn generated() -> impl Strategy<Value = (&'static str, String)> {
        let all = text::PATTERNS.iter().map(|(name, pattern, _)| {
            let pattern = pattern.strip_prefix('^').unwrap().strip_suffix('$').unwrap();
            string_regex(pattern).unwrap().prop_map(move |text| (*name, text)).boxed()
        });
        proptest::strategy::Union::new(all.collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn are_what_the_functions_take((name, text) in generated()) {
            prop_assert!(text::accepts(name, &text), "{name} takes {text:?}");
        }

        /// A character changed, and what is still taken has to be something the pattern could have made: checked by
        /// the alphabet and the ends of each.
        #[test]
        fn refuse_foreign_characters((name, text) in generated(), at in any::<prop::sample::Index>(), c in "[ #é\n$A-Z]") {
            let mut characters: Vec<char> = text.chars().collect();
            let at = at.index(characters.len());
            let c = c.chars().next().unwrap();
            characters[at] = c;
            let changed: String = characters.into_iter().collect();
            let upper_is_good = c.is_ascii_uppercase() && changed != text
                && (name == "Image" || name.ends_with("Size"));
            prop_assume!(!upper_is_good && changed != text);
            prop_assert!(!text::accepts(name, &changed), "{name} refuses {changed:?}");
        }
    }
}
