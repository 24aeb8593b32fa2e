//! Types that several kinds share: references, credentials, headers, members of unions over HTTP.
//!
//! Nothing here ever holds the value of a Secret, only where it is.

use crate::{limits, rules};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A JSON object without a schema of its own.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;

/// Default of a numeric field, for `#[serde(default = "...")]`.
pub(crate) fn number<const N: u32>() -> u32 {
    N
}

/// A resource of the same namespace.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LocalRef {
    /// Name of a resource in the same namespace.
    #[schemars(length(min = 1, max = limits::NAME))]
    #[x_kube(validation = rules::LABEL)]
    pub name: String,
}

impl LocalRef {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// A Secret of the same namespace.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SecretRef {
    /// Name of a Secret in the same namespace.
    #[schemars(length(min = 1, max = limits::SECRET_NAME))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,
}

/// One value in a Secret of the same namespace.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, KubeSchema,
)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SecretKeyRef {
    /// Name of a Secret in the same namespace.
    #[schemars(length(min = 1, max = limits::SECRET_NAME))]
    #[x_kube(validation = rules::SECRET_NAME)]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = limits::SECRET_NAME))]
    #[x_kube(validation = rules::SECRET_KEY)]
    pub key: String,
}

/// A header that is sent with each request: its value as text, or from a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.value) != has(self.secretKeyRef)",
        "set exactly one of value and secretKeyRef",
    ),
    validation = (
        "!has(self.value) || !(self.name.lowerAscii() in ['authorization', 'proxy-authorization', 'cookie', 'x-api-key', 'api-key', 'x-goog-api-key'])",
        "a credential must not stand in a resource as text: put the value of this header into a Secret and name it with secretKeyRef",
    )
)]
pub struct Header {
    /// Name of the header, e.g. `Authorization`.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = rules::HEADER_NAME)]
    pub name: String,
    /// The value as text. Not for credentials.
    #[schemars(length(max = limits::TEXT))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value is that of a Secret's key, whole: for a bearer token it begins with `Bearer `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A user name as text and a password from a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicAuth {
    /// The user's name.
    #[schemars(length(min = 1, max = limits::TEXT))]
    pub username: String,
    /// Where the password is.
    pub password_secret_key_ref: SecretKeyRef,
}

/// What becomes of data in Kafka when the resource is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// topics stay; a resource of the same name, created again, goes on with them.
    #[default]
    Retain,
    /// the topics that Headwater created for the resource are deleted with it.
    Delete,
}

/// Direction of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Order {
    /// smallest first.
    #[default]
    Ascending,
    /// largest first.
    Descending,
}
