//! Libraries that parameters name. Postgres looks for them only when it starts, or when a session does, and gives up
//! on all if one is missing; so they are looked for before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::Config;

const SHARED: &str = "shared_preload_libraries";
const SESSION: &str = "session_preload_libraries";
const LOCAL: &str = "local_preload_libraries";

/// The parameters among these that name a library which is not here, in Postgres' words.
pub fn missing(config: &Config, parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is = |name: &str, other: &str| name.eq_ignore_ascii_case(other);
    // Where else libraries may be is then the person's to say, and Postgres' to judge.
    if parameters.keys().any(|name| is(name, "dynamic_library_path")) {
        return BTreeMap::new();
    }
    let Some(libdir) = libdir(&config.bin) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for (name, value) in parameters.iter().filter(|(name, _)| [SHARED, SESSION, LOCAL].iter().any(|p| is(name, p))) {
        let first = names(value).find(|library| !is_here(&libdir, library, is(name, LOCAL)));
        if let Some(library) = first {
            found.insert(name.clone(), format!("could not access file \"{library}\": No such file or directory"));
        }
    }
    found
}

/// `pkglibdir`, known by a library of PostgreSQL's own: beside `bin` in Debian's and the project's packages, one
/// further down where PostgreSQL was installed from source below a shared prefix.
fn libdir(bin: &Path) -> Option<PathBuf> {
    let prefix = bin.parent()?;
    ["lib", "lib/postgresql"].map(|lib| prefix.join(lib)).into_iter().find(|l| l.join("libpqwalreceiver.so").is_file())
}

/// A list of names, quoted or not, as `SplitDirectoriesString` of PostgreSQL takes it apart.
fn names(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty())
}

/// `expand_dynamic_library_name` of PostgreSQL, with `dynamic_library_path` as it is by default.
fn is_here(libdir: &Path, name: &str, local: bool) -> bool {
    let path = match name.strip_prefix("$libdir/") {
        Some(below) => libdir.join(below),
        None if name.contains('/') => PathBuf::from(name),
        None if local => libdir.join("plugins").join(name),
        None => libdir.join(name),
    };
    path.is_file() || PathBuf::from(format!("{}.so", path.display())).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_where_postgres_looks() {
        let prefix = tempfile::tempdir().unwrap();
        let lib = prefix.path().join("lib");
        std::fs::create_dir_all(lib.join("plugins")).unwrap();
        assert_eq!(libdir(&prefix.path().join("bin")), None);
        for file in ["libpqwalreceiver.so", "auto_explain.so", "plugins/mine.so"] {
            std::fs::write(lib.join(file), "").unwrap();
        }
        assert_eq!(libdir(&prefix.path().join("bin")), Some(lib.clone()));
        let absolute = lib.join("auto_explain").display().to_string();
        for name in ["auto_explain", "auto_explain.so", "$libdir/auto_explain", "$libdir/plugins/mine", &absolute] {
            assert!(is_here(&lib, name, false), "{name}");
        }
        assert!(is_here(&lib, "mine", true) && !is_here(&lib, "mine", false) && !is_here(&lib, "other", false));
        assert_eq!(names(r#" a , "b",, c.so "#).collect::<Vec<_>>(), ["a", "b", "c.so"]);
    }
}
