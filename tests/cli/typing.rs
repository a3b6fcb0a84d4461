//! What is typed, and mistyped.

use expect_test::expect;

use crate::Shell;

#[test]
fn the_first_page() {
    let mut text = Shell::new().transcript("--help");
    // Set by the width of nothing: there is no terminal.
    text.retain(|c| c != '\r');
    expect![[r#"
        $ flypg --help
        PostgreSQL clusters on Fly Machines, as your files say they should be

        Usage: flypg [OPTIONS] <COMMAND>

        Commands:
          validate     Check files, and touch nothing
          schema       Print the JSON Schema of cluster.yaml
          reconcile    Make the clusters what the files say
          status       Say how clusters are
          events       Tell what happened to a cluster
          connect      Open psql on a cluster
          switchover   Make another node the primary, without losing anything
          failover     Make a node the primary although it may lack what was acknowledged
          replay       Plan the turns of a journal again, and show where this flypg would plan otherwise
          controller   Keep the clusters what the files say, until stopped
          emulator     A Machines API on this computer
          completions  Print a completion script
          man          Print the manual page
          help         Print this message or the help of the given subcommand(s)

        Options:
          -h, --help     Print help
          -V, --version  Print version

        Global options:
              --api <URL>              The Machines API [default: FLY_FLAPS_BASE_URL, else FLY_API_HOSTNAME,
                                       else https://api.machines.dev]
              --state <DIR>            Where keys and records are kept [default: ~/.local/state/flypg] [env:
                                       FLYPG_STATE]
              --agents <ROUTE>         How nodes are called: at their private addresses, through the
                                       Machines API, or whichever way there is [env: FLYPG_AGENTS] [default:
                                       auto] [possible values: direct, exec, auto]
              --platform-proof <WHEN>  Believe the Machines API that a machine has stopped, and fail over
                                       sooner for it; auto: unless it is the public one [env:
                                       FLYPG_PLATFORM_PROOF] [default: auto] [possible values: on, off,
                                       auto]
              --adopt-state            Take a state directory that was copied from another computer as this
                                       one's; the original must never be used again
          -v, --verbose...             Say what happens underneath; twice, say everything [alias: --debug]
    "#]]
    .assert_eq(&text);
}

#[test]
fn nothing_is_an_error_that_shows_the_way() {
    let shell = Shell::new();
    let output = shell.output("");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: flypg"));
}

#[test]
fn mistakes_in_the_command_line() {
    let shell = Shell::new();
    expect![[r#"
        $ flypg reconsile -f x
        | error: unrecognized subcommand 'reconsile'
        |
        |   tip: a similar subcommand exists: 'reconcile'
        |
        | Usage: flypg [OPTIONS] <COMMAND>
        |
        | For more information, try '--help'.
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconsile -f x"));
    expect![[r#"
        $ flypg reconcile
        | error: the following required arguments were not provided:
        |   --file <PATH>
        |
        | Usage: flypg reconcile --file <PATH>
        |
        | For more information, try '--help'.
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconcile"));
    expect![[r#"
        $ flypg reconcile -f x --wait=soon
        | error: invalid value 'soon' for '--wait[=<DURATION>]': expected a duration such as 90s, 10m or 1h30m
        |
        | For more information, try '--help'.
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconcile -f x --wait=soon"));
    expect![[r#"
        $ flypg reconcile -f x --exit-code
        | error: the following required arguments were not provided:
        |   --dry-run
        |
        | Usage: flypg reconcile --file <PATH> --dry-run --exit-code
        |
        | For more information, try '--help'.
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconcile -f x --exit-code"));
    expect![[r#"
        $ flypg status Orders_DB
        | error: no cluster can have this name
        | caused by: `Orders_DB` is not a cluster name: 3 to 63 lower-case letters, digits and dashes, starting with a letter and not ending with a dash
        exit 1
    "#]].assert_eq(&shell.transcript("status Orders_DB"));
    expect![[r#"
        $ flypg controller -f x --listen 5
        | error: invalid value '5' for '--listen <ADDR>': invalid socket address syntax
        |
        | For more information, try '--help'.
        exit 1
    "#]]
    .assert_eq(&shell.transcript("controller -f x --listen 5"));
}

#[test]
fn shells_and_man_are_served() {
    let shell = Shell::new();
    for name in ["bash", "zsh", "fish"] {
        let output = shell.output(&format!("completions {name}"));
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("flypg"), "{name}");
    }
    let page = String::from_utf8_lossy(&shell.output("man").stdout).into_owned();
    assert!(page.contains(".TH flypg 1") && page.contains("reconcile"), "{page}");
}
