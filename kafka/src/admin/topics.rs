//! Topics themselves: their ids, creating, growing, deleting.

use super::request::{Outcome, other, outcomes, run};
use super::{Admin, Created, NewTopic, Topic};
use crate::error::{Error, Result};
use crate::native::{Owned, c_string, text};
use rdkafka::bindings as sys;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::HashMap;
use std::ffi::CString;
use sys::rd_kafka_admin_op_t as op;

pub(super) fn describe(admin: &Admin, names: &[&str]) -> Result<Vec<Result<Option<Topic>>>> {
    let what = "describe topics";
    let texts: Vec<CString> = names
        .iter()
        .map(|name| c_string(what, name))
        .collect::<Result<_>>()?;
    let mut pointers: Vec<_> = texts.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: the names live until the collection, which copies them, is made; it is owned here.
    let collection = unsafe {
        Owned::new(
            sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()),
            sys::rd_kafka_TopicCollection_destroy,
        )
    }
    .ok_or_else(|| other(what, "librdkafka gave no collection"))?;
    // SAFETY: the operation is the function's.
    let event = unsafe {
        run(
            admin,
            op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
            what,
            |client, options, queue| {
                sys::rd_kafka_DescribeTopics(client, collection.pointer(), options, queue);
            },
        )?
    };
    let mut found = HashMap::new();
    let mut count = 0;
    // SAFETY: the event is an answer to this operation and lives; descriptions are read here only.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event.pointer());
        let list = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        for index in 0..count {
            let (name, topic) = description(admin, *list.add(index));
            found.insert(name, topic);
        }
    }
    Ok(names
        .iter()
        .map(|name| {
            found
                .get(*name)
                .cloned()
                .unwrap_or_else(|| Err(other(what, "a topic is missing in the answer")))
        })
        .collect())
}

/// # Safety
/// `description` lives during the call.
unsafe fn description(
    admin: &Admin,
    description: *const sys::rd_kafka_TopicDescription_t,
) -> (String, Result<Option<Topic>>) {
    // SAFETY: by this function's contract; everything is copied.
    unsafe {
        let name = text(sys::rd_kafka_TopicDescription_name(description));
        let error = sys::rd_kafka_TopicDescription_error(description);
        let code = Code::from(sys::rd_kafka_error_code(error));
        if code != Code::NoError {
            let reason = text(sys::rd_kafka_error_string(error));
            let error = Error::from_code(&admin.servers, "describe topics", &name, code, reason);
            let missing = matches!(error, Error::UnknownTopic(_));
            return (name, if missing { Ok(None) } else { Err(error) });
        }
        let id = text(sys::rd_kafka_Uuid_base64str(
            sys::rd_kafka_TopicDescription_topic_id(description),
        ));
        let mut count = 0;
        let list = sys::rd_kafka_TopicDescription_partitions(description, &raw mut count);
        let mut replicas = usize::MAX;
        for index in 0..count {
            let mut these = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(*list.add(index), &raw mut these);
            replicas = replicas.min(these);
        }
        let topic = Topic {
            name: name.clone(),
            id,
            partitions: i32::try_from(count).unwrap_or(i32::MAX),
            replication_factor: i16::try_from(replicas).unwrap_or(0),
        };
        (name, Ok(Some(topic)))
    }
}

pub(super) fn create(admin: &Admin, topics: &[NewTopic]) -> Result<Vec<Result<Created>>> {
    let what = "create";
    let made: Vec<Owned<sys::rd_kafka_NewTopic_t>> =
        topics.iter().map(new_topic).collect::<Result<_>>()?;
    let mut pointers: Vec<_> = made.iter().map(Owned::pointer).collect();
    // SAFETY: the operation is the function's, which copies the topics.
    let event = unsafe {
        run(
            admin,
            op::RD_KAFKA_ADMIN_OP_CREATETOPICS,
            "create topics",
            |client, options, queue| {
                sys::rd_kafka_CreateTopics(
                    client,
                    pointers.as_mut_ptr(),
                    pointers.len(),
                    options,
                    queue,
                );
            },
        )?
    };
    let mut count = 0;
    // SAFETY: the event is an answer to this operation and lives.
    let outcomes = unsafe {
        let result = sys::rd_kafka_event_CreateTopics_result(event.pointer());
        outcomes(
            sys::rd_kafka_CreateTopics_result_topics(result, &raw mut count),
            count,
        )
    };
    let mut by_name: HashMap<String, Outcome> = outcomes
        .into_iter()
        .map(|outcome| (outcome.topic.clone(), outcome))
        .collect();
    Ok(topics
        .iter()
        .map(|topic| match by_name.remove(&topic.name) {
            None => Err(other(what, "a topic is missing in the answer")),
            Some(outcome) => match outcome.check(admin, what) {
                Ok(()) => Ok(Created::New),
                Err(Error::TopicExists(_)) => Ok(Created::Existed),
                Err(error) => Err(error),
            },
        })
        .collect())
}

