//! Bounds of the fields. They keep an object readable and the API server's cost of checking it small.

/// Characters of a resource's name: with what is appended, 52 is the limit of a StatefulSet's name.
pub const NAME: u32 = 45;
/// Characters of the names of Secrets and of their keys, as Kubernetes has it.
pub const SECRET_NAME: u32 = 253;
/// Characters of a CEL expression.
pub const EXPRESSION: u32 = 4_096;
/// Characters of a Jinja template.
pub const TEMPLATE: u32 = 65_536;
/// Characters of a URL.
pub const URL: u32 = 2_048;
/// Characters of a short text: a description, a header's value, a user name.
pub const TEXT: u32 = 1_024;
/// Characters of a Kafka topic's name.
pub const TOPIC: u32 = 249;
/// Items of a list, entries of a map.
pub const LIST: u32 = 64;
/// Lines of a plan, topics and tools of a status, which Headwater writes itself.
pub const STATUS_LIST: u32 = 512;
/// Seconds: ten years of 365 days.
pub const SECONDS: u32 = 315_360_000;
/// Milliseconds: one hour.
pub const MILLISECONDS: u32 = 3_600_000;
/// Replicas of a stage.
pub const REPLICAS: u32 = 1_000;
/// Partitions of a topic.
pub const PARTITIONS: u32 = 10_000;
/// Tokens of a model's window or of a budget.
pub const TOKENS: u32 = 100_000_000;
/// Rows that a lookup gives at most.
pub const ROWS: u32 = 1_000;
