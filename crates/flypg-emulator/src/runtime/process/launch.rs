//! Getting a machine's processes off the ground: directories, files, environment, command line.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::process::{Child, Command};

use crate::world::Boot;
use crate::world::config;

use super::Inner;
use super::tree::Known;

/// Logs are cut to their last part when they grow beyond this.
const LONGEST_LOG: u64 = 8 << 20;
const KEPT_LOG: u64 = 1 << 20;

/// What is written down about a run, so that another emulator can take it over.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct RunFile {
    pub(super) run: u64,
    pub(super) processes: Vec<Known>,
}

impl RunFile {
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(&new, path)
    }
}

/// Makes a directory that others may pass through.
pub(super) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    open_up(dir)
}

pub(super) fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

/// The first directory above `dir` that only its owner may pass through.
pub(super) fn shut_to_others(dir: &Path) -> Option<PathBuf> {
    let shut = |dir: &&Path| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0);
    dir.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).find(shut).map(Path::to_path_buf)
}

/// The place of an absolute guest path below the root; `None` if it climbs out.
fn below(root: &Path, guest_path: &str) -> Option<PathBuf> {
    let mut place = root.to_path_buf();
    for component in Path::new(guest_path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => place.push(part),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(place)
}

/// Prepares the root directory: emptied unless it is to be kept, the volume linked in, files written, the machine connected.
pub(super) fn prepare(inner: &Inner, boot: &Boot) -> io::Result<()> {
    let config = &boot.machine.config;
    let root = inner.root(&boot.machine.id);
    if !config.keep_root && root.exists() {
        fs::remove_dir_all(&root)?;
    }
    make_dir(&root)?;
    if let Some(network) = inner.network() {
        network.connect(&boot.machine.id, &boot.machine.address)?;
    }
    let climbs = || io::Error::new(io::ErrorKind::InvalidInput, "the path climbs out of the root");
    if let Some(mount) = &config.mount {
        let volume = inner.volume_dir(&mount.volume);
        make_dir_if_missing(&volume)?;
        let link = below(&root, &mount.path).ok_or_else(climbs)?;
        if let Some(parent) = link.parent() {
            make_dir(parent)?;
        }
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(&volume, &link)?,
        }
        forget_old_names(&inner.data.join("v"), &volume);
    }
    for file in &config.files {
        let place = below(&root, &file.guest_path).ok_or_else(climbs)?;
        write_file(&place, file, &boot.secrets)?;
    }
    Ok(())
}

/// Removes links that a migration left for processes of the run before.
fn forget_old_names(volumes: &Path, volume: &Path) {
    for entry in fs::read_dir(volumes).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target == volume) {
            // If it stays, it stays.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The volume's own mode belongs to whoever uses it.
fn make_dir_if_missing(dir: &Path) -> io::Result<()> {
    if dir.exists() { Ok(()) } else { make_dir(dir) }
}

fn write_file(place: &Path, file: &config::File, secrets: &BTreeMap<String, String>) -> io::Result<()> {
    let secret = file.secret_name.as_ref().and_then(|name| secrets.get(name));
    let Some(encoded) = file.raw_value.as_ref().or(secret) else { return Ok(()) };
    let content = STANDARD.decode(encoded.trim()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if let Some(parent) = place.parent() {
        make_dir(parent)?;
    }
    fs::write(place, content)?;
    fs::set_permissions(place, fs::Permissions::from_mode(file.mode & 0o7777))
}

/// The environment of a machine's processes.
pub(super) fn environment(inner: &Inner, boot: &Boot) -> BTreeMap<String, String> {
    let root = inner.root(&boot.machine.id).display().to_string();
    let inherited = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), inherited("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")),
        ("LANG".to_owned(), inherited("LANG", "C.UTF-8")),
        ("HOME".to_owned(), root.clone()),
    ]);
    env.extend(boot.env.clone());
    // By this the processes are found again, so nothing may override it.
    env.insert("FLY_EMULATOR_ROOT".to_owned(), root);
    env
}

