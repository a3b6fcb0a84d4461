//! The house rules that a compiler does not keep: who may depend on whom, and which crate is named in one room only.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

/// Normal dependencies of each workspace crate (not those of its tests), by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let edges = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies");
        let normal = all.iter().filter(|d| d["kind"].is_null());
        normal.map(|d| d["name"].as_str().expect("a name").to_owned()).collect()
    };
    packages.iter().map(|p| (p["name"].as_str().expect("a name").to_owned(), edges(p))).collect()
}

#[test]
fn an_edge_marks_a_change_of_effect() {
    let all = dependencies();
    let allowed = [
        ("flypg", vec!["flypg-controller", "flypg-core", "flypg-emulator", "flypg-machines"]),
        ("flypg-agent", vec!["flypg-core"]),
        ("flypg-controller", vec!["flypg-core", "flypg-machines"]),
        ("flypg-core", vec![]),
        // Not even the wire types of the client: two readings of the documentation that check each other.
        ("flypg-emulator", vec![]),
        ("flypg-machines", vec![]),
    ];
    for (name, allowed) in allowed {
        let ours: Vec<_> = all[name].iter().filter(|d| d.starts_with("flypg")).collect();
        assert_eq!(ours, allowed, "{name}");
    }
}

#[test]
fn core_is_pure() {
    let impure = ["tokio", "reqwest", "axum", "futures", "nix", "rusqlite", "notify", "rand", "http", "tracing"];
    let core = &dependencies()["flypg-core"];
    let found: Vec<_> = impure.iter().filter(|name| core.contains(**name)).collect();
    assert!(found.is_empty(), "{found:?}");
    let lints = std::fs::read_to_string(root().join("crates/flypg-core/clippy.toml")).expect("core has its own lints");
    for banned in ["Instant::now", "SystemTime::now", "env::var", "HashMap", "HashSet"] {
        assert!(lints.contains(banned), "{banned}");
    }
}

#[test]
fn a_node_cannot_touch_fly() {
    let agent = &dependencies()["flypg-agent"];
    assert!(!agent.contains("flypg-machines") && !agent.contains("reqwest"), "{agent:?}");
}

/// Every source file of a crate, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("source is text");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn libraries_without_a_future_are_named_in_one_room() {
    for (library, room) in [("serde_yaml::", "spec/typed.rs"), ("backoff::", "flypg-machines/src/retry.rs")] {
        let product = sources("crates").into_iter().filter(|(path, _)| !path.iter().any(|part| part == "tests"));
        let named: Vec<_> = product.filter(|(_, text)| text.contains(library)).collect();
        let outside: Vec<_> = named.iter().filter(|(path, _)| !path.ends_with(room)).map(|(path, _)| path).collect();
        assert!(outside.is_empty(), "{library} outside {room}: {outside:?}");
        assert!(!named.is_empty(), "{library} is nowhere: this rule can go");
    }
}

#[test]
fn no_file_is_a_whole_floor() {
    let long: Vec<_> = sources("crates")
        .into_iter()
        .chain(sources("tests"))
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "more than 600 lines; is each still one room? {long:?}");
}
