//! A network namespace for each machine, and one that routes between them (Linux, root).
//!
//! ```text
//!   flypg-TAG (the router)                    flypg-TAG-<machine>
//!   ┌───────────────────────────┐             ┌─────────────────────┐
//!   │ <machine>  fe80::1 ───────┼─────────────┼ eth0  fdaa:TAG:…:2  │
//!   │ <machine>  fe80::1 ───────┼──── …       └─────────────────────┘
//!   │ outside    fe80::1 ───────┼──────────── flypg-TAG  fdaa:TAG::1   (the emulator's own namespace)
//!   └───────────────────────────┘
//! ```
//!
//! Fly's private network is routed, not switched, so this one is, too: a machine that is dead or cut off is silence, not
//! an error of the link layer, and a cut in one direction stays one (neighbour discovery never crosses it). Every name
//! begins with `flypg-`, so `ip netns list | grep ^flypg-` finds what a killed emulator left; its next start takes that
//! over. Nothing here leaves these namespaces: the only way in or out is the one interface of the emulator.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::emulator::StartError;
use crate::world::ips::AddressPlan;
use crate::world::links::{Links, OUTSIDE};

/// Where `ip netns` keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// The namespaces of one emulator.
#[derive(Debug)]
pub(crate) struct Namespaces {
    tag: u16,
    nsenter: PathBuf,
    /// As it is to be. Held for moments only.
    wanted: Mutex<Traffic>,
    /// As the router has it. Held while rules are loaded.
    loaded: Mutex<Traffic>,
}

/// Who may not talk to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Traffic {
    /// Machines that neither hear nor say anything.
    dark: BTreeSet<String>,
    links: Links,
}

impl Traffic {
    /// The router's whole ruleset. Loading it replaces the one before at one moment.
    fn ruleset(&self) -> String {
        let mut text = String::from(
            "table inet flypg\ndelete table inet flypg\ntable inet flypg {\n  chain forward {\n    \
             type filter hook forward priority 0; policy accept;\n",
        );
        // Writing to a string cannot fail.
        for machine in &self.dark {
            let _ = writeln!(text, "    iifname \"{machine}\" drop\n    oifname \"{machine}\" drop");
        }
        for (link, loss) in self.links.iter() {
            let _ = write!(text, "    iifname \"{}\" oifname \"{}\" ", link.from, link.to);
            let _ = match loss.per_mille() {
                1000 => writeln!(text, "drop"),
                some => writeln!(text, "numgen random mod 1000 < {some} drop"),
            };
        }
        text.push_str("  }\n}\n");
        text
    }
}

impl Namespaces {
    pub(crate) const fn tag(&self) -> u16 {
        self.tag
    }

