//! Which properties a user may set, on the client and on topics.
//!
//! Lists of what is allowed, so that a property of a later librdkafka or Kafka is refused until
//! somebody has looked at it.

/// Client properties that only tune. Not among them: paths and plugins (`ssl.ca.location`,
/// `plugin.library.paths`: they read the pod's files or load code), commands (`sasl.kerberos.kinit.cmd`),
/// verification and ciphers (no off switch), identities and credentials (`group.id`, `client.id`,
/// `transactional.id`, `sasl.*`: derived from the resources), `debug` and logging (they print data), and
/// whatever the promises rest on (`acks`, `enable.idempotence`, `isolation.level`, offsets, timeouts of
/// sessions and transactions, `client.rack`: a follower may be behind).
pub const CLIENT_CONFIG: &[&str] = &[
    "batch.size",
    "broker.address.family",
    "broker.address.ttl",
    "client.dns.lookup",
    "compression.codec",
    "compression.level",
    "compression.type",
    "connections.max.idle.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "message.max.bytes",
    "metadata.max.age.ms",
    "queue.buffering.max.kbytes",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "topic.metadata.refresh.interval.ms",
];

/// Topic properties of Kafka that a resource may set. Not among them:
/// `unclean.leader.election.enable` (acknowledged events would be lost) and the replication throttles
/// (they name brokers, and belong to who runs the cluster).
pub const TOPIC_CONFIG: &[&str] = &[
    "cleanup.policy",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "index.interval.bytes",
    "local.retention.bytes",
    "local.retention.ms",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "min.insync.replicas",
    "preallocate",
    "remote.storage.enable",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
    "segment.index.bytes",
    "segment.jitter.ms",
    "segment.ms",
];

/// Whether a librdkafka property may be set by a resource; [`CLIENT_CONFIG`] says why not.
pub fn client_config_allowed(name: &str) -> bool {
    CLIENT_CONFIG.binary_search(&name).is_ok()
}

/// Whether a topic's property may be set by a resource; [`TOPIC_CONFIG`] says why not.
pub fn topic_config_allowed(name: &str) -> bool {
    TOPIC_CONFIG.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::ClientConfig;

    #[test]
    fn lists_are_sorted_as_the_search_needs() {
        assert!(CLIENT_CONFIG.is_sorted() && TOPIC_CONFIG.is_sorted());
    }

    #[test]
    fn every_client_property_exists_in_librdkafka() {
        // With one property of topics set, those of topics are found too.
        let native = ClientConfig::new()
            .set("compression.level", "-1")
            .create_native_config()
            .unwrap();
        for name in CLIENT_CONFIG {
            assert!(native.get(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn paths_plugins_commands_verification_and_identities_are_refused() {
        for name in [
            "ssl.ca.location",
            "ssl.key.location",
            "ssl.keystore.location",
            "ssl.engine.location",
            "plugin.library.paths",
            "sasl.kerberos.kinit.cmd",
            "sasl.kerberos.keytab",
            "sasl.oauthbearer.token.endpoint.url",
            "enable.ssl.certificate.verification",
            "ssl.endpoint.identification.algorithm",
            "ssl.cipher.suites",
            "security.protocol",
            "bootstrap.servers",
            "group.id",
            "client.id",
            "client.rack",
            "transactional.id",
            "group.instance.id",
            "sasl.password",
            "debug",
            "statistics.interval.ms",
            "isolation.level",
            "acks",
            "Socket.timeout.ms",
            "",
        ] {
            assert!(!client_config_allowed(name), "{name}");
        }
        for name in [
            "unclean.leader.election.enable",
            "leader.replication.throttled.replicas",
        ] {
            assert!(!topic_config_allowed(name), "{name}");
        }
        assert!(topic_config_allowed("retention.ms") && client_config_allowed("socket.timeout.ms"));
    }
}
