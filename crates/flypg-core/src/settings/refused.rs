//! Parameter names: their syntax, and those that are not a person's to set.

/// Why a person may not set `parameter` under `postgres.parameters`; `None` if they may. Case does not matter.
pub fn refused(parameter: &str) -> Option<&'static str> {
    let name = parameter.to_ascii_lowercase();
    REFUSED.iter().find(|(names, _)| names.split_ascii_whitespace().any(|n| n == name)).map(|(_, reason)| *reason)
}

/// Why a person may not give `parameter` that `value`; `None` if they may. Case does not matter.
pub fn refused_value(parameter: &str, value: &str) -> Option<&'static str> {
    let is = |words: &[&str], word: &str| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    (is(&["log_min_messages"], parameter) && is(&["error", "log", "fatal", "panic"], value))
        .then_some("flypg's gate goes by the warnings in Postgres' log: it has to be `warning` or more verbose")
}

/// Names by reason. Sources: what CloudNativePG refuses, PostgreSQL's own documentation of each, and the rules of the
/// failover protocol.
const REFUSED: &[(&str, &str)] = &[
    (
        "listen_addresses port unix_socket_directories unix_socket_group unix_socket_permissions bonjour bonjour_name",
        "flypg's gate is the only door to Postgres",
    ),
    (
        "ssl ssl_ca_file ssl_cert_file ssl_ciphers ssl_crl_dir ssl_crl_file ssl_dh_params_file ssl_ecdh_curve ssl_groups \
         ssl_key_file ssl_max_protocol_version ssl_min_protocol_version ssl_passphrase_command \
         ssl_passphrase_command_supports_reload ssl_prefer_server_ciphers ssl_tls13_ciphers krb_server_keyfile \
         krb_caseins_users gss_accept_delegation",
        "encryption ends at flypg's gate, not in Postgres",
    ),
    (
        "config_file data_directory hba_file ident_file external_pid_file include include_dir include_if_exists \
         allow_alter_system",
        "flypg writes Postgres' files; what they say comes from this file alone",
    ),
    ("password_encryption db_user_namespace oauth_validator_libraries", "flypg's roles authenticate with SCRAM"),
    (
        "primary_conninfo primary_slot_name hot_standby promote_trigger_file wal_level wal_log_hints max_wal_senders \
         max_replication_slots max_slot_wal_keep_size idle_replication_slot_timeout wal_sender_timeout \
         wal_receiver_timeout wal_receiver_status_interval wal_receiver_create_temp_slot wal_retrieve_retry_interval \
         sync_replication_slots synchronized_standby_slots recovery_min_apply_delay",
        "flypg keeps the replication of the cluster",
    ),
    ("synchronous_standby_names synchronous_commit", "`durability` decides when a commit is acknowledged"),
    (
        "fsync full_page_writes data_sync_retry zero_damaged_pages ignore_checksum_failure ignore_invalid_pages \
         ignore_system_indexes allow_in_place_tablespaces allow_system_table_mods data_checksums",
        "it would let acknowledged data be lost or damaged",
    ),
    (
        "archive_mode archive_command archive_library archive_cleanup_command restore_command recovery_end_command \
         recovery_target recovery_target_action recovery_target_inclusive recovery_target_lsn recovery_target_name \
         recovery_target_time recovery_target_timeline recovery_target_xid",
        "flypg keeps backups and recovery",
    ),
    (
        "log_destination logging_collector log_directory log_filename log_file_mode log_rotation_age log_rotation_size \
         log_truncate_on_rotation syslog_facility syslog_ident syslog_sequence_numbers syslog_split_messages \
         event_source lc_messages",
        "flypg's agent reads Postgres' log and passes it on",
    ),
    ("cluster_name", "flypg names the node in it"),
    ("restart_after_crash exit_on_error", "flypg's agent starts Postgres again after a crash"),
    (
        "default_transaction_read_only default_transaction_isolation transaction_read_only transaction_isolation \
         transaction_deferrable",
        "it would change what flypg's own sessions do; set it with ALTER ROLE or ALTER DATABASE",
    ),
    (
        "shared_memory_type dynamic_shared_memory_type stats_temp_directory jit_provider",
        "it depends on the image, which flypg provides",
    ),
];

/// A parameter name that PostgreSQL could not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a parameter name: letters, digits and underscores, starting with a letter; an extension's own \
     parameter is written `extension.name`"
)]
pub struct BadParameterName(String);

/// The syntax of a parameter name, `work_mem` or `extension.name`; whether PostgreSQL knows it is another matter.
pub fn check_name(parameter: &str) -> Result<(), BadParameterName> {
    let part = |part: &str| {
        let mut bytes = part.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
    };
    // NAMEDATALEN bounds each part of a custom name; no built-in name comes near it.
    if parameter.len() <= 127 && parameter.split('.').all(part) {
        Ok(())
    } else {
        Err(BadParameterName(parameter.to_owned()))
    }
}