    /// Makes the router, or takes over the one of an earlier emulator of the same world.
    ///
    /// # Errors
    /// When this is not root, a program is missing, or the kernel refuses. What was made so far is removed then.
    pub(crate) fn claim(kept: Option<&AddressPlan>, seed: u64) -> Result<Self, StartError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StartError::NotRoot);
        }
        let find = |name: &'static str| find_program(name).ok_or(StartError::NoProgram { name });
        find("ip")?;
        find("nft")?;
        let nsenter = find("nsenter")?;
        let with = |tag| Self { tag, nsenter: nsenter.clone(), wanted: Mutex::default(), loaded: Mutex::default() };
        if let Some(AddressPlan::Namespaces { tag }) = kept {
            let kept = with(*tag);
            // There is one emulator for a data directory, so nobody else holds this tag.
            if !Path::new(NAMES).join(kept.router()).exists() {
                kept.make_name().map_err(StartError::Network)?;
            }
            return kept.set_up().map(|()| kept).map_err(StartError::Network);
        }
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        // Making a name that is there fails, which makes it a claim.
        for n in 0..64 {
            let free = with((seed.wrapping_add(n) % 0xfffe) as u16 + 1);
            match free.make_name() {
                Ok(()) => {
                    return match free.set_up() {
                        Ok(()) => Ok(free),
                        Err(error) => {
                            free.remove();
                            Err(StartError::Network(error))
                        }
                    };
                }
                Err(error) => last = error,
            }
        }
        Err(StartError::Network(last))
    }

    fn router(&self) -> String {
        format!("flypg-{:x}", self.tag)
    }

    fn prefix(&self) -> String {
        format!("{}-", self.router())
    }

    fn space(&self, machine: &str) -> String {
        format!("{}{machine}", self.prefix())
    }

    fn make_name(&self) -> io::Result<()> {
        run("ip", ["netns", "add", &self.router()], "")
    }

    /// Builds what is missing of the router and of the way to it, with every link good.
    fn set_up(&self) -> io::Result<()> {
        let (router, tag) = (self.router(), self.tag);
        let forwarding = "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        run("ip", ["netns", "exec", &router, "sh", "-c", forwarding], "")?;
        // An earlier emulator's way is replaced: it may have been half made.
        quietly("ip", ["-n", &router, "link", "del", OUTSIDE]);
        run("ip", ["-n", &router, "link", "add", OUTSIDE, "type", "veth", "peer", "name", &router, "netns", "1"], "")?;
        let way = format!(
            "link set {OUTSIDE} addrgenmode none\naddr add fe80::1/64 dev {OUTSIDE} nodad\nlink set {OUTSIDE} up\n\
             route replace fdaa:{tag:x}::1/128 dev {OUTSIDE}\nroute replace blackhole fdaa:{tag:x}::/32\n"
        );
        run("ip", ["-6", "-n", &router, "-batch", "-"], &way)?;
        let own = format!(
            "link set {router} addrgenmode none\naddr add fe80::2/64 dev {router} nodad\n\
             addr add fdaa:{tag:x}::1/128 dev {router} nodad\nlink set {router} up\n\
             route replace fdaa:{tag:x}::/32 via fe80::1 dev {router} src fdaa:{tag:x}::1\n"
        );
        run("ip", ["-6", "-batch", "-"], &own)?;
        self.load(&Traffic::default())
    }

    fn load(&self, traffic: &Traffic) -> io::Result<()> {
        run("ip", ["netns", "exec", &self.router(), "nft", "-f", "-"], &traffic.ruleset())
    }

    /// Connects a machine, with nothing left of connections that it had in an earlier run.
    pub(super) fn connect(&self, machine: &str, address: &str) -> io::Result<()> {
        self.cut_cable(machine);
        let (router, space) = (self.router(), self.space(machine));
        run("ip", ["netns", "add", &space], "")?;
        run(
            "ip",
            ["-n", &router, "link", "add", machine, "type", "veth", "peer", "name", "eth0", "netns", &space],
            "",
        )?;
        let inside = format!(
            "link set lo up\nlink set eth0 addrgenmode none\naddr add fe80::2/64 dev eth0 nodad\n\
             addr add {address}/128 dev eth0 nodad\nlink set eth0 up\n\
             route add default via fe80::1 dev eth0 src {address}\n"
        );
        run("ip", ["-6", "-n", &space, "-batch", "-"], &inside)?;
        let outside = format!(
            "link set {machine} addrgenmode none\naddr add fe80::1/64 dev {machine} nodad\nlink set {machine} up\n\
             route replace {address}/128 dev {machine}\n"
        );
        run("ip", ["-6", "-n", &router, "-batch", "-"], &outside)?;
        self.want(|traffic| _ = traffic.dark.remove(machine));
        self.apply()
    }

    pub(super) fn darken(&self, machine: &str, dark: bool) {
        // A machine that was never connected is dark anyway.
        if !Path::new(NAMES).join(self.space(machine)).exists() {
            return;
        }
        self.want(|traffic| {
            match dark {
                true => traffic.dark.insert(machine.to_owned()),
                false => traffic.dark.remove(machine),
            };
        });
        if let Err(error) = self.apply() {
            tracing::error!(%error, machine, dark, "the machine's link could not be changed");
        }
    }

    pub(super) fn want_links(&self, links: Links) {
        self.want(|traffic| traffic.links = links);
    }

    fn want(&self, change: impl FnOnce(&mut Traffic)) {
        change(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets the router have what is wanted by now, whoever wanted it.
    ///
    /// # Errors
    /// When the rules could not be loaded; those before stay in force then, and the next call tries again.
    pub(super) fn apply(&self) -> io::Result<()> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if *loaded != wanted {
            self.load(&wanted)?;
            *loaded = wanted;
        }
        Ok(())
    }

    /// Takes the machine's interface away at once, and its namespace as soon as nothing is in it.
    fn cut_cable(&self, machine: &str) {
        quietly("ip", ["-n", &self.router(), "link", "del", machine]);
        quietly("ip", ["netns", "del", &self.space(machine)]);
    }

    pub(super) fn discard(&self, machine: &str) {
        self.cut_cable(machine);
        self.want(|traffic| _ = traffic.dark.remove(machine));
        if let Err(error) = self.apply() {
            tracing::warn!(%error, machine, "the rules of a machine that is gone stay");
        }
    }

    pub(super) fn connected(&self) -> Vec<String> {
        let names = std::fs::read_dir(NAMES).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_prefix(&self.prefix()).map(str::to_owned)).collect()
    }

    pub(super) fn remove(&self) {
        self.connected().iter().for_each(|machine| self.cut_cable(machine));
        // Both ends of the way out go with one.
        quietly("ip", ["-n", &self.router(), "link", "del", OUTSIDE]);
        quietly("ip", ["netns", "del", &self.router()]);
    }

    pub(super) fn command(&self, machine: &str, program: &Path) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.nsenter);
        // It becomes the program, under the same pid.
        command.arg(format!("--net={NAMES}/{}", self.space(machine))).arg("--").arg(program);
        command
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// Runs a program to its end with this on its standard input.
fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>, input: &str) -> io::Result<()> {
    let found = find_program(program).ok_or_else(|| io::Error::other(format!("{program} is not installed")))?;
    let mut command = Command::new(found);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have failed before it read everything; then it says so itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", words.join(" "), error.trim())))
}

/// The same for the removal of what may not be there.
fn quietly<const N: usize>(program: &str, arguments: [&str; N]) {
    if let Err(error) = run(program, arguments, "") {
        tracing::trace!(%error, "nothing was removed");
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::world::links::{Link, Loss};

    #[test]
    fn the_rules_of_a_bad_day() {
        let link = |from: &str, to: &str| Link { from: from.to_owned(), to: to.to_owned() };
        let mut links = Links::default();
        links.set(link("a1", OUTSIDE), Loss::ALL);
        links.set(link("a1", "b2"), Loss::of(0.25).unwrap());
        let traffic = Traffic { dark: BTreeSet::from(["c3".to_owned()]), links };
        expect![[r#"
            table inet flypg
            delete table inet flypg
            table inet flypg {
              chain forward {
                type filter hook forward priority 0; policy accept;
                iifname "c3" drop
                oifname "c3" drop
                iifname "a1" oifname "b2" numgen random mod 1000 < 250 drop
                iifname "a1" oifname "outside" drop
              }
            }
        "#]]
        .assert_eq(&traffic.ruleset());
    }
}
