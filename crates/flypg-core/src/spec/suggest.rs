//! What a misspelt word was probably meant to be.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::schema::Shape;

/// The word nearest to `given`, if one is near enough to be worth proposing.
pub(crate) fn similar<'a>(given: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LONG: usize = 64; // the distance costs the product of the lengths
    if given.len() > LONG {
        return None;
    }
    let plain = |word: &str| -> String {
        word.chars().filter(|c| !matches!(c, '_' | '-' | ' ')).flat_map(char::to_lowercase).collect()
    };
    let given = plain(given);
    // One typo in three letters, two in six and so on; swapped neighbours are one.
    let allowed = (given.chars().count().max(3) / 3).min(4);
    words
        .filter(|word| word.strip_prefix('a') != Some(given.as_str())) // `sync` is not a misspelt `async`
        .map(|word| (strsim::osa_distance(&given, &plain(word)), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// The mapping a field belongs in, where only one has a field of that name.
pub(crate) fn elsewhere(field: &str) -> Option<&'static str> {
    static HOMES: LazyLock<BTreeMap<&'static str, Vec<String>>> = LazyLock::new(|| {
        let mut homes = BTreeMap::new();
        collect(Shape::root(), String::new(), &mut homes);
        homes
    });
    match HOMES.get(field).map(Vec::as_slice) {
        Some([home]) if !home.is_empty() => Some(home),
        _ => None,
    }
}

fn collect(shape: Shape, path: String, homes: &mut BTreeMap<&'static str, Vec<String>>) {
    for (name, field) in shape.fields().into_iter().flatten() {
        homes.entry(name).or_default().push(path.clone());
        let below = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        collect(field, below, homes);
    }
}
