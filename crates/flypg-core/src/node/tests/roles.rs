//! Every role on its way.

use expect_test::expect;

use super::*;

/// Rule R11: the disk lied. Neither does it lead on, nor is it said where its data end, as if that were all.
#[test]
fn data_that_lost_what_was_told_of_count_for_nothing_until_they_are_a_copy_again() {
    let lost = || Some("the disk lost WAL".to_owned());
    for ledger in [promoted(), then(&promoted(), 2, hand_over()), then(&promoted(), 3, recruit()), promoting()] {
        let running = Local { lost_wal: lost(), ..reigning() };
        assert_eq!(next(&ledger, &running, at(0)), NodeStep::StopFast, "{}", ledger.role);
        let stopped = Local { lost_wal: lost(), may_lead: true, ..down(complete(false, by_clone())) };
        assert!(matches!(next(&ledger, &stopped, at(0)), NodeStep::Quarantine { .. }), "{}", ledger.role);
    }
    let running = Local { lost_wal: lost(), ..up(complete(true, by_clone())) };
    assert_eq!(next(&recruited(), &running, at(0)), NodeStep::StopFast);
    let copy = replica().made(&system()).unwrap();
    assert_eq!(next(&copy, &running, at(0)), next(&copy, &up(complete(true, by_clone())), at(0)));
}

/// Each role of a node with whole data, on what is seen of its Postgres.
#[test]
fn what_every_role_does() {
    let hands_over = then(&promoted(), 2, hand_over());
    let gave_up = then(&promoted(), 3, recruit());
    let unpromoted = then(&promoting(), 3, recruit());
    let undone = then(&rejoining(true), 4, recruit());
    let rows: [(&str, &Ledger, bool); 13] = [
        ("primary", &promoted(), false),
        ("primary that hands over", &hands_over, false),
        ("recruited primary", &gave_up, false),
        ("candidate before", &promoting(), true),
        ("candidate after", &promoting(), false),
        ("recruited candidate before", &unpromoted, true),
        ("recruited candidate after", &unpromoted, false),
        ("replica", &replica().made(&system()).unwrap(), true),
        ("recruited replica", &recruited(), true),
        ("rejoining", &rejoining(false), false),
        ("rejoining, a standby already", &rejoining(false), true),
        ("rejoining, recruited", &undone, false),
        ("rewinding", &rejoining(true).rewinding().unwrap(), true),
    ];
    let mut table = String::new();
    for (role, ledger, signal) in rows {
        table += &format!("{role}\n");
        for (sight, may_lead, local) in [
            ("down", true, down(complete(signal, by_clone()))),
            ("down without a lease", false, down(complete(signal, by_clone()))),
            ("down, settings to write", true, Local::fresh(15, complete(signal, by_clone()))),
            ("starting", true, Local { postmaster: Postmaster::Starting, ..up(complete(signal, by_clone())) }),
            (
                "up, settings to read",
                true,
                Local { settings: SettingsSeen::Written, ..up(complete(signal, by_clone())) },
            ),
            ("up", true, Local { data: complete(signal, by_clone()), ..reigning() }),
            (
                "up, lease long over",
                false,
                Local { data: complete(signal, by_clone()), grace_over: true, ..reigning() },
            ),
        ] {
            let local = Local { may_lead, ..local };
            table += &format!("  {sight}: {:?}\n", next(ledger, &local, at(0)));
        }
    }
    expect![[r#"
        primary
          down: StartPostgres { standby: false }
          down without a lease: Nothing
          down, settings to write: WriteSettings
          starting: Nothing
          up, settings to read: Reload
          up: Nothing
          up, lease long over: StopFast
        primary that hands over
          down: RecordRelinquished
          down without a lease: RecordRelinquished
          down, settings to write: RecordRelinquished
          starting: Nothing
          up, settings to read: Reload
          up: Drain
          up, lease long over: StopFast
        recruited primary
          down: InspectStopped
          down without a lease: InspectStopped
          down, settings to write: InspectStopped
          starting: StopFast
          up, settings to read: StopFast
          up: StopFast
          up, lease long over: StopFast
        candidate before
          down: StartPostgres { standby: true }
          down without a lease: StartPostgres { standby: true }
          down, settings to write: WriteSettings
          starting: Nothing
          up, settings to read: Reload
          up: Nothing
          up, lease long over: Nothing
        candidate after
          down: InspectStopped
          down without a lease: InspectStopped
          down, settings to write: InspectStopped
          starting: Nothing
          up, settings to read: Reload
          up: RecordPromoted
          up, lease long over: RecordPromoted
        recruited candidate before
          down: RecordUnpromoted
          down without a lease: RecordUnpromoted
          down, settings to write: RecordUnpromoted
          starting: StopFast
          up, settings to read: StopFast
          up: StopFast
          up, lease long over: StopFast
        recruited candidate after
          down: InspectStopped
          down without a lease: InspectStopped
          down, settings to write: InspectStopped
          starting: StopFast
          up, settings to read: StopFast
          up: StopFast
          up, lease long over: StopFast
        replica
          down: StartPostgres { standby: true }
          down without a lease: StartPostgres { standby: true }
          down, settings to write: WriteSettings
          starting: Nothing
          up, settings to read: Reload
          up: Nothing
          up, lease long over: Nothing
        recruited replica
          down: StartPostgres { standby: true }
          down without a lease: StartPostgres { standby: true }
          down, settings to write: WriteSettings
          starting: Nothing
          up, settings to read: Reload
          up: FindEnd
          up, lease long over: FindEnd
        rejoining
          down: InspectStopped
          down without a lease: InspectStopped
          down, settings to write: InspectStopped
          starting: StopFast
          up, settings to read: StopFast
          up: StopFast
          up, lease long over: StopFast
        rejoining, a standby already
          down: BecomeStandby
          down without a lease: BecomeStandby
          down, settings to write: BecomeStandby
          starting: StopFast
          up, settings to read: StopFast
          up: StopFast
          up, lease long over: StopFast
        rejoining, recruited
          down: BecomeStandby
          down without a lease: BecomeStandby
          down, settings to write: BecomeStandby
          starting: StopFast
          up, settings to read: StopFast
          up: StopFast
          up, lease long over: StopFast
        rewinding
          down: Rewind { from: ord-1 }
          down without a lease: Rewind { from: ord-1 }
          down, settings to write: Rewind { from: ord-1 }
          starting: StopFast
          up, settings to read: StopFast
          up: StopFast
          up, lease long over: StopFast
    "#]]
    .assert_eq(&table);
}

/// What Postgres was left to itself with counts for nothing once it has ended: all of it is gone through again.
#[test]
fn a_primary_confirms_its_epoch_before_anything_else_waits_for_standbys() {
    let ledger = promoted();
    let rule_to_be = NodeStep::EnsureRule { rule: rule() };
    let mut local = Local { roles_ensured: false, reign: ReignSeen::default(), ..reigning() };
    assert_eq!(next(&ledger, &local, at(0)), rule_to_be);
    local.reign.rule = Some(Rule::alone());
    assert_eq!(next(&ledger, &local, at(0)), rule_to_be);
    local.reign.rule = Some(rule());
    assert_eq!(next(&ledger, &local, at(0)), rule_to_be, "what was written under another rule is not covered yet");
    local.reign.covered = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Confirm { epoch: Epoch(2), nonce: "n2".to_owned() });
    local.reign.confirmed = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::EnsureRoles);
    local.roles_ensured = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Checkpoint);
    local.reign.checkpointed = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
    local.restart_ordered = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RestartPostgres);
    local.may_lead = false;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing, "it would not come up again");
}

