//! KafkaCluster: addresses, credentials, and what may be set.

use super::{
    Context, allow,
    checked::Cluster,
    findings::{Findings, Outcome},
};
use crate::reason::Reason;
use crate::resources::SecretKey;
use headwater_crds::{KafkaCluster, kafka_cluster::SaslMechanism};
use headwater_engine::config;
use std::collections::BTreeSet;

pub(super) fn check(context: &Context<'_>, cluster: &KafkaCluster) -> Outcome<Cluster> {
    let mut findings = Findings::default();
    let spec = &cluster.spec;
    let mut secrets = BTreeSet::new();
    if spec.bootstrap_servers.is_empty() {
        findings.problem(
            Reason::InvalidSpec,
            "spec.bootstrapServers",
            "name at least one server, e.g. [kafka:9092]",
        );
    }
    for (index, server) in spec.bootstrap_servers.iter().enumerate() {
        let port = server
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, port)| port.parse::<u16>().ok());
        if port.is_none_or(|port| port == 0) || server.contains("://") {
            findings.problem(
                Reason::InvalidSpec,
                format!("spec.bootstrapServers[{index}]"),
                format!("'{server}' is not HOST:PORT, e.g. kafka:9092; TLS is asked for with tls, not with a scheme"),
            );
        }
    }
    let mut file = |findings: &mut Findings, path: &str, key: SecretKey| {
        findings.secret(path, &key, &context.resources.secrets);
        let file = key.file();
        secrets.insert(key);
        file
    };
    let tls = spec.tls.as_ref().map(|tls| {
        let ca_file = tls.ca_secret_key_ref.as_ref().map(|ca| {
            file(
                &mut findings,
                "spec.tls.caSecretKeyRef",
                SecretKey::new(&ca.name, &ca.key),
            )
        });
        let client = tls.client_certificate_secret_ref.as_ref().map(|client| {
            let path = "spec.tls.clientCertificateSecretRef";
            let certificate = file(&mut findings, path, SecretKey::new(&client.name, "tls.crt"));
            let key = file(&mut findings, path, SecretKey::new(&client.name, "tls.key"));
            (certificate, key)
        });
        let (certificate_file, key_file) = client.unzip();
        config::KafkaTls {
            ca_file,
            certificate_file,
            key_file,
        }
    });
    let sasl = spec.sasl.as_ref().map(|sasl| {
        let password = &sasl.password_secret_key_ref;
        let password_file = file(
            &mut findings,
            "spec.sasl.passwordSecretKeyRef",
            SecretKey::new(&password.name, &password.key),
        );
        config::KafkaSasl {
            mechanism: match sasl.mechanism {
                SaslMechanism::ScramSha512 => config::SaslMechanism::ScramSha512,
                SaslMechanism::ScramSha256 => config::SaslMechanism::ScramSha256,
                SaslMechanism::Plain => config::SaslMechanism::Plain,
            },
            username: sasl.username.clone(),
            password_file,
        }
    });
    if sasl.is_some() && tls.is_none() {
        findings.warn(
            Reason::UnencryptedCredential,
            "spec.sasl",
            "the credentials cross the network unencrypted; set spec.tls ({} trusts the system's certificate authorities)",
        );
    }
    findings.not_supported(
        spec.schema_registry.is_some(),
        "spec.schemaRegistry",
        "a schema registry",
        "use sources of format Json or Text, and leave schemaRegistry out",
    );
    allow::client_config(&mut findings, &spec.client_config);
    allow::topic_config(
        &mut findings,
        "spec.topicDefaults.config",
        &spec.topic_defaults.config,
    );
    findings.finish(Some(Cluster {
        config: config::Kafka {
            bootstrap_servers: spec.bootstrap_servers.clone(),
            tls,
            sasl,
            client_config: spec.client_config.clone(),
        },
        secrets,
        partitions: spec.topic_defaults.partitions,
        replication_factor: spec.topic_defaults.replication_factor,
        topic_config: spec.topic_defaults.config.clone(),
        allowed_topics: spec.allowed_topics.clone(),
    }))
}
