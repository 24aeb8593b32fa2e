//! Who a run is: its id, the agent, the attempt, and the chain of events that it belongs to.

use crate::record::Position;
use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha256};

/// Characters of a run id: 130 bits.
const LENGTH: usize = 26;

/// What decides the id of a run. Nothing of an attempt is in it: a retry, on whichever replica,
/// is the same run.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub namespace: &'a str,
    pub agent: &'a str,
    pub trigger: &'a Position,
    /// The trigger's timestamp on the log, milliseconds since the epoch: offsets of a topic that
    /// was created again begin anew, its timestamps do not.
    pub timestamp: i64,
    /// Key of the row, where one trigger gives a run for each row; else empty.
    pub row: &'a str,
}

impl Identity<'_> {
    /// 26 characters of lower-case base32 (RFC 4648) of a SHA-256. Every part has its length in
    /// front, so that no two identities give the same bytes.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(self.namespace.as_bytes());
        part(self.agent.as_bytes());
        part(self.trigger.topic.as_bytes());
        part(&self.trigger.partition.to_be_bytes());
        part(&self.trigger.offset.to_be_bytes());
        part(&self.timestamp.to_be_bytes());
        part(self.row.as_bytes());
        let mut id = BASE32_NOPAD.encode(&hash.finalize()).to_ascii_lowercase();
        id.truncate(LENGTH);
        id
    }
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: &str, agent: &str, topic: &str, offset: i64, timestamp: i64) -> String {
        Identity {
            namespace,
            agent,
            trigger: &Position {
                topic: topic.into(),
                partition: 3,
                offset,
            },
            timestamp,
            row: "",
        }
        .id()
    }

    #[test]
    fn is_26_lower_case_base32_and_never_changes() {
        let id = id("shop", "helper", "shop.questions", 41, 1_764_000_000_000);
        assert_eq!(id, "zukjtfmfoyypeg2afn3qfqzf6p");
        assert!(id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'2'..=b'7')));
    }

    #[test]
    fn every_part_counts_and_none_runs_into_the_next() {
        let base = id("shop", "helper", "t", 1, 5);
        assert_ne!(base, id("shoph", "elper", "t", 1, 5));
        assert_ne!(base, id("shop", "helper", "t", 2, 5));
        assert_ne!(base, id("shop", "helper", "t", 1, 6));
        assert_ne!(base, id("shop", "helpert", "", 1, 5));
    }
}
