//! Where wishes come from: files, and directories of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use flypg_core::names::ClusterName;
use flypg_core::spec::{ClusterSpec, Diagnostics, MAX_BYTES, check_all};

use crate::store::KnownSpec;
use crate::turn::Wanted;

mod watch;

pub use watch::Watch;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{} does not exist", .path.display())]
    Missing { path: PathBuf },
    #[error("{} cannot be read", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A cluster goes when it leaves its file, so what it stands in must be something that stays.
    #[error("{} is neither a file nor a directory", .path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is a link back to a directory that holds it", .path.display())]
    Circular { path: PathBuf },
}

/// Files as they were at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// What was asked for, absolute.
    roots: Vec<PathBuf>,
    /// By absolute path: the name people know it by, and its bytes.
    files: BTreeMap<PathBuf, (String, Vec<u8>)>,
}

/// What the files say.
#[derive(Debug, Clone)]
pub struct Wishes {
    pub roots: Vec<PathBuf>,
    /// With the absolute path of the file that asks for it.
    pub clusters: Vec<KnownSpec>,
    /// Files with errors: nothing is taken from them.
    pub refused: BTreeSet<String>,
    /// Those of `roots` that hold no file at all: emptied, or not mounted.
    pub barren: Vec<PathBuf>,
    pub diagnostics: Diagnostics,
}

impl Files {
    /// Reads every file of `paths`: a file itself, and every `*.yaml` and `*.yml` below a directory. Names that start
    /// with a dot are passed over, as editors and mounted volumes leave such things behind.
    ///
    /// # Errors
    /// If anything that was asked for is not there or cannot be read: half a source is none.
    pub fn read(paths: &[PathBuf]) -> Result<Self, SourceError> {
        let mut files = Files::default();
        for path in paths {
            let root = match path.canonicalize() {
                Ok(root) => root,
                // A pipe: it can be read once, and has no place of its own.
                Err(_) if path.exists() => return Err(SourceError::NotAFile { path: path.clone() }),
                Err(source) => return Err(unreadable(path, source)),
            };
            if root.is_dir() {
                files.add_directory(path, &root, &mut Vec::new())?;
            } else {
                files.add_file(path, &root)?;
            }
            files.roots.push(root);
        }
        Ok(files)
    }

    fn add_file(&mut self, name: &Path, path: &Path) -> Result<(), SourceError> {
        if self.files.contains_key(path) {
            return Ok(());
        }
        // Opening a pipe would wait for whoever writes to it.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(SourceError::NotAFile { path: name.to_owned() });
        }
        let mut bytes = Vec::new();
        // One byte more than is taken tells that it is too large; how much larger is no matter.
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|source| unreadable(name, source))?;
        self.files.insert(path.to_owned(), (name.display().to_string(), bytes));
        Ok(())
    }

    /// `above`: the directories that led here, links resolved.
    fn add_directory(&mut self, name: &Path, path: &Path, above: &mut Vec<PathBuf>) -> Result<(), SourceError> {
        let here = path.canonicalize().map_err(|source| unreadable(name, source))?;
        if above.iter().any(|directory| directory.starts_with(&here)) {
            return Err(SourceError::Circular { path: name.to_owned() });
        }
        above.push(here);
        let entries = std::fs::read_dir(path).map_err(|source| unreadable(name, source))?;
        for entry in entries {
            let file_name = entry.map_err(|source| unreadable(name, source))?.file_name();
            let (name, path) = (name.join(&file_name), path.join(&file_name));
            let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
            if file_name.to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                self.add_directory(&name, &path, above)?;
            } else if is_yaml {
                self.add_file(&name, &path)?;
            }
        }
        above.pop();
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Parses and checks all of them.
    pub fn wishes(&self) -> Wishes {
        let named: Vec<(&str, &[u8])> =
            self.files.values().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
        let checked = check_all(&named);
        let path_of: BTreeMap<&str, &PathBuf> =
            self.files.iter().map(|(path, (name, _))| (name.as_str(), path)).collect();
        let clusters = checked.clusters.into_iter().map(|located| KnownSpec {
            file: path_of.get(located.place.file.as_str()).map_or_else(PathBuf::new, |path| (*path).clone()),
            spec: located.value,
        });
        let is_barren = |root: &&PathBuf| !self.files.keys().any(|file| file.starts_with(root));
        Wishes {
            roots: self.roots.clone(),
            barren: self.roots.iter().filter(is_barren).cloned().collect(),
            clusters: clusters.collect(),
            refused: checked.refused,
            diagnostics: checked.diagnostics,
        }
    }
}