fn new_topic(topic: &NewTopic) -> Result<Owned<sys::rd_kafka_NewTopic_t>> {
    let what = format!("create topic '{}'", topic.name);
    let name = c_string(&what, &topic.name)?;
    let mut reason = [0; 256];
    // SAFETY: the name lives during the call and is copied; `reason` takes at most its length.
    let made = unsafe {
        Owned::new(
            sys::rd_kafka_NewTopic_new(
                name.as_ptr(),
                topic.partitions.unwrap_or(-1),
                topic.replication_factor.map_or(-1, i32::from),
                reason.as_mut_ptr(),
                reason.len(),
            ),
            sys::rd_kafka_NewTopic_destroy,
        )
    }
    .ok_or_else(|| Error::Invalid {
        what: what.clone(),
        // SAFETY: librdkafka wrote a C string into it.
        reason: unsafe { text(reason.as_ptr()) },
    })?;
    for (key, value) in &topic.config {
        let (key, value) = (c_string(&what, key)?, c_string(&what, value)?);
        // SAFETY: topic and texts live; the texts are copied. It refuses only null.
        unsafe {
            sys::rd_kafka_NewTopic_set_config(made.pointer(), key.as_ptr(), value.as_ptr());
        }
    }
    Ok(made)
}

pub(super) fn grow(admin: &Admin, topic: &str, total: i32) -> Result<()> {
    let what = format!("grow topic '{topic}' to {total} partitions");
    let name = c_string(&what, topic)?;
    let mut reason = [0; 256];
    // SAFETY: the name lives during the call and is copied; `reason` takes at most its length.
    let wanted = unsafe {
        Owned::new(
            sys::rd_kafka_NewPartitions_new(
                name.as_ptr(),
                usize::try_from(total).unwrap_or(0),
                reason.as_mut_ptr(),
                reason.len(),
            ),
            sys::rd_kafka_NewPartitions_destroy,
        )
    }
    .ok_or_else(|| Error::Invalid {
        what: what.clone(),
        // SAFETY: librdkafka wrote a C string into it.
        reason: unsafe { text(reason.as_ptr()) },
    })?;
    let mut pointer = wanted.pointer();
    // SAFETY: the operation is the function's, which copies what is wanted.
    let event = unsafe {
        run(
            admin,
            op::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS,
            &what,
            |client, options, queue| {
                sys::rd_kafka_CreatePartitions(client, &raw mut pointer, 1, options, queue);
            },
        )?
    };
    let mut count = 0;
    // SAFETY: the event is an answer to this operation and lives.
    let outcomes = unsafe {
        let result = sys::rd_kafka_event_CreatePartitions_result(event.pointer());
        outcomes(
            sys::rd_kafka_CreatePartitions_result_topics(result, &raw mut count),
            count,
        )
    };
    outcomes
        .into_iter()
        .try_for_each(|outcome| outcome.check(admin, "grow"))
}

pub(super) fn delete(admin: &Admin, topic: &str) -> Result<()> {
    let what = format!("delete topic '{topic}'");
    let name = c_string(&what, topic)?;
    // SAFETY: the name lives during the call and is copied.
    let wanted = unsafe {
        Owned::new(
            sys::rd_kafka_DeleteTopic_new(name.as_ptr()),
            sys::rd_kafka_DeleteTopic_destroy,
        )
    }
    .ok_or_else(|| other(&what, "librdkafka made no request"))?;
    let mut pointer = wanted.pointer();
    // SAFETY: the operation is the function's, which copies what is wanted.
    let event = unsafe {
        run(
            admin,
            op::RD_KAFKA_ADMIN_OP_DELETETOPICS,
            &what,
            |client, options, queue| {
                sys::rd_kafka_DeleteTopics(client, &raw mut pointer, 1, options, queue);
            },
        )?
    };
    let mut count = 0;
    // SAFETY: the event is an answer to this operation and lives.
    let outcomes = unsafe {
        let result = sys::rd_kafka_event_DeleteTopics_result(event.pointer());
        outcomes(
            sys::rd_kafka_DeleteTopics_result_topics(result, &raw mut count),
            count,
        )
    };
    outcomes
        .into_iter()
        .try_for_each(|outcome| outcome.check(admin, "delete"))
}