#[test]
fn a_primary_that_hands_over_drains_stops_and_gives_up() {
    let ledger = then(&promoted(), 2, hand_over());
    let mut local = reigning();
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Drain);
    local.reign.drained = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::StopFast);
    let mut local = Local { may_lead: true, ..down(complete(false, None)) };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RecordRelinquished);
    let ledger = ledger.relinquished().unwrap();
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::InspectStopped);
    (local.end, local.clean) = (end(3), true);
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
    // The one that took over is followed, with data that fit.
    let ledger = then(&ledger, 3, follow("ord-1", false));
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::BecomeStandby);
    assert!(matches!(ledger.rejoined().unwrap().role, LedgerRole::Replica { epoch: Epoch(3), .. }));
}

#[test]
fn a_recruited_standby_says_where_it_ends_only_without_an_upstream() {
    let ledger = recruited();
    let mut local = Local { settings: SettingsSeen::Stale, ..up(complete(true, by_clone())) };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::WriteSettings);
    local.settings = SettingsSeen::Written;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Reload);
    local.settings = SettingsSeen::Loaded;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::FindEnd);
    local.end = end(1);
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
    local.restart_ordered = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
}

#[test]
fn a_promotion_is_believed_on_its_own_timeline_only() {
    let ledger = promoting();
    let mut local = up(complete(true, by_clone()));
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing, "not looked at yet");
    local.reign = ReignSeen { in_recovery: true, timeline: Some(1), ..ReignSeen::default() };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Promote { timeline: 3, burnt: vec![2] });
    local.reign = ReignSeen { in_recovery: false, timeline: Some(3), ..ReignSeen::default() };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing, "its data were not looked at again");
    local.data = complete(false, by_clone());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RecordPromoted);
    local.reign.timeline = Some(2);
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::StopFast);

    // It was cut short: what is on disk tells how far it came.
    let mut local = Local { may_lead: true, ..down(complete(false, by_clone())) };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::InspectStopped);
    local.end = end(3);
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RecordPromoted);
    local.end = end(1);
    quarantined(next(&ledger, &local, at(0)), "promoted to timeline 1, and 3 was authorised");
    // Another attempt ends that.
    let ledger = then(&ledger, 3, recruit());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Nothing);
}

