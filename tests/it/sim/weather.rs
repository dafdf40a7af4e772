//! How bad the world is in one run: the probability of every fault, and how long things take.

use super::dice::Dice;

/// Probabilities of what goes wrong until the calm begins. Those of a process are per look at it,
/// which is every 100 ms; the others per call, settlement or record.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub crash: f64,
    pub stall: f64,
    pub drain: f64,
    pub abort: f64,
    /// A statement takes up to 400 ms.
    pub slow: f64,
    /// A statement takes up to 3 s.
    pub very_slow: f64,
    /// A statement fails, with or without effect.
    pub database_error: f64,
    /// Of the settlements whose outcome is unknown: those that land later.
    pub ghost: f64,
    /// A row cannot be marked.
    pub refuse: f64,
    /// Marks succeed and leave the rows pending.
    pub vanish: f64,
    /// A record waits in the client's queue for up to 2 s.
    pub queued: f64,
    /// A record fails, and the broker does not hold it.
    pub fail: f64,
    /// A record is held, and its outcome lost.
    pub lost: f64,
    /// A record's outcome is lost, and the broker takes it later.
    pub late: f64,
    /// A record comes back because the broker is out.
    pub unavailable: f64,
    /// A destination is blocked for up to a second.
    pub blocked: f64,
    /// An outcome comes twice.
    pub double: f64,
    pub fatal: f64,
    pub fenced: f64,
    pub open_fails: f64,
    /// The broker goes away for up to two seconds.
    pub outage: f64,
    /// A row has no valid record until the calm.
    pub unroutable: f64,
}

impl Weather {
    /// Any mixture: each fault is absent in about half of the runs.
    pub fn any(dice: &mut Dice) -> Self {
        let mut draw = |max: f64, present: f64| {
            let (present, share) = (dice.chance(present), dice.unit());
            if present { share * max } else { 0.0 }
        };
        Self {
            crash: draw(0.02, 0.5),
            stall: draw(0.02, 0.5),
            drain: draw(0.01, 0.5),
            abort: draw(0.003, 0.3),
            slow: draw(0.4, 0.7),
            very_slow: draw(0.1, 0.4),
            database_error: draw(0.2, 0.5),
            ghost: draw(0.5, 0.5),
            refuse: draw(0.1, 0.4),
            vanish: draw(0.02, 0.3),
            queued: draw(0.1, 0.3),
            fail: draw(0.2, 0.5),
            lost: draw(0.15, 0.5),
            late: draw(0.1, 0.5),
            unavailable: draw(0.05, 0.4),
            blocked: draw(0.05, 0.5),
            double: draw(0.2, 0.5),
            fatal: draw(0.01, 0.3),
            fenced: draw(0.005, 0.2),
            open_fails: draw(0.3, 0.3),
            outage: draw(0.01, 0.4),
            unroutable: draw(0.1, 0.4),
        }
    }

    /// Nothing goes wrong but time: slow statements, long queues.
    pub const SLOW_LINKS: Self = Self {
        crash: 0.0,
        stall: 0.0,
        drain: 0.0,
        abort: 0.0,
        slow: 0.4,
        very_slow: 0.1,
        database_error: 0.0,
        ghost: 0.0,
        refuse: 0.0,
        vanish: 0.0,
        queued: 0.1,
        fail: 0.1,
        lost: 0.0,
        late: 0.0,
        unavailable: 0.0,
        blocked: 0.02,
        double: 0.0,
        fatal: 0.0,
        fenced: 0.0,
        open_fails: 0.0,
        outage: 0.0,
        unroutable: 0.0,
    };

    /// Statements so slow that the lease runs out, and records that wait in the client's queue.
    pub const LONG_STALLS: Self = Self {
        stall: 0.01,
        drain: 0.002,
        very_slow: 0.25,
        database_error: 0.2,
        queued: 0.4,
        fail: 0.0,
        blocked: 0.0,
        ..Self::SLOW_LINKS
    };

    /// Once the faults have stopped.
    pub const CALM: Self =
        Self { slow: 0.0, very_slow: 0.0, queued: 0.0, fail: 0.0, blocked: 0.0, ..Self::SLOW_LINKS };
}
