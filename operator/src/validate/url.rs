//! Web addresses and headers of models and tool servers: well-formed, and without credentials in plain text.

use super::findings::Findings;
use crate::reason::Reason;
use crate::resources::{Secret, SecretKey};
use headwater_crds::common::Header;
use headwater_engine::config;
use std::collections::{BTreeMap, BTreeSet};

/// Headers that carry credentials.
const CREDENTIAL_HEADERS: [&str; 6] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
];

/// Words in names of query parameters that mean a credential.
const CREDENTIAL_WORDS: [&str; 8] = [
    "key",
    "apikey",
    "token",
    "secret",
    "password",
    "passwd",
    "sig",
    "signature",
];

/// Checks a URL; true if what is sent there is encrypted.
pub(super) fn url(findings: &mut Findings, path: &str, url: &str) -> bool {
    let Some((scheme, rest)) = url
        .split_once("://")
        .filter(|(scheme, _)| matches!(*scheme, "http" | "https"))
    else {
        findings.problem(
            Reason::InvalidSpec,
            path,
            "must be an http:// or https:// URL, e.g. https://models.example.com/v1",
        );
        return true;
    };
    let (authority, query) = match rest.split_once(['/', '?', '#']) {
        Some((authority, _)) => (authority, rest.split_once('?').map(|(_, query)| query)),
        None => (rest, None),
    };
    if authority.contains('@') {
        findings.problem(
            Reason::PlainTextCredential,
            path,
            "user and password must not stand in a URL; put them into a Secret and name it with a header's secretKeyRef",
        );
    } else if authority.is_empty() || url.chars().any(char::is_whitespace) {
        findings.problem(
            Reason::InvalidSpec,
            path,
            "must name a host and hold no spaces, e.g. http://ollama:11434/v1",
        );
    }
    for parameter in query.unwrap_or_default().split('&') {
        credential_parameter(
            findings,
            path,
            parameter.split('=').next().unwrap_or_default(),
        );
    }
    scheme == "https"
}

/// A query parameter whose name says that its value is a credential.
pub(super) fn credential_parameter(findings: &mut Findings, path: &str, name: &str) {
    let lower = name.to_lowercase();
    if lower
        .split(['-', '_', '.'])
        .any(|word| CREDENTIAL_WORDS.contains(&word))
    {
        findings.problem(
            Reason::PlainTextCredential,
            path,
            format!(
                "the query parameter '{name}' looks like a credential, which must not stand in a resource; send it in a header with secretKeyRef"
            ),
        );
    }
}

/// Checks headers; gives the Secret keys that they need.
pub(super) fn headers(
    findings: &mut Findings,
    path: &str,
    headers: &[Header],
    known: &BTreeMap<String, Secret>,
) -> BTreeSet<SecretKey> {
    let mut used = BTreeSet::new();
    for header in headers {
        let at = format!("{path}[name={}]", header.name);
        match (&header.value, &header.secret_key_ref) {
            (Some(_), None) if CREDENTIAL_HEADERS.contains(&header.name.to_lowercase().as_str()) => findings.problem(
                Reason::PlainTextCredential,
                format!("{at}.value"),
                "a credential must not stand in a resource as text; put the value of this header into a Secret and name it with secretKeyRef",
            ),
            (Some(_), None) => {}
            (None, Some(reference)) => {
                let key = SecretKey::new(&reference.name, &reference.key);
                findings.secret(&format!("{at}.secretKeyRef"), &key, known);
                used.insert(key);
            }
            _ => findings.problem(Reason::InvalidSpec, at, "set exactly one of value and secretKeyRef"),
        }
    }
    used
}

/// A header as stages have it; `None` where it has no value.
pub(super) fn header(header: &Header) -> Option<config::HttpHeader> {
    let value = match (&header.value, &header.secret_key_ref) {
        (Some(value), _) => config::HttpHeaderValue::Text(value.clone()),
        (None, Some(key)) => {
            config::HttpHeaderValue::File(SecretKey::new(&key.name, &key.key).file())
        }
        (None, None) => return None,
    };
    Some(config::HttpHeader {
        name: header.name.clone(),
        value,
    })
}
