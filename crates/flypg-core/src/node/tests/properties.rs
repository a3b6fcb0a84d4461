//! What holds whatever is seen.

use proptest::prelude::*;

use super::*;

fn any_data() -> impl Strategy<Value = DataDir> {
    let origin = prop_oneof![Just(None), Just(by_initdb()), Just(by_clone())];
    prop_oneof![
        Just(DataDir::Blank),
        origin.clone().prop_map(DataDir::Unfinished),
        Just(DataDir::Unusable { why: "?".to_owned() }),
        (15u32..17, prop_oneof![Just("7"), Just("8")], any::<bool>(), origin).prop_map(
            |(major, id, signal, origin)| {
                DataDir::Complete { major, system_id: SystemId(id.to_owned()), standby_signal: signal, origin }
            }
        ),
    ]
}

fn ledgers() -> Vec<Ledger> {
    let blank = Ledger::blank("orders-db".parse().unwrap(), name("ord-1"), "m1".to_owned());
    let mut all = vec![blank, primary(), primary().made(&system()).unwrap(), replica()];
    all.extend([replica().made(&system()).unwrap(), recruited(), promoting(), promoted()]);
    all.extend([then(&promoted(), 2, hand_over()), then(&promoted(), 3, recruit())]);
    all.push(then(&promoting(), 3, recruit()));
    for remake in [false, true] {
        let rejoining = rejoining(remake);
        let touched = rejoining.rewinding().unwrap();
        all.extend([then(&touched, 4, recruit()), then(&rejoining, 4, recruit()), touched, rejoining]);
    }
    let moved: Vec<Ledger> = all.iter().map(|ledger| ledger.restarted("another")).collect();
    all.extend(moved);
    all
}

