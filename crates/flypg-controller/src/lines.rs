//! A file of lines that only grows, and never beyond a bound: when it is full it becomes the older one, and the one
//! before that goes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {done}", .path.display())]
pub struct LineError {
    path: PathBuf,
    done: &'static str,
    #[source]
    source: std::io::Error,
}

impl LineError {
    pub(crate) fn read(path: PathBuf, source: std::io::Error) -> Self {
        Self { path, done: "read", source }
    }
}

/// What was written before `path` was begun anew.
pub fn older(path: &Path) -> PathBuf {
    path.with_extension("jsonl.1")
}

/// Lines that are appended. Readable by this user alone.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: File,
    longest: u64,
    bytes: u64,
    /// The last line is not whole: the disk was full, or its writer died.
    torn: bool,
}

impl Lines {
    /// Opens `path` to append to it, making its directory if there is none; at `longest` bytes it is begun anew.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: PathBuf, longest: u64) -> Result<Self, LineError> {
        let failed = |source| LineError { path: path.clone(), done: "opened", source };
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let file = append_to(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut end = [b'\n'];
        if bytes > 0 {
            File::open(&path).and_then(|file| file.read_exact_at(&mut end, bytes - 1)).map_err(failed)?;
        }
        Ok(Self { file, longest, bytes, torn: end != [b'\n'], path })
    }

    /// Appends `line`, which has no line break.
    ///
    /// # Errors
    /// If it cannot be written; what was written of it is closed before the next.
    pub fn append(&mut self, mut line: Vec<u8>) -> Result<(), LineError> {
        line.push(b'\n');
        self.write(&line).map_err(|source| LineError { path: self.path.clone(), done: "written", source })
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.bytes >= self.longest {
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = append_to(&self.path)?;
            self.bytes = 0;
            self.torn = false;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        self.bytes += line.len() as u64;
        let written = self.file.write_all(line);
        self.torn = written.is_err();
        written
    }
}

fn append_to(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_closed_and_a_full_file_becomes_the_older_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/orders-db.jsonl");
        let text = |path: &Path| std::fs::read_to_string(path).unwrap();
        Lines::open(path.clone(), 8).unwrap().append(b"one".to_vec()).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"tw").unwrap();
        let mut lines = Lines::open(path.clone(), 8).unwrap();
        lines.append(b"three".to_vec()).unwrap();
        assert_eq!(text(&path), "one\ntw\nthree\n");
        lines.append(b"four".to_vec()).unwrap();
        assert_eq!((text(&older(&path)).as_str(), text(&path).as_str()), ("one\ntw\nthree\n", "four\n"));
    }
}
