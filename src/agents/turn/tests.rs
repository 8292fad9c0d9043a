#![allow(clippy::wildcard_enum_match_arm)] // a test picks the one verdict that it is about

use super::settle::{Facts, Verdict, verdict};
use crate::model::agent::{Failure, TurnEnd, Waiting, WaitingFor};
use chrono::{TimeDelta, Utc};

fn facts(end: TurnEnd) -> Facts {
    Facts {
        end,
        reported: false,
        waiting: None,
        contract_asked: false,
        consumed: true,
        recoveries: (0, 1),
        provider_failures: 1,
        limits_before: 0,
        now: Utc::now(),
    }
}

fn failed(failure: Failure) -> TurnEnd {
    TurnEnd::Failed { failure, message: "why".to_owned() }
}

#[test]
fn a_report_completes_whatever_followed_it_except_an_operators_stop() {
    let ends = [
        TurnEnd::Clean,
        TurnEnd::Stalled,
        TurnEnd::CutOff,
        failed(Failure::Crash),
        failed(Failure::Auth),
        TurnEnd::Stopped { why: super::settle::SHUTDOWN.to_owned() },
    ];
    for end in ends {
        let facts = Facts { reported: true, ..facts(end) };
        assert_eq!(verdict(&facts), Verdict::Complete, "{facts:?}");
    }
    let stopped = TurnEnd::Stopped { why: "stopped by @ann:hs".to_owned() };
    assert_eq!(verdict(&Facts { reported: true, ..facts(stopped) }), Verdict::Close);
}

#[test]
fn a_clean_end_without_a_report_waits_or_is_asked_about_once() {
    let waiting = Waiting { what: WaitingFor::Children, until: None, detail: String::new() };
    let waits = Facts { waiting: Some(waiting.clone()), ..facts(TurnEnd::Clean) };
    assert_eq!(verdict(&waits), Verdict::Wait(waiting));
    assert_eq!(verdict(&facts(TurnEnd::Clean)), Verdict::AskToReport);
    let asked = Facts { contract_asked: true, ..facts(TurnEnd::Clean) };
    assert_eq!(verdict(&asked), Verdict::Violation);
}

#[test]
fn a_crash_is_resumed_as_often_as_allowed_and_then_given_up() {
    for end in [failed(Failure::Crash), failed(Failure::Protocol), TurnEnd::CutOff] {
        assert!(matches!(verdict(&facts(end.clone())), Verdict::GoOn { counted: true, .. }));
        let again = Facts { recoveries: (1, 1), ..facts(end) };
        assert!(matches!(verdict(&again), Verdict::Die { .. }));
    }
    let shutdown = TurnEnd::Stopped { why: super::settle::SHUTDOWN.to_owned() };
    let shutdown = Facts { recoveries: (1, 1), ..facts(shutdown) };
    assert!(matches!(verdict(&shutdown), Verdict::GoOn { counted: false, .. }));
}

#[test]
fn a_failing_provider_is_asked_again_later_and_later() {
    let pause = |failures| {
        let facts = Facts { provider_failures: failures, ..facts(failed(Failure::Provider)) };
        match verdict(&facts) {
            Verdict::Later { until, limited: false, .. } => Some(until - facts.now),
            _given_up => None,
        }
    };
    assert_eq!(pause(1), Some(TimeDelta::seconds(15)));
    assert_eq!(pause(3), Some(TimeDelta::seconds(60)));
    assert_eq!(pause(7), Some(TimeDelta::seconds(600)));
    assert_eq!(pause(8), None);
}

#[test]
fn a_room_hears_once_and_early_that_a_model_cannot_be_reached() {
    let told = |failures| {
        let facts = Facts { provider_failures: failures, ..facts(failed(Failure::Provider)) };
        match verdict(&facts) {
            Verdict::Later { told, .. } => !told,
            _given_up => false,
        }
    };
    let heard: Vec<u32> = (1..8).filter(|failures| told(*failures)).collect();
    assert_eq!(heard, [2]);
}

#[test]
fn what_only_a_person_can_mend_pauses_the_pool_and_other_ends_are_deaths() {
    for failure in [Failure::Auth, Failure::Unusable, Failure::Project, Failure::Machine] {
        let expected = Verdict::Pause { failure, reason: "why".to_owned() };
        assert_eq!(verdict(&facts(failed(failure))), expected);
    }
    for end in [
        TurnEnd::Stalled,
        TurnEnd::Limit { what: "x".to_owned(), resumes: false },
        failed(Failure::BadRequest),
        failed(Failure::ContextFull),
        failed(Failure::SessionLost),
    ] {
        assert!(matches!(verdict(&facts(end)), Verdict::Die { .. }));
    }
}
