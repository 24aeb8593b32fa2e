//! What somebody decided for a partition that cannot go on by itself: where it goes on, or which record it passes.
//!
//! A decision is the metadata of a committed offset, written for a group that has no members, which Kafka makes sure
//! of. The stage finds it when it takes the partition over. It stays until the stage commits a position beyond it, in
//! the same transaction as what it came to: a crash in between finds it again.

use crate::log::Committed;

/// A decision about one partition of one of a stage's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Go on at the committed offset, whatever the state says. Only a view's fold needs to be told: to others the
    /// committed offset is the position.
    From(i64),
    /// Go past the invalid record at this offset.
    Skip(i64),
}

const FROM: &str = "headwater-from";
const SKIP: &str = "headwater-skip:";

impl Intent {
    /// As it is committed. `position` is the group's own, which a skip leaves as it is.
    pub fn committed(self, position: i64) -> Committed {
        match self {
            Self::From(offset) => Committed {
                offset,
                metadata: FROM.to_owned(),
            },
            Self::Skip(offset) => Committed {
                offset: position,
                metadata: format!("{SKIP}{offset}"),
            },
        }
    }

    pub fn of(committed: &Committed) -> Option<Self> {
        if committed.metadata == FROM {
            return Some(Self::From(committed.offset));
        }
        let offset = committed.metadata.strip_prefix(SKIP)?.parse().ok()?;
        Some(Self::Skip(offset))
    }

    /// The offset of the record to go past.
    pub(super) fn skipped(committed: Option<&Committed>) -> Option<i64> {
        match Self::of(committed?) {
            Some(Self::Skip(offset)) => Some(offset),
            _ => None,
        }
    }
}

/// The group's position `next` as a stage commits it, which keeps the decision to go past a record ahead.
pub(super) fn position(next: i64, skip: Option<i64>) -> Committed {
    match skip {
        Some(offset) if next <= offset => Intent::Skip(offset).committed(next),
        _ => Committed {
            offset: next,
            metadata: String::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_survives_its_commit_until_it_is_passed() {
        for intent in [Intent::From(7), Intent::Skip(9)] {
            assert_eq!(Intent::of(&intent.committed(3)), Some(intent));
        }
        assert_eq!(Intent::Skip(9).committed(3).offset, 3);
        let before = position(9, Some(9));
        assert_eq!(Intent::skipped(Some(&before)), Some(9));
        let after = position(10, Some(9));
        assert_eq!((after.offset, Intent::of(&after)), (10, None));
        assert_eq!(Intent::skipped(None), None);
    }
}
