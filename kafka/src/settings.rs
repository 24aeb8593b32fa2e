//! How to reach a cluster, and the librdkafka configuration that this comes to.
//!
//! Certificates and passwords are values here, not paths: the operator holds them in memory only, the
//! runtime reads them from mounted files. Nothing here has `Debug`, so none of them is ever printed.

use crate::allow::client_config_allowed;
use crate::error::{Error, Result};
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use std::collections::BTreeMap;

#[derive(Clone, Default)]
pub struct Settings {
    /// `host:port`
    pub bootstrap_servers: Vec<String>,
    /// Names this client in brokers' logs and quotas.
    pub client_id: String,
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
    /// librdkafka properties; those that [`client_config_allowed`] does not take are an error.
    pub client_config: BTreeMap<String, String>,
}

/// Host names are always verified.
#[derive(Clone, Default)]
pub struct Tls {
    /// PEM; `None`: the system's roots. Given ones replace them.
    pub ca: Option<String>,
    /// Client certificate and key, PEM.
    pub certificate: Option<(String, String)>,
}

#[derive(Clone)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    pub username: String,
    pub password: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    Plain,
    ScramSha256,
    ScramSha512,
}

impl SaslMechanism {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Settings {
    pub fn servers(&self) -> String {
        self.bootstrap_servers.join(",")
    }

    /// What every client has in common.
    ///
    /// # Errors
    /// [`Error::Configuration`] without bootstrap servers, and for a property that is not allowed.
    pub fn client_config(&self) -> Result<ClientConfig> {
        if self.bootstrap_servers.is_empty() {
            return Err(Error::Configuration {
                reason: "no bootstrap servers are given".to_owned(),
            });
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        // Small requests must not wait for more data to fill a packet.
        config.set("socket.nagle.disable", "true");
        config.set("reconnect.backoff.ms", "50");
        config.set("reconnect.backoff.max.ms", "2000");
        for (name, value) in &self.client_config {
            if !client_config_allowed(name) {
                return Err(Error::Configuration {
                    reason: format!("'{name}' is no client property that may be set"),
                });
            }
            config.set(name, value);
        }
        config.set("bootstrap.servers", self.servers());
        if !self.client_id.is_empty() {
            config.set("client.id", &self.client_id);
        }
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            config.set("enable.ssl.certificate.verification", "true");
            config.set("ssl.endpoint.identification.algorithm", "https");
            if let Some(ca) = &tls.ca {
                config.set("ssl.ca.pem", ca);
            }
            if let Some((certificate, key)) = &tls.certificate {
                config.set("ssl.certificate.pem", certificate);
                config.set("ssl.key.pem", key);
            }
        }
        if let Some(sasl) = &self.sasl {
            config.set("sasl.mechanisms", sasl.mechanism.name());
            config.set("sasl.username", &sasl.username);
            config.set("sasl.password", &sasl.password);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            bootstrap_servers: vec!["a:1".into(), "b:2".into()],
            ..Settings::default()
        }
    }

    #[test]
    fn the_protocol_follows_from_tls_and_sasl() {
        let sasl = Sasl {
            mechanism: SaslMechanism::ScramSha512,
            username: "u".into(),
            password: "p".into(),
        };
        for (tls, sasl, protocol) in [
            (None, None, "plaintext"),
            (Some(Tls::default()), None, "ssl"),
            (None, Some(sasl.clone()), "sasl_plaintext"),
            (Some(Tls::default()), Some(sasl), "sasl_ssl"),
        ] {
            let config = Settings {
                tls,
                sasl,
                ..settings()
            }
            .client_config()
            .unwrap();
            assert_eq!(config.get("security.protocol"), Some(protocol));
            assert_eq!(config.get("bootstrap.servers"), Some("a:1,b:2"));
            let verified = protocol.ends_with("ssl").then_some("true");
            assert_eq!(config.get("enable.ssl.certificate.verification"), verified);
        }
    }

    #[test]
    fn a_property_that_is_not_allowed_is_an_error_and_named() {
        let client_config = BTreeMap::from([("ssl.ca.location".into(), "/etc/x".into())]);
        let failed = Settings {
            client_config,
            ..settings()
        }
        .client_config();
        let message = failed.err().unwrap().to_string();
        assert!(message.contains("'ssl.ca.location'"), "{message}");
        assert!(Settings::default().client_config().is_err());
    }
}
