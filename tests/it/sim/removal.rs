//! Each safety rule of the core, taken away, must be missed: what is not found here is not needed there.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use outbox_relay::relay::{Rule, Rules};

use super::run;
use super::weather::Weather;
use super::world::Setting;

/// Seeds tried before a rule counts as not missed. Most are missed within a hundred.
const SEEDS_MAX: u64 = 3_000;

/// A world in which the rule has something to do.
pub fn setting(rule: Rule) -> Setting {
    let any = Setting { rules: Rules::without(rule), ..Setting::any() };
    match rule {
        Rule::TrustEnd | Rule::PurgeQueue => {
            Setting { weather: Some(Weather::LONG_STALLS), relays: Some(2), ..any }
        }
        Rule::SafeId | Rule::SafeAtStart => Setting { weather: Some(Weather::SLOW_LINKS), ..any },
        Rule::DropNumber
        | Rule::CursorBack
        | Rule::EpochFetch
        | Rule::DropSuccessors
        | Rule::OnePerLane
        | Rule::CountUnmarked
        | Rule::ResendUnknown
        | Rule::VanishedMarks => any,
    }
}

pub fn rule_named(name: &str) -> Option<Rule> {
    Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name)
}

/// What a seed shows: a promise broken, or a relay whose own books no longer add up.
fn finding(seed: u64, setting: Setting) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| run(seed, setting))) {
        Ok(report) => report.violations.first().map(ToString::to_string),
        Err(_) => Some("the relay's books do not add up".to_owned()),
    }
}

fn assert_found(rule: Rule) {
    let setting = setting(rule);
    let found = (0..SEEDS_MAX).find_map(|seed| Some((seed, finding(seed, setting)?)));
    let (seed, finding) = found.unwrap_or_else(|| panic!("{rule:?} is not missed in {SEEDS_MAX} seeds"));
    writeln!(std::io::stdout(), "{rule:?}: seed {seed}: {finding}").expect("a report");
}

macro_rules! removed {
    ($($name:ident $rule:ident)+) => {
        $(#[test]
        fn $name() {
            assert_found(Rule::$rule);
        })+

        #[test]
        fn every_rule_is_removed_once() {
            assert_eq!(Rule::ALL.to_vec(), [$(Rule::$rule),+]);
        }
    };
}

removed! {
    the_safe_id_removed_is_found SafeId
    the_safe_id_at_the_start_removed_is_found SafeAtStart
    the_drop_number_removed_is_found DropNumber
    the_cursor_going_back_removed_is_found CursorBack
    the_epoch_of_a_fetch_removed_is_found EpochFetch
    the_end_of_trust_removed_is_found TrustEnd
    the_drop_of_successors_removed_is_found DropSuccessors
    the_one_record_per_lane_removed_is_found OnePerLane
    the_count_of_the_unmarked_removed_is_found CountUnmarked
    the_resending_of_the_unknown_removed_is_found ResendUnknown
    the_purge_of_the_queue_removed_is_found PurgeQueue
    the_stop_at_vanished_marks_removed_is_found VanishedMarks
}