#[test]
fn data_of_a_former_primary_are_rewound_only_where_they_do_not_fit_and_may_be_touched() {
    let unfit = Some(Astray::Beyond { rank: 0 });
    for (clean, astray, remake, step) in [
        (true, None, false, Some(NodeStep::BecomeStandby)),
        (true, None, true, Some(NodeStep::BecomeStandby)),
        // Replayed as a standby's, they say whether they fit.
        (false, None, false, Some(NodeStep::BecomeStandby)),
        (false, None, true, Some(NodeStep::BecomeStandby)),
        (true, unfit.clone(), false, None),
        (true, unfit.clone(), true, Some(NodeStep::RecordRewinding)),
        (false, unfit.clone(), true, Some(NodeStep::RecordRewinding)),
    ] {
        let local = Local { end: end(3), clean, astray, ..down(complete(false, None)) };
        match (next(&rejoining(remake), &local, at(0)), step) {
            (got, Some(step)) => assert_eq!(got, step, "{local:?}"),
            (got, None) => held(got, "left as they are for now"),
        }
    }
    // A replica that went another way is stopped first.
    let ledger = replica().made(&system()).unwrap();
    let mut local = Local { astray: unfit, ..up(complete(true, by_clone())) };
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::StopFast);
    local.postmaster = Postmaster::Down;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::RecordRewinding);
    let spared = then(&ledger, 2, follow("ord-1", false));
    assert_eq!(next(&spared, &local, at(0)), NodeStep::StartPostgres { standby: true });
    held(next(&spared, &Local { astray: local.astray, ..up(complete(true, by_clone())) }, at(0)), "another way");
}

#[test]
fn data_that_were_touched_are_rewound_again_or_copied_anew() {
    let from = name("ord-1");
    let ledger = rejoining(true).rewinding().unwrap();
    let mut local = down(complete(true, by_clone()));
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Rewind { from: from.clone() }, "whatever it looks like");
    local.failed_makes = vec![at(0)];
    assert!(matches!(next(&ledger, &local, at(0)), NodeStep::Wait { .. }));
    local.failed_makes.clear();
    local.remade = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::BecomeStandby);
    local.remade = false;
    local.rewind_failed = Some("it could not".to_owned());
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::GiveUpCopy { from: from.clone() });
    local.room = true;
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::CloneBeside { from: from.clone() });
    local.remakes = vec![at(0)];
    assert_eq!(next(&ledger, &local, at(0)), NodeStep::Wait { until: at(20) });
    local.remakes.clear();
    for data in [DataDir::Blank, DataDir::Unfinished(by_clone()), DataDir::Unusable { why: "?".to_owned() }] {
        let local = Local { data, rewind_failed: None, ..local.clone() };
        assert_eq!(next(&ledger, &local, at(0)), NodeStep::GiveUpCopy { from: from.clone() });
    }
    let spared = then(&ledger, 4, follow("ord-1", false));
    held(next(&spared, &local, at(0)), "not ready to mend");
    // Recruited, it has nothing to be chosen for; if the rewind has just come to its end, it has.
    let recruited = then(&ledger, 4, recruit());
    assert_eq!(next(&recruited, &local, at(0)), NodeStep::Nothing);
    local.remade = true;
    assert_eq!(next(&recruited, &local, at(0)), NodeStep::BecomeStandby);
    assert_eq!(recruited.rejoined().unwrap().role, LedgerRole::Recruited { epoch: Epoch(4) });
}

#[cfg(feature = "mutants")]
#[test]
fn each_rule_is_missed() {
    crate::mutant::set(&["R8"]);
    let mut local = up(complete(false, by_clone()));
    local.reign = ReignSeen { in_recovery: false, timeline: Some(2), ..ReignSeen::default() };
    assert_eq!(next(&promoting(), &local, at(0)), NodeStep::RecordPromoted, "on a timeline that was burnt");
    local.reign.in_recovery = true;
    assert_eq!(next(&promoting(), &local, at(0)), NodeStep::Promote { timeline: 3, burnt: vec![] });
    crate::mutant::set(&["R16"]);
    let touched = rejoining(true).rewinding().unwrap();
    let cut = Some("it was cut".to_owned());
    let half = Local { rewind_failed: cut, ..down(complete(false, by_clone())) };
    assert_eq!(next(&touched, &half, at(0)), NodeStep::BecomeStandby, "on data that are not whole");
    crate::mutant::set(&["R15"]);
    let theirs = down(complete(false, Some(Origin::Initdb { nonce: "another".to_owned() })));
    assert_eq!(next(&primary(), &theirs, at(0)), NodeStep::RecordMade { system_id: system() });
    crate::mutant::set(&["R17"]);
    let moved = promoted().restarted("another");
    let ready = Local { may_lead: true, ..down(complete(false, by_clone())) };
    assert_eq!(next(&moved, &ready, at(0)), NodeStep::StartPostgres { standby: false });
    crate::mutant::set(&[]);
}
