//! The typed values of a document whose shape is not good, so that its other mistakes are told in the same answer.
//! What is at fault is left out, or stood in for where it is required; nothing made here is ever applied.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::raw::PostgresCluster;
use super::schema::{Expected, Shape};
use super::tree::{Node, Value};

/// The places of a document that are not as the schema says, as paths such as `spec.regions.replicas.0`.
#[derive(Debug, Default)]
pub(crate) struct Faults(BTreeSet<String>);

impl Faults {
    pub(crate) fn add(&mut self, path: String) {
        self.0.insert(path);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nothing at, below or above `path` is at fault: a rule is judged only where all it looks at is good.
    pub(crate) fn spare(&self, path: &str) -> bool {
        let within = |inner: &str, outer: &str| {
            outer.is_empty() || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        !self.0.iter().any(|fault| within(fault, path) || within(path, fault))
    }

    fn exactly(&self, path: &str) -> bool {
        self.0.contains(path)
    }
}

pub(crate) fn mended(document: &Node, faults: &Faults) -> Option<PostgresCluster> {
    PostgresCluster::deserialize(mend(Shape::root(), Some(document), "", faults)?).ok()
}

/// `None` if nothing can stand here.
fn mend(shape: Shape, node: Option<&Node>, path: &str, faults: &Faults) -> Option<Json> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let value = node.map(|node| &node.value).filter(|_| !faults.exactly(path));
    match (shape.expected(), value) {
        (Expected::Mapping, value) if shape.fields().is_some() => {
            let entries = node.filter(|_| value.is_some()).map_or(&[][..], Node::entries);
            let required: Vec<_> = shape.required().collect();
            let field = |(name, field): (&'static str, Shape)| {
                let node = entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value);
                if node.is_none() && !required.contains(&name) {
                    return None;
                }
                Some((name.to_owned(), mend(field, node, &below(name), faults)?))
            };
            Some(Json::Object(shape.fields()?.filter_map(field).collect()))
        }
        (Expected::Mapping, Some(Value::Mapping(entries))) => {
            let items = shape.items()?;
            let entry = |entry: &super::tree::Entry| {
                let path = below(&entry.key);
                let good = !faults.exactly(&path); // nobody requires it, so nothing stands in for it
                Some((entry.key.clone(), good.then(|| mend(items, Some(&entry.value), &path, faults))??))
            };
            Some(Json::Object(entries.iter().filter_map(entry).collect::<Map<_, _>>()))
        }
        (Expected::Sequence, Some(Value::Sequence(nodes))) => {
            let items = shape.items()?;
            let item = |(at, node)| mend(items, Some(node), &below(&usize::to_string(&at)), faults);
            Some(Json::Array(nodes.iter().enumerate().filter_map(item).collect()))
        }
        (expected, Some(Value::Scalar(scalar))) => match expected {
            Expected::Integer => scalar.text.parse::<i64>().ok().map(Json::from),
            Expected::Boolean => scalar.text.to_ascii_lowercase().parse::<bool>().ok().map(Json::from),
            Expected::Text | Expected::Word | Expected::AnyScalar => Some(Json::from(scalar.text.as_str())),
            Expected::Mapping | Expected::Sequence => None,
        },
        _ if shape.nullable => None,
        (Expected::Word, _) => shape.words().next().map(|(word, _)| Json::from(word)),
        (Expected::Integer, _) => shape.range().map(|(least, _)| Json::from(least)),
        (Expected::Boolean, _) => Some(Json::from(false)),
        (Expected::Text | Expected::AnyScalar, _) => shape.example().map(Json::from),
        (Expected::Mapping | Expected::Sequence, _) => None,
    }
}
