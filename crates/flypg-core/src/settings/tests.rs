use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn lines(settings: &BTreeMap<String, String>) -> String {
    settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
}

fn check_memory(memory_mb: u64, cpus: u32, disk_mb: u64, expected: Expect) {
    let names = ["shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem", "max_wal_size"];
    let all = derive(Guest { memory_mb, cpus }, Some(disk_mb), 15);
    expected.assert_eq(&names.map(|n| format!("{n} {}", all[n])).join(", "));
}

#[test]
fn memory_settings_follow_the_guest() {
    check_memory(
        256,
        1,
        1024,
        expect![
            "shared_buffers 25MB, effective_cache_size 192MB, work_mem 4MB, maintenance_work_mem 16MB, max_wal_size 102MB"
        ],
    );
    check_memory(
        1024,
        1,
        10_240,
        expect![
            "shared_buffers 256MB, effective_cache_size 768MB, work_mem 4MB, maintenance_work_mem 64MB, max_wal_size 1024MB"
        ],
    );
    check_memory(
        4096,
        2,
        40_960,
        expect![
            "shared_buffers 1024MB, effective_cache_size 3072MB, work_mem 10MB, maintenance_work_mem 204MB, max_wal_size 4096MB"
        ],
    );
    check_memory(
        131_072,
        16,
        512_000,
        expect![
            "shared_buffers 32768MB, effective_cache_size 98304MB, work_mem 327MB, maintenance_work_mem 1024MB, max_wal_size 16384MB"
        ],
    );
}

