//! Configuration of topics: what is set on them, and changes of just that.

use super::request::{other, run};
use super::{Admin, ConfigChange};
use crate::error::{Error, Result};
use crate::native::{Owned, c_string, text};
use rdkafka::bindings as sys;
use rdkafka::error::RDKafkaErrorCode as Code;
use std::collections::{BTreeMap, HashMap};
use sys::rd_kafka_admin_op_t as op;

type Values = BTreeMap<String, String>;

fn resource(what: &str, topic: &str) -> Result<Owned<sys::rd_kafka_ConfigResource_t>> {
    let name = c_string(what, topic)?;
    // SAFETY: the name lives during the call and is copied.
    unsafe {
        Owned::new(
            sys::rd_kafka_ConfigResource_new(
                sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                name.as_ptr(),
            ),
            sys::rd_kafka_ConfigResource_destroy,
        )
    }
    .ok_or_else(|| other(what, "librdkafka made no request"))
}

pub(super) fn describe(admin: &Admin, names: &[&str]) -> Result<Vec<Result<Values>>> {
    let what = "describe the configuration of topics";
    let resources: Vec<_> = names
        .iter()
        .map(|name| resource(what, name))
        .collect::<Result<_>>()?;
    let mut pointers: Vec<_> = resources.iter().map(Owned::pointer).collect();
    // SAFETY: the operation is the function's, which copies the resources.
    let event = unsafe {
        run(
            admin,
            op::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS,
            what,
            |client, options, queue| {
                sys::rd_kafka_DescribeConfigs(
                    client,
                    pointers.as_mut_ptr(),
                    pointers.len(),
                    options,
                    queue,
                );
            },
        )?
    };
    let mut found = HashMap::new();
    let mut count = 0;
    // SAFETY: the event is an answer to this operation and lives.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConfigs_result(event.pointer());
        let list = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        for index in 0..count {
            let (name, outcome) = check(admin, *list.add(index), "describe the configuration of");
            found.insert(name, outcome.map(|()| own_values(*list.add(index))));
        }
    }
    Ok(names
        .iter()
        .map(|name| {
            found
                .remove(*name)
                .unwrap_or_else(|| Err(other(what, "a topic is missing in the answer")))
        })
        .collect())
}

/// Values set on the topic itself.
///
/// # Safety
/// `resource` lives during the call.
unsafe fn own_values(resource: *const sys::rd_kafka_ConfigResource_t) -> Values {
    let mut count = 0;
    let mut values = Values::new();
    // SAFETY: by this function's contract; texts are copied.
    unsafe {
        let list = sys::rd_kafka_ConfigResource_configs(resource, &raw mut count);
        for index in 0..count {
            let entry = *list.add(index);
            let source = sys::rd_kafka_ConfigEntry_source(entry);
            if source == sys::rd_kafka_ConfigSource_t::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG {
                values.insert(
                    text(sys::rd_kafka_ConfigEntry_name(entry)),
                    text(sys::rd_kafka_ConfigEntry_value(entry)),
                );
            }
        }
    }
    values
}

/// # Safety
/// `resource` lives during the call.
unsafe fn check(
    admin: &Admin,
    resource: *const sys::rd_kafka_ConfigResource_t,
    what: &str,
) -> (String, Result<()>) {
    // SAFETY: by this function's contract; texts are copied.
    let (name, code, reason) = unsafe {
        (
            text(sys::rd_kafka_ConfigResource_name(resource)),
            Code::from(sys::rd_kafka_ConfigResource_error(resource)),
            text(sys::rd_kafka_ConfigResource_error_string(resource)),
        )
    };
    if code == Code::NoError {
        return (name, Ok(()));
    }
    let what = format!("{what} topic '{name}'");
    let error = Error::from_code(&admin.servers, &what, &name, code, reason);
    (name, Err(error))
}

pub(super) fn alter(admin: &Admin, topic: &str, change: &ConfigChange) -> Result<()> {
    let what = format!("change the configuration of topic '{topic}'");
    let resource = resource(&what, topic)?;
    let set = change.set.iter().map(|(name, value)| {
        let kind = sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;
        (name, kind, value.as_str())
    });
    let reset = change.reset.iter().map(|name| {
        let kind = sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_DELETE;
        (name, kind, "")
    });
    for (name, kind, value) in set.chain(reset) {
        let (key, value) = (c_string(&what, name)?, c_string(&what, value)?);
        // SAFETY: the resource lives, texts are copied; the error returned is ours to destroy.
        let refused = unsafe {
            Owned::new(
                sys::rd_kafka_ConfigResource_add_incremental_config(
                    resource.pointer(),
                    key.as_ptr(),
                    kind,
                    value.as_ptr(),
                ),
                sys::rd_kafka_error_destroy,
            )
        };
        if let Some(error) = refused {
            return Err(Error::Invalid {
                what,
                // SAFETY: the error lives; its text is copied.
                reason: unsafe { text(sys::rd_kafka_error_string(error.pointer())) },
            });
        }
    }
    let mut pointer = resource.pointer();
    // SAFETY: the operation is the function's, which copies the resource.
    let event = unsafe {
        run(
            admin,
            op::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS,
            &what,
            |client, options, queue| {
                sys::rd_kafka_IncrementalAlterConfigs(client, &raw mut pointer, 1, options, queue);
            },
        )?
    };
    let mut count = 0;
    // SAFETY: the event is an answer to this operation and lives.
    unsafe {
        let result = sys::rd_kafka_event_IncrementalAlterConfigs_result(event.pointer());
        let list = sys::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut count);
        (0..count)
            .try_for_each(|index| check(admin, *list.add(index), "change the configuration of").1)
    }
}
