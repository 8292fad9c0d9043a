use super::*;
use chrono_tz::Tz;

fn meter(of: Of, unit: Unit, used: f64, max: f64) -> Meter {
    let day = Day::of("2026-11-21T12:00:00Z".parse().unwrap(), Tz::UTC);
    Meter { of, unit, used, max, day }
}

#[test]
fn a_limit_of_nothing_is_reached_from_the_beginning() {
    assert!(meter(Of::Everybody, Unit::Usd, 0.0, 0.0).is_full());
    assert!(!meter(Of::Everybody, Unit::Usd, 0.99, 1.0).is_full());
    assert!(meter(Of::Everybody, Unit::Usd, 1.0, 1.0).is_full());
}

#[test]
fn every_limit_names_its_key_and_only_those_of_a_day_end_by_themselves() {
    let project = Of::Project("shop".into());
    let agent = Of::Agent("coder-1".into(), ItemId(7));
    for (of, unit, key, resumes) in [
        (agent.clone(), Unit::Usd, "max_usd", false),
        (agent.clone(), Unit::Tokens, "max_tokens", false),
        (agent.clone(), Unit::Turns, "max_turns", false),
        (agent, Unit::Minutes, "max_minutes", false),
        (Of::Item(ItemId(7)), Unit::Usd, "[limits] usd_per_item", false),
        (Of::Item(ItemId(7)), Unit::Tokens, "[limits] tokens_per_item", false),
        (project.clone(), Unit::Usd, "[[projects]] usd_per_day", true),
        (project, Unit::Tokens, "[[projects]] tokens_per_day", true),
        (Of::Everybody, Unit::Usd, "[limits] usd_per_day", true),
        (Of::Everybody, Unit::Tokens, "[limits] tokens_per_day", true),
    ] {
        let meter = meter(of, unit, 9.0, 10.0);
        let reached = meter.reached();
        assert_eq!(reached.resumes, resumes, "{key}");
        for text in [reached.what, meter.warning(), meter.in_words()] {
            assert!(text.contains(key), "{key}: {text}");
        }
        assert!(meter.warning().contains("90%"), "{}", meter.warning());
        assert_ne!(meter.name(true), meter.name(false));
    }
}
