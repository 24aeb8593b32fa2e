//! Who of a consumer group was given which partitions, as its coordinator has it (the classic protocol).

use crate::Context;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use std::time::Duration;

/// One member, and what it was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// That of a static member begins with its own and a hyphen.
    pub id: String,
    pub partitions: Vec<(String, i32)>,
}

/// The members of a group that is at rest; `None` where it is not, or is not known.
///
/// # Errors
/// librdkafka's.
pub fn members(
    client: &BaseConsumer<Context>,
    group: &str,
    within: Duration,
) -> KafkaResult<Option<Vec<Member>>> {
    let list = client.client().fetch_group_list(Some(group), within)?;
    let found = list.groups().iter().find(|found| found.name() == group);
    let Some(found) = found.filter(|found| found.state() == "Stable") else {
        return Ok(None);
    };
    let members = found.members().iter().map(|member| {
        let partitions = assigned(member.assignment().unwrap_or_default())?;
        Some(Member {
            id: member.id().to_owned(),
            partitions,
        })
    });
    Ok(members.collect())
}

/// An assignment as consumers write it; `None` for bytes that are none. Source: Kafka's `ConsumerProtocolAssignment.json`, version 0 on.
fn assigned(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    // A member of a group that was never given anything.
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let mut rest = bytes.get(2..)?;
    let mut partitions = Vec::new();
    for _ in 0..number(&mut rest)? {
        let length = i16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?);
        let topic = take(&mut rest, usize::try_from(length).ok()?)?;
        let topic = std::str::from_utf8(topic).ok()?;
        for _ in 0..number(&mut rest)? {
            partitions.push((topic.to_owned(), number(&mut rest)?));
        }
    }
    Some(partitions)
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    Some(i32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_what_is_none_is_not() {
        let bytes =
            b"\0\x01\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\x03\0\0\0\x05\0\x01b\0\0\0\0\xff\xff\xff\xff";
        let expected = vec![("a".to_owned(), 3), ("a".to_owned(), 5)];
        assert_eq!(assigned(bytes), Some(expected));
        assert_eq!(assigned(b""), Some(Vec::new()));
        assert_eq!(assigned(b"\0\0\0\0\0\0\xff\xff\xff\xff"), Some(Vec::new()));
        for end in [1, 5, 7, 9, 14, 20] {
            assert_eq!(assigned(&bytes[..end]), None, "{end}");
        }
    }
}
