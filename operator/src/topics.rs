//! Brings Kafka's topics to what the plan says: creates, adds partitions, sets configuration.
//!
//! Never takes partitions away, never resets configuration that is not named, never touches an observed
//! topic. Deletes only a topic whose id was recorded when it was created. Blocking.

use crate::generations::{Look, Seen};
use crate::plan::{Partitions, Topic};
use crate::reason::Reason;
use crate::resources::Id;
use crate::validate::Problem;
use headwater_crds::event_source::Management;
use headwater_kafka::Error;
use headwater_kafka::admin::{
    Admin, Beginning, ConfigChange, Created, Deleted, NewTopic, Topic as Found,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a broker may take to hear of a topic that was created, and how often it is asked.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A topic as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) owner: Id,
    pub(crate) id: String,
    pub(crate) partitions: u32,
    /// Created in this round, and so ours to delete.
    pub(crate) created: bool,
    /// It is other than planned, and works all the same.
    pub(crate) warning: Option<Problem>,
}

/// What became of each topic of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ensured {
    pub(crate) topics: BTreeMap<String, Known>,
    pub(crate) problems: BTreeMap<Id, Problem>,
    /// What the logs of sources still hold, as far as it was asked. A topic that is not there has no answer.
    pub(crate) seen: BTreeMap<Look, Seen>,
    /// How many topics were created or changed.
    pub(crate) changes: u32,
    /// A topic was created that brokers do not know of yet: to be looked at again soon.
    pub(crate) unsettled: bool,
}

/// # Errors
/// When Kafka as a whole cannot be asked; what concerns one topic is among the problems.
pub(crate) fn ensure(
    admin: &Admin,
    topics: &[Topic],
    looks: &BTreeSet<Look>,
    now_ms: i64,
) -> Result<Ensured, Error> {
    let mut ensured = Ensured::default();
    let found = describe(admin, topics.iter().map(|topic| topic.name.as_str()))?;
    let existed: BTreeSet<&str> = found
        .iter()
        .filter(|(_, answer)| matches!(answer, Ok(Some(_))))
        .map(|(name, _)| name.as_str())
        .collect();
    let mut partitions: BTreeMap<String, u32> = BTreeMap::new();
    for topic in topics {
        match found.get(&topic.name) {
            Some(Ok(Some(found))) => {
                let (count, warning) = existing(admin, topic, found, &partitions, &mut ensured);
                partitions.insert(topic.name.clone(), count);
                ensured.topics.insert(
                    topic.name.clone(),
                    known(topic, found, count, false, warning),
                );
            }
            Some(Ok(None)) | None => {
                if let Some(found) = missing(admin, topic, &partitions, &mut ensured)? {
                    let count = count(&found);
                    partitions.insert(topic.name.clone(), count);
                    ensured
                        .topics
                        .insert(topic.name.clone(), known(topic, &found, count, true, None));
                }
            }
            Some(Err(error)) => trouble(&mut ensured, topic, error),
        }
    }
    configure(
        admin,
        topics
            .iter()
            .filter(|topic| existed.contains(topic.name.as_str())),
        &mut ensured,
    )?;
    for asked in looks {
        if let Some(seen) = look(admin, asked, now_ms)? {
            ensured.seen.insert(asked.clone(), seen);
        }
    }
    Ok(ensured)
}

/// What the log of a source still holds; `None` where there is none, or it may not be asked.
fn look(admin: &Admin, asked: &Look, now_ms: i64) -> Result<Option<Seen>, Error> {
    let topic = asked.topic.as_str();
    let Some(Ok(Some(found))) = admin.describe(&[topic])?.into_iter().next() else {
        return Ok(None);
    };
    let Some(Ok(config)) = admin.describe_configs(&[topic])?.into_iter().next() else {
        return Ok(None);
    };
    let since_ms = asked.within_ms.map(|within| now_ms.saturating_sub(within));
    let beginnings = match admin.beginnings(topic, found.partitions, since_ms) {
        Ok(beginnings) => beginnings,
        Err(error @ (Error::Unreachable { .. } | Error::Authentication { .. })) => {
            return Err(error);
        }
        Err(error) => {
            tracing::warn!(topic, %error, "what a source's topic holds is not known");
            return Ok(None);
        }
    };
    let policy = config
        .get("cleanup.policy")
        .map_or("delete", String::as_str);
    let retention: Option<i64> = config.get("retention.ms").and_then(|ms| ms.parse().ok());
    let kept = asked
        .within_ms
        .zip(retention)
        .is_some_and(|(within, retention)| retention < 0 || retention >= within);
    let whole = |beginning: &Beginning| {
        // Where an older record is still there, none that counts is gone.
        let older = asked.within_ms.is_some()
            && beginning.low < beginning.high
            && beginning.since.is_none_or(|since| since > beginning.low);
        let expired = beginning.low == beginning.high && kept;
        beginning.low == 0 || older || expired
    };
    Ok(Some(Seen {
        compacted: policy.contains("compact"),
        deleted: policy.contains("delete"),
        whole: beginnings.iter().all(whole),
    }))
}

