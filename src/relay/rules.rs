//! The safety rules of reading, publishing and settling, by name.
//!
//! Each rule is named where it is kept, so that the simulation (built with the feature
//! `rule-removal`) can take one away and show what would go wrong without it. In every other build
//! [`Rules::keep`] is the constant `true`.

#[cfg(all(feature = "rule-removal", not(debug_assertions)))]
compile_error!("the feature rule-removal switches safety rules off; it is for the simulation only");

/// What keeps rows from being lost, repeated or overtaken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The page cursor passes a position only once every transaction that might still show a row
    /// below it has ended.
    SafeId,
    /// A read moves the cursor only up to the safe id known when it started.
    SafeAtStart,
    /// A lane that lost rows takes rows only from a read started after the loss.
    DropNumber,
    /// ... and one that starts below the lowest row lost or passed over.
    CursorBack,
    /// A read started in an earlier epoch is dropped.
    EpochFetch,
    /// Nothing is published once the lease may have run out.
    TrustEnd,
    /// A failed message's successors leave the hand.
    DropSuccessors,
    /// One unconfirmed record per lane.
    OnePerLane,
    /// Confirmed but unmarked rows count in the window.
    CountUnmarked,
    /// A settlement of unknown outcome is sent again.
    ResendUnknown,
    /// When trust ends, the broker client's queue is emptied.
    PurgeQueue,
    /// Marks that vanish stop publishing.
    VanishedMarks,
}

impl Rule {
    /// Every rule, for the simulation to remove in turn.
    pub const ALL: [Self; 12] = [
        Self::SafeId,
        Self::SafeAtStart,
        Self::DropNumber,
        Self::CursorBack,
        Self::EpochFetch,
        Self::TrustEnd,
        Self::DropSuccessors,
        Self::OnePerLane,
        Self::CountUnmarked,
        Self::ResendUnknown,
        Self::PurgeQueue,
        Self::VanishedMarks,
    ];
}

/// The rules a relay keeps: all of them, outside the simulation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    #[cfg(feature = "rule-removal")]
    removed: Option<Rule>,
}

impl Rules {
    /// Every rule but one.
    #[cfg(feature = "rule-removal")]
    #[must_use]
    pub const fn without(rule: Rule) -> Self {
        Self { removed: Some(rule) }
    }

    #[cfg(feature = "rule-removal")]
    pub(super) fn keep(self, rule: Rule) -> bool {
        self.removed != Some(rule)
    }

    #[cfg(not(feature = "rule-removal"))]
    #[allow(clippy::unused_self, reason = "the same call in both builds")]
    pub(super) const fn keep(self, _rule: Rule) -> bool {
        true
    }
}
