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
        self.committed_over(&Committed {
            offset: position,
            metadata: String::new(),
        })
    }

    /// The same, over what the group has committed: a skip leaves what its metadata says of the stage's progress.
    pub fn committed_over(self, former: &Committed) -> Committed {
        match self {
            Self::From(offset) => Committed {
                offset,
                metadata: FROM.to_owned(),
            },
            Self::Skip(offset) => {
                position(former.offset, Some(offset), progress(former).to_owned())
            }
        }
    }

    pub fn of(committed: &Committed) -> Option<Self> {
        if committed.metadata == FROM {
            return Some(Self::From(committed.offset));
        }
        let rest = committed.metadata.strip_prefix(SKIP)?;
        let offset = rest.split_once(' ').map_or(rest, |(offset, _)| offset);
        Some(Self::Skip(offset.parse().ok()?))
    }

    /// The offset of the record to go past.
    pub(super) fn skipped(committed: Option<&Committed>) -> Option<i64> {
        match Self::of(committed?) {
            Some(Self::Skip(offset)) => Some(offset),
            _ => None,
        }
    }
}

/// The group's position `next` as a stage commits it, with its `progress` beyond, empty for none. It keeps the decision to
/// go past a record ahead.
pub(super) fn position(next: i64, skip: Option<i64>, progress: String) -> Committed {
    let metadata = match skip {
        Some(offset) if next <= offset && progress.is_empty() => format!("{SKIP}{offset}"),
        Some(offset) if next <= offset => format!("{SKIP}{offset} {progress}"),
        _ => progress,
    };
    Committed {
        offset: next,
        metadata,
    }
}

/// What a committed offset says of the stage's progress beyond it, decisions apart.
pub(super) fn progress(committed: &Committed) -> &str {
    match Intent::of(committed) {
        None => &committed.metadata,
        Some(_) => committed
            .metadata
            .split_once(' ')
            .map_or("", |(_, progress)| progress),
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
        let before = position(9, Some(9), String::new());
        assert_eq!(Intent::skipped(Some(&before)), Some(9));
        let after = position(10, Some(9), String::new());
        assert_eq!((after.offset, Intent::of(&after)), (10, None));
        assert_eq!(Intent::skipped(None), None);
    }

    #[test]
    fn a_decision_leaves_what_is_finished_beyond() {
        let stage = position(3, None, "1:AAEB".to_owned());
        assert_eq!((Intent::of(&stage), progress(&stage)), (None, "1:AAEB"));
        let decided = Intent::Skip(9).committed_over(&stage);
        assert_eq!(Intent::of(&decided), Some(Intent::Skip(9)));
        assert_eq!((decided.offset, progress(&decided)), (3, "1:AAEB"));
        // The stage goes on and has not passed it.
        let next = position(5, Some(9), "1:AgEB".to_owned());
        assert_eq!(
            (Intent::of(&next), progress(&next)),
            (Some(Intent::Skip(9)), "1:AgEB")
        );
        // Whoever says where to go on says that nothing is finished there.
        let from = Intent::From(0).committed_over(&stage);
        assert_eq!((from.offset, progress(&from)), (0, ""));
    }
}