fn known(
    topic: &Topic,
    found: &Found,
    partitions: u32,
    created: bool,
    warning: Option<Problem>,
) -> Known {
    Known {
        owner: topic.owner.clone(),
        id: found.id.clone(),
        partitions,
        created,
        warning,
    }
}

fn count(found: &Found) -> u32 {
    u32::try_from(found.partitions).unwrap_or(0)
}

type Answers = BTreeMap<String, Result<Option<Found>, Error>>;

fn describe<'a>(admin: &Admin, names: impl Iterator<Item = &'a str>) -> Result<Answers, Error> {
    let names: Vec<&str> = names.collect::<BTreeSet<_>>().into_iter().collect();
    let answers = admin.describe(&names)?;
    Ok(names.into_iter().map(str::to_owned).zip(answers).collect())
}

/// Adds partitions where fewer are there than planned; says so where more are.
fn existing(
    admin: &Admin,
    topic: &Topic,
    found: &Found,
    partitions: &BTreeMap<String, u32>,
    ensured: &mut Ensured,
) -> (u32, Option<Problem>) {
    let now = count(found);
    if topic.management == Management::Observe || !topic.partitions.grows() {
        return (now, None);
    }
    let Some(wanted) = topic
        .partitions
        .resolve(|name| partitions.get(name).copied())
    else {
        return (now, None);
    };
    if wanted < now {
        let warning = Problem {
            reason: Reason::TopicDiffers,
            path: "spec.topic.partitions".to_owned(),
            message: format!(
                "topic '{}' has {now} partitions, not {wanted}: Kafka cannot take partitions away, so they stay; set partitions to {now}",
                topic.name
            ),
        };
        return (
            now,
            matches!(topic.partitions, Partitions::Fixed(_)).then_some(warning),
        );
    }
    if wanted > now {
        match admin.grow(&topic.name, i32::try_from(wanted).unwrap_or(i32::MAX)) {
            Ok(()) => {
                ensured.changes += 1;
                return (wanted, None);
            }
            Err(error) => trouble(ensured, topic, &error),
        }
    }
    (now, None)
}

/// Creates a topic. `None` where it could not be, or must not.
fn missing(
    admin: &Admin,
    topic: &Topic,
    partitions: &BTreeMap<String, u32>,
    ensured: &mut Ensured,
) -> Result<Option<Found>, Error> {
    if topic.management == Management::Observe {
        ensured.problems.entry(topic.owner.clone()).or_insert_with(|| Problem {
            reason: Reason::NotFound,
            path: "spec.topic.name".to_owned(),
            message: format!(
                "topic '{}' does not exist in Kafka, or the principal may not see it; create it, or set management: Create",
                topic.name
            ),
        });
        return Ok(None);
    }
    // Its number follows that of a topic which could not be created either: that one's problem says why.
    let Some(wanted) = topic
        .partitions
        .resolve(|name| partitions.get(name).copied())
    else {
        return Ok(None);
    };
    let new = NewTopic {
        name: topic.name.clone(),
        partitions: Some(i32::try_from(wanted).unwrap_or(i32::MAX)),
        replication_factor: topic
            .replication_factor
            .map(|replicas| i16::try_from(replicas).unwrap_or(i16::MAX)),
        config: topic.config.clone(),
    };
    let created = match admin.create(&[new])?.into_iter().next() {
        Some(Ok(created)) => created,
        Some(Err(error)) => {
            trouble(ensured, topic, &error);
            return Ok(None);
        }
        None => return Ok(None),
    };
    if created == Created::Existed {
        // Somebody was quicker: the next round finds it as one that was there.
        ensured.unsettled = true;
        return Ok(None);
    }
    ensured.changes += 1;
    settled(admin, topic, ensured)
}