/// A command that runs inside the machine as far as there is an inside.
pub(super) fn command(
    inner: &Inner,
    boot: &Boot,
    argv: &[String],
    env: &BTreeMap<String, String>,
) -> io::Result<Command> {
    let (program, arguments) = argv.split_first().ok_or_else(|| io::Error::other("the command line is empty"))?;
    let root = inner.root(&boot.machine.id);
    // A program that was put into the machine goes before one of the computer.
    let own = Some(program).filter(|program| program.starts_with('/')).and_then(|program| below(&root, program));
    let program = own.filter(|own| own.exists()).unwrap_or_else(|| PathBuf::from(program));
    let closed = || io::Error::other("the emulator is ending");
    let mut command = inner.network().ok_or_else(closed)?.command(&boot.machine.id, &program);
    command.args(arguments).env_clear().envs(env).current_dir(root).process_group(0);
    Ok(command)
}

/// Words, and variables on top of the machine's.
type CommandLine = (Vec<String>, BTreeMap<String, String>);

/// The command lines of a boot: one, or one per entry of `processes`.
fn command_lines(inner: &Inner, boot: &Boot) -> io::Result<Vec<CommandLine>> {
    let config = &boot.machine.config;
    let missing = || io::Error::other(format!("there is no image {}", config.image));
    let image = inner.images.find(&config.image).ok_or_else(missing)?;
    let line = |exec: &Option<Vec<String>>, entrypoint: &Option<Vec<String>>, cmd: &Option<Vec<String>>| {
        if let Some(exec) = exec {
            return exec.clone();
        }
        let (first, rest) = image.split_at(image.len().min(1));
        let mut words = entrypoint.clone().unwrap_or_else(|| first.to_vec());
        match (cmd, entrypoint) {
            (Some(cmd), _) => words.extend(cmd.iter().cloned()),
            // A new entrypoint does not get the arguments of the old one.
            (None, Some(_)) => {}
            (None, None) => words.extend(rest.iter().cloned()),
        }
        words
    };
    let own = &config.command;
    if own.processes.is_empty() {
        return Ok(vec![(line(&own.exec, &own.entrypoint, &own.cmd), BTreeMap::new())]);
    }
    Ok(own
        .processes
        .iter()
        .map(|process| (line(&process.exec, &process.entrypoint, &process.cmd), process.env.clone()))
        .collect())
}

/// Starts the processes of a boot.
pub(super) fn spawn(inner: &Inner, boot: &Boot) -> io::Result<Vec<Child>> {
    let env = environment(inner, boot);
    let log = inner.log_file(&boot.machine.id);
    // Appending, so that the log can be cut while it is written to, and written to without the emulator.
    let log = OpenOptions::new().create(true).append(true).mode(0o644).open(log)?;
    let mut children = Vec::new();
    for (argv, more) in command_lines(inner, boot)? {
        let mut command = command(inner, boot, &argv, &env)?;
        command.envs(more).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        children.push(command.spawn()?);
    }
    let known = children.iter().filter_map(|child| Known::find(child.id()?.cast_signed()));
    let run = RunFile { run: boot.run, processes: known.collect() };
    run.write(&inner.run_file(&boot.machine.id))?;
    Ok(children)
}

/// Cuts every long log to its last part.
pub(super) fn trim_logs(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.metadata().is_ok_and(|meta| meta.len() > LONGEST_LOG)
            && let Err(error) = trim_log(&path)
        {
            tracing::warn!(%error, log = %path.display(), "the log could not be cut");
        }
    }
}

fn trim_log(path: &Path) -> io::Result<()> {
    let mut file = File::options().read(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(KEPT_LOG)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    file.set_len(0)?;
    io::Write::write_all(&mut file, &tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_paths_stay_below_the_root() {
        let root = Path::new("/r");
        assert_eq!(below(root, "/data").unwrap(), Path::new("/r/data"));
        assert_eq!(below(root, "/a/./b").unwrap(), Path::new("/r/a/b"));
        assert_eq!(below(root, "/../etc"), None);
    }

    #[test]
    fn long_logs_keep_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let mut text = vec![b'a'; usize::try_from(LONGEST_LOG).unwrap()];
        text.extend(b"the end");
        fs::write(&log, &text).unwrap();
        trim_logs(dir.path());
        let kept = fs::read(&log).unwrap();
        assert_eq!(kept.len() as u64, KEPT_LOG);
        assert!(kept.ends_with(b"the end"));
    }
}
