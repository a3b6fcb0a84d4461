//! The roles that flypg keeps on a primary, and the slots of its members.

use std::collections::BTreeSet;
use std::time::Duration;

use flypg_core::keys::Role;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;

use crate::config::Config;
use crate::sql::{Session, SqlError, literal};

/// Brings the roles to what follows from the cluster's key. Changes nothing where all is right.
pub async fn ensure_roles(config: &Config, session: &Session) -> Result<(), SqlError> {
    for (role, attributes) in [
        (Role::Replication, "LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE"),
        (Role::Postgres, "LOGIN SUPERUSER"),
    ] {
        let name = role.name();
        let there = format!("SELECT 1 AS there FROM pg_roles WHERE rolname = {}", literal(name)?);
        if session.rows(&there).await?.is_empty() {
            tracing::info!(role = name, "creating a role");
            session.execute(&format!("CREATE ROLE {name} {attributes} PASSWORD {}", verifier(config, role)?)).await?;
        } else if !password_is_right(config, role).await? {
            tracing::warn!(role = name, "restoring a role's login and password");
            session.execute(&format!("ALTER ROLE {name} {attributes} PASSWORD {}", verifier(config, role)?)).await?;
        }
    }
    if session.rows(MAY_REWIND).await?.is_empty() {
        session.execute(LET_REWIND).await?;
    }
    keep_waits(config, session).await?;
    let owner = "SELECT 1 AS ours FROM pg_database WHERE datname = 'postgres' AND datdba = 'postgres'::regrole";
    if session.rows(owner).await?.is_empty() {
        session.execute("ALTER DATABASE postgres OWNER TO postgres").await?;
    }
    Ok(())
}

/// What PostgreSQL's documentation of `pg_rewind` wants of a role that is no superuser. Members come as this one already,
/// and may copy all of this by way of a base backup.
const LET_REWIND: &str = "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
    pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO flypg_replication";
const MAY_REWIND: &str =
    "SELECT 1 AS may WHERE (SELECT bool_and(has_function_privilege('flypg_replication', f, 'EXECUTE'))
    FROM unnest(ARRAY['pg_ls_dir(text, boolean, boolean)', 'pg_stat_file(text, boolean)', 'pg_read_binary_file(text)',
        'pg_read_binary_file(text, bigint, bigint, boolean)']) AS f)";

/// Whoever may signal backends can end a wait for standbys, whereupon a commit is reported that only the primary has
/// (rule R12, experiment E24b). Superusers still can: nothing in PostgreSQL keeps them from it.
const SIGNALS: &str = "pg_cancel_backend(integer), pg_terminate_backend(integer, bigint)";
const ANYBODY_SIGNALS: &str = "SELECT 1 AS open WHERE EXISTS (SELECT FROM pg_proc, aclexplode(coalesce(proacl,
    acldefault('f', proowner))) AS acl WHERE pronamespace = 'pg_catalog'::regnamespace
    AND proname IN ('pg_cancel_backend', 'pg_terminate_backend') AND acl.grantee = 0)";

/// Takes these functions from everybody, in each database: they are in every one, and new ones get them from the
/// templates.
async fn keep_waits(config: &Config, session: &Session) -> Result<(), SqlError> {
    let databases = session.rows("SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname").await?;
    for database in databases.iter().filter_map(|row| row.get("datname")) {
        let there = match Session::connect_as(config, Role::Agent, database).await {
            Ok(there) => there,
            // Dropped since, or out of reach for a reason of its own: nobody can be let in by that either.
            Err(error) if error.code().is_some() => {
                tracing::warn!(database, error = crate::words(&error), "this database was not looked at");
                continue;
            }
            Err(error) => return Err(error),
        };
        if !there.rows(ANYBODY_SIGNALS).await?.is_empty() {
            there.execute(&format!("REVOKE EXECUTE ON FUNCTION {SIGNALS} FROM PUBLIC")).await?;
        }
    }
    Ok(())
}

/// The SCRAM verifier, so that no password is ever part of a statement.
fn verifier(config: &Config, role: Role) -> Result<String, SqlError> {
    literal(&postgres_protocol::password::scram_sha_256(config.key.password(role).as_bytes()))
}

/// Tries it: a login is the only proof that needs no knowledge of how Postgres keeps passwords.
async fn password_is_right(config: &Config, role: Role) -> Result<bool, SqlError> {
    match Session::connect_as(config, role, "postgres").await {
        Ok(_) => Ok(true),
        Err(error) => match error.code() {
            Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => Ok(false),
            // Let in so far that something other than the password was in the way.
            Some(_) => Ok(true),
            None => Err(error),
        },
    }
}

/// Creates and drops slots of ours. A slot in use is dropped after its walsender was ended.
pub async fn ensure_slots(
    session: &Session,
    create: &BTreeSet<String>,
    drop: &BTreeSet<String>,
) -> Result<(), SqlError> {
    for slot in create {
        tracing::info!(slot, "creating a replication slot");
        // Reserves WAL at once, so that a clone that starts now finds all it needs.
        let statement = format!("SELECT pg_create_physical_replication_slot({}, true)", literal(slot)?);
        match session.execute(&statement).await {
            // Begun while this node was a standby.
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => {}
            made => made?,
        }
    }
    for slot in drop {
        tracing::info!(slot, "dropping the replication slot of a node that left");
        let name = literal(slot)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            session
                .execute(&format!(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                     WHERE slot_name = {name} AND active"
                ))
                .await?;
            match session.execute(&format!("SELECT pg_drop_replication_slot({name})")).await {
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => break,
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline => {
                    sleep(Duration::from_millis(20)).await;
                }
                done => break done?,
            }
        }
    }
    Ok(())
}