#[test]
fn all_settings_of_a_small_standby() {
    let cluster = "orders-db".parse().unwrap();
    let node = "ord-2".parse().unwrap();
    let owned = owned(&Ownership {
        cluster: &cluster,
        node: &node,
        major: 17,
        disk_mb: Some(10_240),
        socket_directory: "/run/flypg/postgres",
        primary_conninfo: Some("host=/run/flypg/upstream port=5435"),
        synchronous_standby_names: "",
    });
    let person = BTreeMap::from([("Work_Mem".to_owned(), "16MB".to_owned())]);
    let all = layered(derive(Guest { memory_mb: 4096, cpus: 2 }, Some(10_240), 17), &person, owned);
    expect![[r#"
        allow_alter_system = off
        archive_command = 
        archive_mode = off
        autovacuum_max_workers = 3
        client_connection_check_interval = 10s
        cluster_name = ord-2.orders-db
        effective_cache_size = 3072MB
        effective_io_concurrency = 200
        fsync = on
        full_page_writes = on
        hot_standby = on
        hot_standby_feedback = on
        lc_messages = C
        listen_addresses = 
        log_destination = stderr
        log_line_prefix = %m [%p] %q%u@%d 
        log_timezone = UTC
        logging_collector = off
        maintenance_work_mem = 204MB
        max_connections = 300
        max_parallel_maintenance_workers = 1
        max_parallel_workers = 2
        max_parallel_workers_per_gather = 1
        max_replication_slots = 32
        max_slot_wal_keep_size = 2048MB
        max_wal_senders = 32
        max_wal_size = 1024MB
        max_worker_processes = 10
        min_wal_size = 256MB
        password_encryption = scram-sha-256
        port = 5432
        primary_conninfo = host=/run/flypg/upstream port=5435
        primary_slot_name = flypg_ord_2
        random_page_cost = 1.1
        recovery_target_timeline = latest
        restart_after_crash = off
        restore_command = 
        shared_buffers = 1024MB
        ssl = off
        synchronous_commit = on
        synchronous_standby_names = 
        timezone = UTC
        unix_socket_directories = /run/flypg/postgres
        unix_socket_permissions = 0700
        wal_compression = on
        wal_keep_size = 512MB
        wal_level = logical
        wal_log_hints = on
        wal_receiver_status_interval = 1s
        wal_receiver_timeout = 5s
        wal_retrieve_retry_interval = 500ms
        wal_sender_timeout = 5s
        work_mem = 16MB
    "#]]
    .assert_eq(&lines(&all));
}

/// Whatever flypg owns, a person is told that they may not set it; whatever it only derives, they may.
#[test]
fn owned_names_are_refused_and_derived_names_are_not() {
    let (cluster, node) = ("orders-db".parse().unwrap(), "ord-1".parse().unwrap());
    for major in 15..=18 {
        let of = Ownership {
            cluster: &cluster,
            node: &node,
            major,
            disk_mb: None,
            socket_directory: "/s",
            primary_conninfo: None,
            synchronous_standby_names: "",
        };
        for name in owned(&of).keys() {
            assert!(refused(name).is_some(), "{name} is owned");
            assert!(refused(&name.to_ascii_uppercase()).is_some(), "{name} in capitals");
        }
        for name in derive(Guest { memory_mb: 1024, cpus: 1 }, Some(1024), major).keys() {
            assert_eq!(refused(name), None, "{name} is a default");
        }
    }
}

#[test]
fn names_have_postgres_syntax() {
    for good in ["work_mem", "auto_explain.log_min_duration", "DateStyle", "a.b.c", "_x$1"] {
        assert_eq!(check_name(good), Ok(()), "{good}");
    }
    for bad in ["", "work-mem", "1x", "a..b", ".a", "a.", "a b", "a='x'\nb", "wörk"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn values_are_quoted_as_postgres_reads_them() {
    let settings = BTreeMap::from([
        ("a".to_owned(), r"it's a \ path".to_owned()),
        ("b".to_owned(), String::new()),
        ("c.d".to_owned(), "# = '".to_owned()),
    ]);
    let text = render(&settings).unwrap();
    expect![[r##"
        a = 'it''s a \\ path'
        b = ''
        c.d = '# = '''
    "##]]
    .assert_eq(text.split_once('\n').unwrap().1);
    for bad in ["a\nfsync = off", "a\0", "\u{7f}"] {
        assert!(render(&BTreeMap::from([("a".to_owned(), bad.to_owned())])).is_err(), "{bad:?}");
    }
}

#[test]
fn a_standby_has_at_least_what_its_primary_had() {
    let control = HOT_STANDBY_SENSITIVE.map(|(name, default)| (name.to_owned(), default + 50)).into();
    let mut wanted = BTreeMap::from([
        ("max_connections".to_owned(), "20".to_owned()),
        ("max_wal_senders".to_owned(), "500".to_owned()),
        ("max_worker_processes".to_owned(), "lots".to_owned()),
    ]);
    effective_for_standby(&mut wanted, &control);
    expect![[r#"
        max_connections = 150
        max_locks_per_transaction = 114
        max_prepared_transactions = 50
        max_wal_senders = 500
        max_worker_processes = lots
    "#]]
    .assert_eq(&lines(&wanted));
}

/// Reads a quoted value as PostgreSQL's scanner does (guc-file.l, `GUC_scanstr`).
fn scan(quoted: &str) -> String {
    let inner = quoted.strip_prefix('\'').unwrap().strip_suffix('\'').unwrap();
    let mut chars = inner.chars();
    let mut value = String::new();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.push(chars.next().unwrap()),
            '\'' => {
                assert_eq!(chars.next(), Some('\''));
                value.push('\'');
            }
            c => value.push(c),
        }
    }
    value
}

proptest! {
    #[test]
    fn any_value_comes_through_or_is_refused(value in r"[ -~é\\']{0,20}") {
        let text = render(&BTreeMap::from([("x".to_owned(), value.clone())])).unwrap();
        let line = text.lines().last().unwrap();
        prop_assert_eq!(scan(line.strip_prefix("x = ").unwrap()), value);
    }

    #[test]
    fn derived_memory_never_exceeds_the_machine(memory_mb in 1u64..1_000_000, cpus in 0u32..200, disk in 0u64..10_000_000) {
        let all = derive(Guest { memory_mb, cpus }, Some(disk), 15);
        let mb = |name: &str| all[name].strip_suffix("MB").unwrap().parse::<u64>().unwrap();
        prop_assert!(mb("shared_buffers") + mb("work_mem") + mb("maintenance_work_mem") <= memory_mb.max(128));
        prop_assert!(mb("min_wal_size") >= 32 && mb("min_wal_size") < mb("max_wal_size"));
    }
}
