//! Reading the JSON Schema that is generated from [`super::raw`]: the few words of it that those types use.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::raw::PostgresCluster;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<PostgresCluster>();
    schema.insert("title".into(), "PostgresCluster".into());
    schema.to_value()
});

/// The JSON Schema (draft 2020-12) of one document of a cluster file.
pub fn schema() -> Value {
    SCHEMA.clone()
}

/// One place of the schema, with references followed and null put aside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// What stands at the place itself, such as the description of a field.
    outer: &'static Map<String, Value>,
    inner: &'static Map<String, Value>,
    /// The definition's name, if it has one.
    pub(crate) name: &'static str,
    pub(crate) nullable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    Mapping,
    Sequence,
    Text,
    /// One of some words.
    Word,
    Integer,
    Boolean,
    /// Text, a number or a boolean.
    AnyScalar,
}

impl Shape {
    pub(crate) fn root() -> Self {
        Self::of(&SCHEMA)
    }

    fn of(schema: &'static Value) -> Self {
        let outer = schema.as_object().expect("every schema that schemars generates for these types is an object");
        let (mut inner, mut name, mut nullable) = (outer, "", false);
        loop {
            if let Some(Value::String(reference)) = inner.get("$ref") {
                name = reference.strip_prefix("#/$defs/").expect("references lead to $defs");
                inner = SCHEMA["$defs"][name].as_object().expect("every reference leads somewhere");
            } else if let Some(Value::Array(options)) = inner.get("anyOf") {
                // An optional reference: it, or null.
                nullable = true;
                inner = options
                    .iter()
                    .find_map(|o| o.as_object().filter(|o| o.contains_key("$ref")))
                    .expect("anyOf is only generated for an optional reference");
            } else {
                nullable |= types(inner).any(|t| t == "null");
                return Self { outer, inner, name, nullable };
            }
        }
    }

    pub(crate) fn expected(&self) -> Expected {
        let mut types = types(self.inner).filter(|t| *t != "null");
        match (types.next(), types.next()) {
            (Some("object"), None) => Expected::Mapping,
            (Some("array"), None) => Expected::Sequence,
            (Some("integer"), None) => Expected::Integer,
            (Some("boolean"), None) => Expected::Boolean,
            (Some(_), Some(_)) => Expected::AnyScalar,
            _ if self.words().next().is_some() => Expected::Word,
            _ => Expected::Text,
        }
    }

    /// A mapping's fields, if they are fixed.
    pub(crate) fn fields(&self) -> Option<impl Iterator<Item = (&'static str, Shape)> + use<>> {
        let fields = self.inner.get("properties")?.as_object()?;
        Some(fields.iter().map(|(name, schema)| (name.as_str(), Self::of(schema))))
    }

    pub(crate) fn field(&self, name: &str) -> Option<Shape> {
        self.inner.get("properties")?.get(name).map(Self::of)
    }

    pub(crate) fn required(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.inner.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    }

    /// What every value of a mapping without fixed fields is, or every item of a sequence.
    pub(crate) fn items(&self) -> Option<Shape> {
        self.inner
            .get("additionalProperties")
            .filter(|s| s.is_object())
            .or_else(|| self.inner.get("items"))
            .map(Self::of)
    }

    /// The words that may stand here, with what each means.
    pub(crate) fn words(&self) -> impl Iterator<Item = (&'static str, Option<&'static str>)> + use<> {
        let listed = |key: &str| self.inner.get(key).and_then(Value::as_array).into_iter().flatten();
        let plain = listed("enum").filter_map(|word| Some((word.as_str()?, None)));
        let lone = self.inner.get("const").and_then(Value::as_str).map(|word| (word, None));
        // Variants without a comment are gathered in an `enum` of their own.
        let described = listed("oneOf").flat_map(|option| {
            let description = option.get("description").and_then(Value::as_str);
            let gathered = option.get("enum").and_then(Value::as_array).into_iter().flatten();
            option.get("const").into_iter().chain(gathered).filter_map(move |w| Some((w.as_str()?, description)))
        });
        plain.chain(lone).chain(described)
    }

    /// Least and greatest number.
    pub(crate) fn range(&self) -> Option<(i64, i64)> {
        Some((self.number("minimum")?, self.number("maximum")?))
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.outer.get(key).or_else(|| self.inner.get(key)).and_then(Value::as_i64)
    }

    /// A noun for what stands here, such as "a size in GB".
    pub(crate) fn title(&self) -> Option<&'static str> {
        self.inner.get("title").and_then(Value::as_str)
    }

    #[cfg(test)]
    pub(crate) fn description(&self) -> Option<&'static str> {
        self.outer.get("description").or_else(|| self.inner.get("description")).and_then(Value::as_str)
    }

    pub(crate) fn example(&self) -> Option<String> {
        let examples = self.outer.get("examples").or_else(|| self.inner.get("examples"))?;
        examples.get(0).map(in_one_line)
    }

    /// What to do instead of a number below the range, or above it.
    pub(crate) fn advice(&self, number: i64) -> Option<&'static str> {
        let key = if number < self.range()?.0 { "x-if-less" } else { "x-if-more" };
        self.outer.get(key)?.as_str()
    }
}

/// As a person would write it in YAML, without line breaks.
fn in_one_line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {}", in_one_line(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

fn types(schema: &'static Map<String, Value>) -> impl Iterator<Item = &'static str> {
    let types = schema.get("type");
    let many = types.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    types.and_then(Value::as_str).into_iter().chain(many)
}