impl Wishes {
    /// What is to become of every cluster that these files ask for, or once asked for.
    ///
    /// A cluster leaves only when every file is good and none asks for it: what a file with an error asks for is not
    /// known, and a cluster may be on its way from one file to another. Nor does a directory without any file take its
    /// clusters away: it may be a file system that is not mounted. Until then its last good spec stays in force.
    pub fn wanted(&self, known: &[KnownSpec]) -> BTreeMap<ClusterName, Wanted> {
        let keep = |spec: &ClusterSpec| (spec.name.clone(), Wanted::Kept(spec.clone()));
        let mut wanted: BTreeMap<_, _> = self.clusters.iter().map(|cluster| keep(&cluster.spec)).collect();
        for known in known.iter().filter(|known| self.roots.iter().any(|root| known.is_below(root))) {
            wanted.entry(known.spec.name.clone()).or_insert_with(|| {
                let barren = self.barren.iter().any(|root| known.is_below(root));
                if self.refused.is_empty() && !barren {
                    Wanted::Removed(known.spec.clone())
                } else {
                    Wanted::Kept(known.spec.clone())
                }
            });
        }
        wanted
    }
}

fn unreadable(path: &Path, source: std::io::Error) -> SourceError {
    let path = path.to_owned();
    match source.kind() {
        ErrorKind::NotFound => SourceError::Missing { path },
        _ => SourceError::Unreadable { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn cluster(name: &str) -> String {
        format!(
            "apiVersion: flypg/v1\nkind: PostgresCluster\nmetadata:\n  name: {name}\nspec:\n  \
             organization: personal\n  preset: development\n  postgres: {{ version: 15 }}\n  \
             regions: {{ primary: {{ code: ord, nodes: 1 }} }}\n"
        )
    }

    fn names(wanted: &BTreeMap<ClusterName, Wanted>) -> Vec<String> {
        let word = |wanted: &Wanted| match wanted {
            Wanted::Kept(_) => "kept",
            Wanted::Removed(_) => "removed",
        };
        wanted.iter().map(|(name, wanted)| format!("{name} {}", word(wanted))).collect()
    }

    #[test]
    fn a_cluster_leaves_only_when_every_file_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("team")).unwrap();
        fs::write(path("orders.yaml"), cluster("orders-db")).unwrap();
        fs::write(path("team/users.yml"), cluster("users-db")).unwrap();
        fs::write(path("team/notes.txt"), "not yaml").unwrap();
        fs::write(path(".orders.yaml"), "an editor's: [draft").unwrap();
        let read = || Files::read(&[dir.path().to_owned()]).unwrap().wishes();
        let first = read();
        assert!(first.refused.is_empty(), "{}", first.diagnostics.render(flypg_core::spec::Style::Plain));
        assert_eq!(names(&first.wanted(&[])), ["orders-db kept", "users-db kept"]);
        let known = first.clusters;

        // A mistake in the file that the cluster moved to.
        fs::remove_file(path("orders.yaml")).unwrap();
        fs::write(path("moved.yaml"), cluster("orders-db").replace("preset", "present")).unwrap();
        assert_eq!(names(&read().wanted(&known)), ["orders-db kept", "users-db kept"]);

        fs::write(path("moved.yaml"), cluster("orders-db")).unwrap();
        assert_eq!(names(&read().wanted(&known)), ["orders-db kept", "users-db kept"]);
        fs::remove_file(path("moved.yaml")).unwrap();
        assert_eq!(names(&read().wanted(&known)), ["orders-db removed", "users-db kept"]);

        // A directory that is empty all of a sudden is one that was unmounted.
        fs::rename(path("team/users.yml"), path("users.txt")).unwrap();
        assert_eq!(names(&read().wanted(&known)), ["orders-db kept", "users-db kept"]);
        fs::write(path("none.yaml"), "# no cluster\n").unwrap();
        assert_eq!(names(&read().wanted(&known)), ["orders-db removed", "users-db removed"]);
        fs::rename(path("users.txt"), path("team/users.yml")).unwrap();

        // Whoever is asked about one file says nothing about clusters of others.
        let one = Files::read(&[path("team/users.yml")]).unwrap().wishes();
        assert_eq!(names(&one.wanted(&known)), ["users-db kept"]);
    }

    #[test]
    fn a_source_that_is_not_there_is_not_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("gone");
        assert!(matches!(Files::read(&[gone]), Err(SourceError::Missing { .. })));
    }

    #[test]
    fn what_is_no_file_and_what_never_ends_is_told_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let read = |path: PathBuf| Files::read(&[path]);
        fs::create_dir_all(path("clusters/a")).unwrap();
        std::os::unix::fs::symlink(dir.path(), path("clusters/a/up")).unwrap();
        assert!(
            matches!(read(path("clusters")), Err(SourceError::Circular { path }) if path.ends_with("clusters/a/up"))
        );
        fs::remove_file(path("clusters/a/up")).unwrap();

        let zero = PathBuf::from("/dev/zero");
        assert!(matches!(read(zero.clone()), Err(SourceError::NotAFile { .. })));
        std::os::unix::fs::symlink(zero, path("clusters/zero.yaml")).unwrap();
        assert!(matches!(read(path("clusters")), Err(SourceError::NotAFile { .. })));
        fs::remove_file(path("clusters/zero.yaml")).unwrap();

        fs::write(path("clusters/huge.yaml"), vec![b'a'; MAX_BYTES * 2]).unwrap();
        let wishes = read(path("clusters")).unwrap().wishes();
        assert_eq!(wishes.refused.len(), 1);
    }
}
