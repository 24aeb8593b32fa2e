//! CEL rules that more than one field uses, each with the message that the API server answers.
//!
//! A message says what is asked for and shows a value that would do; it is what `kubectl apply` prints.

/// A rule and its message, as `#[x_kube(validation = ...)]` takes them.
pub type Rule = (&'static str, &'static str);

/// Names of resources.
pub const LABEL: Rule = (
    "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
    "must be a DNS label: lower-case letters, digits and '-', a letter or digit at both ends, at most 45 characters, e.g. flight-updates",
);

/// Names inside a resource that no expression reads as a field.
pub const LOCAL_NAME: Rule = (
    "self.matches('^[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?$')",
    "must begin with a letter, end with a letter or digit, and hold only letters, digits, '-' and '_', e.g. byCustomer",
);

/// Names inside a resource that expressions and templates read as a field: `context.bookings`.
pub const IDENTIFIER: Rule = (
    "self.matches('^[A-Za-z][A-Za-z0-9_]*$') && !(self in ['true', 'false', 'null', 'in'])",
    "is used in expressions, so it must begin with a letter, hold only letters, digits and '_', and not be true, false, null or in, e.g. changePolicy instead of change-policy",
);

/// Web addresses. Credentials in them would stand in logs and in `kubectl get`.
pub const URL: Rule = (
    "self.matches('^https?://[^/?#@[:space:]]+([/?#][^[:space:]]*)?$')",
    "must be an http:// or https:// URL without user and password, e.g. https://desk.example.com/mcp; credentials belong in a Secret",
);

/// Paths that a stage serves.
pub const PATH: Rule = (
    "self.matches('^/[A-Za-z0-9._~/-]+$')",
    "must be a path of letters, digits, '.', '_', '~', '-' and '/', beginning with '/', e.g. /flight-updates",
);

/// Names of HTTP headers.
pub const HEADER_NAME: Rule = (
    "self.matches('^[A-Za-z0-9_.-]+$')",
    "must be the name of an HTTP header: letters, digits, '-', '_' and '.', e.g. X-Tenant",
);

/// Names of Kafka topics.
pub const TOPIC: Rule = (
    "self.matches('^[A-Za-z0-9._-]+$') && self != '.' && self != '..'",
    "must be a name that Kafka accepts: letters, digits, '.', '_' and '-', at most 249 characters",
);

/// Names of Secrets.
pub const SECRET_NAME: Rule = (
    "self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
    "must be the name of a Secret: lower-case letters, digits, '-' and '.'",
);

/// Keys inside Secrets.
pub const SECRET_KEY: Rule = (
    "self.matches('^[A-Za-z0-9._-]+$')",
    "must be a key of the Secret's data: letters, digits, '.', '_' and '-', e.g. token",
);