fn any_local() -> impl Strategy<Value = Local> {
    let postmaster = prop_oneof![
        Just(Postmaster::Down),
        Just(Postmaster::Leftover),
        Just(Postmaster::Starting),
        Just(Postmaster::Up)
    ];
    let settings = prop_oneof![Just(SettingsSeen::Stale), Just(SettingsSeen::Written), Just(SettingsSeen::Loaded)];
    let slots = reigning().slots;
    let reign = (any::<(bool, bool, bool)>(), proptest::option::of(2u32..5), any::<bool>(), any::<bool>()).prop_map(
        |((confirmed, covered, checkpointed), timeline, in_recovery, drained)| ReignSeen {
            in_recovery,
            timeline,
            confirmed,
            rule: Some(rule()),
            covered,
            checkpointed,
            drained,
        },
    );
    let found = (
        proptest::option::of(any::<(bool, u64)>()),
        proptest::option::of(2u32..5),
        proptest::option::of(Just(Astray::Beyond { rank: 0 })),
        proptest::option::of(Just("it could not".to_owned())),
        proptest::option::of(Just(slots)),
    );
    (any_data(), postmaster, settings, any::<[bool; 8]>(), reign, found).prop_map(
        |(data, postmaster, settings, flags, reign, (stranded, timeline, astray, rewind_failed, slots))| {
            let [roles_ensured, restart_ordered, stopping, may_lead, grace_over, clean, room, remade] = flags;
            Local {
                postmaster,
                settings,
                roles_ensured,
                slots: slots.flatten(),
                stranded: stranded.map(|(room, lsn)| stranded_at(room, lsn)),
                restart_ordered,
                may_lead,
                grace_over,
                reign,
                end: timeline.and_then(end),
                astray,
                rewind_failed,
                stopping,
                clean,
                room,
                remade,
                ..Local::fresh(15, data)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever is seen: nothing starts on data that are not whole or not this cluster's, nothing starts writable
    /// without a lease, nothing is promoted but a candidate on its timeline, and no copy is touched or given away that
    /// the assignment does not allow it for.
    #[test]
    fn nothing_happens_by_accident(which in any::<proptest::sample::Index>(), local in any_local()) {
        let all = ledgers();
        let ledger = which.get(&all);
        let step = next(ledger, &local, at(0));
        let role = &ledger.role;
        let task = ledger.assignment.as_ref().map(|told| &told.task);
        let down = local.postmaster == Postmaster::Down;
        let up = local.postmaster == Postmaster::Up;
        let may_touch = matches!(task, Some(Task::Follow { remake: true, .. }));
        let follows = matches!(role, LedgerRole::Replica { .. } | LedgerRole::Rejoining { .. });
        let rewinding = matches!(role, LedgerRole::Rejoining { rewinding: true, .. });
        match &step {
            NodeStep::StartPostgres { standby } => {
                let DataDir::Complete { standby_signal, system_id, major, .. } = &local.data else {
                    return Err(TestCaseError::fail(format!("started on {}", local.data)));
                };
                prop_assert_eq!(standby, standby_signal);
                prop_assert_eq!((system_id, *major), (&system(), 15));
                prop_assert!(down && task.is_some() && !rewinding);
                let leads = matches!(role, LedgerRole::Primary { .. }) && local.may_lead;
                prop_assert!(*standby || leads, "{role} started writable");
            }
            NodeStep::Initdb { .. } | NodeStep::Clone { .. } => prop_assert_eq!(&local.data, &DataDir::Blank),
            NodeStep::RemoveUnfinished => prop_assert!(matches!(local.data, DataDir::Unfinished(_))),
            NodeStep::CloneBeside { .. } | NodeStep::GiveUpCopy { .. } if rewinding => prop_assert!(may_touch && down),
            NodeStep::GiveUpCopy { .. } if local.data == DataDir::Blank => prop_assert!(may_touch && down),
            NodeStep::CloneBeside { .. } | NodeStep::GiveUpCopy { .. } => {
                let beside = matches!(step, NodeStep::CloneBeside { .. });
                prop_assert!(may_touch || beside);
                prop_assert!(matches!(role, LedgerRole::Replica { .. }) && up, "{role}");
                let own = local.stranded.as_ref().map(|stranded| stranded.own.lsn);
                prop_assert!(own.is_some_and(|own| own <= Lsn(PRIMARY_AT)));
            }
            NodeStep::RecordRewinding => prop_assert!(may_touch && down && follows && !rewinding),
            NodeStep::Rewind { .. } => prop_assert!(may_touch && down && rewinding),
            NodeStep::BecomeStandby => {
                prop_assert!(down && matches!(role, LedgerRole::Rejoining { .. }), "{role}");
                prop_assert!(!rewinding || local.remade);
            }
            NodeStep::Promote { timeline, .. } => {
                prop_assert_eq!(role, &promoting().role);
                prop_assert!(*timeline == 3 && up && local.reign.in_recovery);
            }
            NodeStep::RecordPromoted => {
                prop_assert_eq!(role, &promoting().role);
                let on_disk = local.end.as_ref().map(|end| end.history.timeline);
                prop_assert_eq!(if up { local.reign.timeline } else { on_disk }, Some(3));
            }
            NodeStep::Confirm { epoch, .. } => {
                prop_assert!(matches!(role, LedgerRole::Primary { epoch: mine, .. } if mine == epoch) && up, "{role}");
                let told = task.and_then(Task::terms).map_or_else(Rule::alone, |terms| terms.rule.clone());
                prop_assert_eq!(local.reign.rule.as_ref(), Some(&told));
                prop_assert!(local.reign.covered && (local.may_lead || !local.grace_over));
            }
            NodeStep::FindEnd => {
                prop_assert!(matches!(role, LedgerRole::Recruited { .. }) && up, "{role}");
                prop_assert_eq!(local.settings, SettingsSeen::Loaded);
            }
            NodeStep::InspectStopped => prop_assert!(down),
            NodeStep::RecordRelinquished => {
                prop_assert!(down && matches!(task, Some(Task::HandOver { .. })), "{role}");
            }
            NodeStep::RecordUnpromoted => {
                prop_assert!(down && ledger.unpromoted().is_some());
                let signal = matches!(local.data, DataDir::Complete { standby_signal: true, .. });
                prop_assert!(signal);
            }
            NodeStep::RestartPostgres => prop_assert!(up && local.restart_ordered),
            NodeStep::StopFast => prop_assert!(!down),
            NodeStep::Nothing
            | NodeStep::Wait { .. }
            | NodeStep::Hold { .. }
            | NodeStep::Quarantine { .. }
            | NodeStep::AskPrimary { .. }
            | NodeStep::RecordMade { .. }
            | NodeStep::EndLeftover
            | NodeStep::WriteSettings
            | NodeStep::Reload
            | NodeStep::EnsureRoles
            | NodeStep::EnsureSlots { .. }
            | NodeStep::EnsureRule { .. }
            | NodeStep::Checkpoint
            | NodeStep::Drain => {}
        }
        // What nobody told it to run on this Machine does not run, and what is led without a lease for long is stopped.
        if up && task.is_none() && !matches!(role, LedgerRole::Initialising { .. } | LedgerRole::Cloning { .. }) {
            prop_assert!(matches!(step, NodeStep::StopFast | NodeStep::Nothing), "{role}: {step:?}");
        }
        if local.postmaster == Postmaster::Leftover {
            prop_assert_eq!(step, NodeStep::EndLeftover);
        }
    }
}
