use std::collections::BTreeMap;

use super::*;
use crate::Timestamp;
use crate::decree::SystemId;
use crate::failover::Rule;
use crate::observed::{Machine, Power};
use crate::protocol::{Lsn, PgReport, Standing};
use crate::spec::{Profile, parse};

fn spec(nodes: u32) -> ClusterSpec {
    let text = format!(
        "apiVersion: flypg/v1\nkind: PostgresCluster\nmetadata: {{ name: orders-db }}\nspec:\n  organization: acme\n  \
         preset: production-small\n  postgres: {{ version: 15 }}\n  regions: {{ primary: {{ code: ord, nodes: {nodes} }} }}\n"
    );
    parse("orders.yaml", text.as_bytes()).unwrap().remove(0).value
}

fn name(ordinal: u32) -> NodeName {
    NodeName::new("ord".parse().unwrap(), ordinal)
}

fn decree(acks: usize, standbys: u32) -> Decree {
    let mut decree = Decree::first(name(1), "n".to_owned(), CommitMode::Synchronous, Profile::Balanced);
    decree.stage = Stage::Established;
    decree.rule = match acks {
        0 => Rule::alone(),
        acks => Rule::any(acks, (2..2 + standbys).map(name).collect()).unwrap(),
    };
    decree
}

/// A world in which these standbys stream from ord-1, and nobody else answers.
fn observed(streaming: &[u32]) -> Observed {
    let now = Timestamp::UNIX_EPOCH;
    let machine = |ordinal: u32| Machine {
        id: format!("m{ordinal}"),
        name: name(ordinal).to_string(),
        region: "ord".to_owned(),
        power: Power::Started,
        host_ok: true,
        address: None,
        config: None,
    };
    let report = |ordinal: u32| NodeReport {
        cluster: "orders-db".parse().unwrap(),
        node: name(ordinal),
        machine: format!("m{ordinal}"),
        incarnation: 1,
        boot: String::new(),
        sent: Default::default(),
        version: 1,
        promised: Default::default(),
        assignment: None,
        revision: 0,
        standing: Standing::Unbound,
        pledged_for: None,
        primary_heard: None,
        phase: Phase::Running,
        postgres: Some(PgReport {
            version: "15.20".to_owned(),
            system_id: SystemId("7".to_owned()),
            timeline: 1,
            history: None,
            started_at: 0,
            role: PgRole::Standby {
                received: None,
                replayed: Lsn(0),
                streaming_from: Some(name(1)),
                replay_lag_seconds: None,
            },
            settings: String::new(),
            parameters: BTreeMap::new(),
            pending_restart: Vec::new(),
            withheld: Vec::new(),
            rejected: BTreeMap::new(),
        }),
        disk: None,
        crashes: 0,
    };
    Observed {
        machines: Seen::at(now, (1..=6).map(machine).collect()),
        reports: streaming.iter().map(|ordinal| (format!("m{ordinal}"), Seen::at(now, report(*ordinal)))).collect(),
        ..Observed::default()
    }
}

/// The table of protocol §2.8, and what becomes of it as standbys are lost.
#[test]
fn what_it_survives_is_what_the_standbys_that_stream_allow() {
    for (acks, standbys, streaming, with_and_alone) in [
        (1, 1, &[2][..], Some((0, 0))),
        (1, 1, &[], None),
        (1, 2, &[2, 3], Some((0, 1))),
        (1, 2, &[2], None),
        (2, 2, &[2, 3], Some((1, 0))),
        (2, 3, &[2, 3, 4], Some((1, 1))),
        (2, 3, &[2, 4], Some((0, 0))),
        (2, 3, &[2], None),
        (0, 0, &[2, 3], None),
    ] {
        let (decree, observed) = (decree(acks, standbys), observed(streaming));
        let found = of(&spec(3), &observed, &decree).survives;
        let found = found.map(|found| (found.standbys_with_primary, found.standbys_alone));
        assert_eq!(found, with_and_alone, "{acks} of {standbys}, {streaming:?} stream");
        let (status, reason, words) = availability(&spec(3), &observed, Some(&decree));
        assert_eq!(status, with_and_alone.is_some(), "{reason}: {words}");
    }
}

#[test]
fn a_rule_that_is_being_changed_survives_what_both_do() {
    let mut decree = decree(2, 2);
    decree.joint = Some(Rule::any(1, [name(2), name(3)].into()).unwrap());
    let found = of(&spec(3), &observed(&[2, 3]), &decree).survives.unwrap();
    assert_eq!((found.standbys_with_primary, found.standbys_alone), (0, 0));
}

#[test]
fn it_says_why_it_is_not_available_and_what_it_survives() {
    let mut asynchronous = decree(0, 0);
    asynchronous.mode = CommitMode::Asynchronous;
    asynchronous.candidates = [name(2)].into();
    let told = [
        availability(&spec(3), &observed(&[2, 3]), None),
        availability(&spec(3), &observed(&[]), Some(&decree(0, 0))),
        availability(&spec(3), &observed(&[2]), Some(&decree(1, 2))),
        availability(&spec(3), &observed(&[2, 3]), Some(&asynchronous)),
        availability(&spec(3), &observed(&[2, 3]), Some(&decree(1, 2))),
        availability(&spec(3), &observed(&[2, 3, 4]), Some(&decree(2, 3))),
        availability(&spec(3), &observed(&[2]), Some(&decree(1, 1))),
    ];
    let told: Vec<String> =
        told.into_iter().map(|(status, reason, words)| format!("{status} {reason}: {words}")).collect();
    expect_test::expect![[r#"
        false NoPrimary: nobody leads yet
        false AcknowledgesAlone: commits are acknowledged by the primary alone, so that only it can go on
        false StandbysMissing: too few standbys stream: not ord-3
        false Asynchronous: a standby takes over by itself, and up to 16 MB of what was acknowledged are lost
        true StandbysReady: survives the loss of the primary, or of one standby
        true StandbysReady: survives the loss of the primary and one standby, or of one standby
        true StandbysReady: survives the loss of the primary; writes wait while a standby is missing"#]]
    .assert_eq(&told.join("\n"));
}