/// The new topic's id, once the broker that is asked has heard of it from the controller; by it the topic is known as ours.
fn settled(admin: &Admin, topic: &Topic, ensured: &mut Ensured) -> Result<Option<Found>, Error> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        match admin.describe(&[&topic.name])?.into_iter().next() {
            Some(Ok(Some(found))) => return Ok(Some(found)),
            Some(Err(error)) => {
                trouble(ensured, topic, &error);
                return Ok(None);
            }
            Some(Ok(None)) | None if Instant::now() > deadline => {
                ensured.unsettled = true;
                return Ok(None);
            }
            Some(Ok(None)) | None => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Sets what differs from the plan, on topics that were there before and are ours to change.
fn configure<'a>(
    admin: &Admin,
    topics: impl Iterator<Item = &'a Topic>,
    ensured: &mut Ensured,
) -> Result<(), Error> {
    let ours: Vec<&Topic> = topics
        .filter(|topic| topic.management == Management::Create && !topic.config.is_empty())
        .collect();
    let names: Vec<&str> = ours.iter().map(|topic| topic.name.as_str()).collect();
    for (topic, answer) in ours.iter().zip(admin.describe_configs(&names)?) {
        let set = match answer {
            Ok(now) => topic
                .config
                .iter()
                .filter(|(property, value)| now.get(*property) != Some(*value))
                .map(|(property, value)| (property.clone(), value.clone()))
                .collect::<BTreeMap<_, _>>(),
            Err(error) => {
                trouble(ensured, topic, &error);
                continue;
            }
        };
        if set.is_empty() {
            continue;
        }
        match admin.alter_config(
            &topic.name,
            &ConfigChange {
                set,
                reset: Vec::new(),
            },
        ) {
            Ok(()) => ensured.changes += 1,
            Err(error) => trouble(ensured, topic, &error),
        }
    }
    Ok(())
}

/// The first trouble of a resource is the one that is told.
fn trouble(ensured: &mut Ensured, topic: &Topic, error: &Error) {
    ensured
        .problems
        .entry(topic.owner.clone())
        .or_insert_with(|| problem("spec.topic", error));
}

/// What a failure of Kafka means for the user. The client's own words change from one try to the next,
/// so of those that pass by themselves only the address is told; the log has the rest.
pub(crate) fn problem(path: &str, error: &Error) -> Problem {
    let (reason, message) = match error {
        Error::Unreachable { servers, .. } => (
            Reason::KafkaUnreachable,
            format!(
                "Kafka at {servers} does not answer; check spec.bootstrapServers of the KafkaCluster, that the brokers run, and that the network lets the operator and the stages reach them"
            ),
        ),
        Error::Authentication { servers, .. } => (
            Reason::KafkaRefused,
            format!(
                "Kafka at {servers} refused the login; check mechanism, username and password, or the certificates"
            ),
        ),
        Error::Other { what, .. } => (
            Reason::KafkaUnreachable,
            format!("Kafka failed to {what}; it is tried again"),
        ),
        other => (Reason::KafkaRefused, other.to_string()),
    };
    Problem {
        reason,
        path: path.to_owned(),
        message,
    }
}

/// Deletes topics by the ids that were recorded when they were created. Gives back those that are left.
pub(crate) fn delete(
    admin: &Admin,
    topics: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Error> {
    let mut left = BTreeMap::new();
    for (name, id) in topics {
        match admin.delete(name, id) {
            Ok(Deleted::Gone | Deleted::Missing) => {}
            // It is another topic by now, of somebody else.
            Err(Error::OtherTopic { .. }) => {}
            Err(error @ (Error::Unreachable { .. } | Error::Authentication { .. })) => {
                return Err(error);
            }
            Err(_) => {
                left.insert(name.clone(), id.clone());
            }
        }
    }
    Ok(left)
}
