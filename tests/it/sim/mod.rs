//! The core in virtual time, against a world that does its worst: one seed is one run.
//!
//! `scripts/sim` runs as many seeds as asked for and traces one of them step by step. A seed that ever
//! failed is kept in `seeds.txt`.

#![allow(clippy::disallowed_methods, reason = "tests live in the world, with tasks and an environment")]

use std::io::Write as _;
use std::ops::Range;

mod books;
mod contract;
mod decisions;
mod dice;
pub mod fakes;
pub mod memory_broker;
pub mod memory_outbox;
mod pump;
#[cfg(feature = "rule-removal")]
mod removal;
mod weather;
mod world;

use books::Tally;
use weather::Weather;
use world::{Report, Setting, World};

fn run(seed: u64, setting: Setting) -> Report {
    World::new(seed, setting).run()
}

/// What came of many seeds: those that broke a promise, with the first they broke, and how much
/// happened in all of them.
#[derive(Debug, Default)]
struct Campaign {
    failed: Vec<(u64, String)>,
    tally: Tally,
}

impl Campaign {
    /// Runs `seeds` on two threads.
    fn run(seeds: Range<u64>, setting: Setting) -> Self {
        let run_half = |half| {
            let mut campaign = Self::default();
            seeds.clone().filter(|seed| seed % 2 == half).for_each(|seed| campaign.add(seed, setting));
            campaign
        };
        std::thread::scope(|scope| {
            let odd = scope.spawn(|| run_half(1));
            let mut campaign = run_half(0);
            let odd = odd.join().expect("the relay does not panic");
            campaign.failed.extend(odd.failed);
            campaign.failed.sort_unstable();
            campaign.tally.add(odd.tally);
            campaign
        })
    }

    fn add(&mut self, seed: u64, setting: Setting) {
        let report = run(seed, setting);
        self.tally.add(report.tally);
        if let Some(violation) = report.violations.first() {
            self.failed.push((seed, violation.to_string()));
        }
    }

    fn assert_kept(&self) {
        let first = &self.failed[..self.failed.len().min(5)];
        assert!(first.is_empty(), "{} seeds failed: {first:#?}", self.failed.len());
    }
}

#[test]
fn a_thousand_seeds_keep_every_promise() {
    let campaign = Campaign::run(0..1_000, Setting::any());
    campaign.assert_kept();
    // The faults took place: a quiet world would keep every promise too.
    let Tally { repeats, crashes, takeovers, drained, unfinished, .. } = campaign.tally;
    assert!([repeats, crashes, takeovers, drained, unfinished].iter().all(|&count| count > 30));
}

#[test]
fn slow_links_and_long_stalls_keep_every_promise() {
    for weather in [Weather::SLOW_LINKS, Weather::LONG_STALLS] {
        let setting = Setting { weather: Some(weather), relays: Some(2), ..Setting::any() };
        Campaign::run(0..300, setting).assert_kept();
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(seed, Setting::any()).hash, run(seed, Setting::any()).hash, "seed {seed}");
    }
}

/// Seeds that failed once, and the promise that each broke. One a line.
#[test]
fn kept_seeds_still_pass() {
    for line in include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#')) {
        let seed = line.split_whitespace().next().expect("a seed").parse().expect("a number");
        let report = run(seed, Setting::any());
        assert_eq!(report.violations, [], "seed {line}");
    }
}

/// The door of `scripts/sim`: `OUTBOX_SIM_SEEDS` is `first..end`, `OUTBOX_SIM_TRACE` a seed, and
/// `OUTBOX_SIM_WITHOUT` a rule to be removed.
#[test]
fn seeds_asked_for() {
    let asked = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let setting = asked("OUTBOX_SIM_WITHOUT").map_or_else(Setting::any, |rule| without(&rule));
    if let Some(seed) = asked("OUTBOX_SIM_TRACE") {
        let report = run(seed.parse().expect("a seed"), Setting { trace: true, ..setting });
        writeln!(std::io::stdout(), "{report:#?}").expect("a report");
    }
    if let Some(range) = asked("OUTBOX_SIM_SEEDS") {
        let (first, end) = range.split_once("..").expect("first..end");
        let seeds = first.parse().expect("a seed")..end.parse().expect("a seed");
        let campaign = Campaign::run(seeds, setting);
        for (seed, violation) in &campaign.failed {
            writeln!(std::io::stdout(), "{seed}  {violation}").expect("a report");
        }
        writeln!(std::io::stdout(), "{:?}", campaign.tally).expect("a report");
        campaign.assert_kept();
    }
}

#[cfg(feature = "rule-removal")]
fn without(rule: &str) -> Setting {
    removal::setting(removal::rule_named(rule).unwrap_or_else(|| panic!("no rule is called {rule}")))
}

#[cfg(not(feature = "rule-removal"))]
fn without(rule: &str) -> Setting {
    panic!("{rule} can only be removed with the feature rule-removal")
}
