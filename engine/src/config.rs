//! What a stage is told: sources, views and agents, validated and with every name resolved.
//!
//! The operator's plan writes these types, as JSON, into a stage's ConfigMap; the runtime reads
//! them; `headwater up` hands them over in memory. Expressions and templates are still text here:
//! compiling them is the engine's ([`crate::source`], [`crate::view`], [`crate::agent`]), and the
//! operator compiles them too, to refuse what could not work. No Secret value is ever part of it:
//! credentials are paths of mounted files.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Configuration of one stage: one process kind of the data plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    pub namespace: String,
    pub kafka: Kafka,
    /// By resource name; every source that a view or agent below refers to.
    pub sources: BTreeMap<String, Source>,
    /// By resource name; every view that the stage folds or reads.
    pub views: BTreeMap<String, View>,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Role {
    /// The view stage of this view: fold and checkpoint.
    View {
        name: String,
    },
    Agent(Box<Agent>),
}

impl Stage {
    pub fn owner(&self) -> (crate::names::Owner, &str) {
        match &self.role {
            Role::View { name } => (crate::names::Owner::View, name),
            Role::Agent(agent) => (crate::names::Owner::Agent, &agent.name),
        }
    }
}

/// How to reach Kafka. `up` without `--kafka` leaves `bootstrap_servers` empty and uses the memory log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kafka {
    pub bootstrap_servers: Vec<String>,
    pub tls: Option<KafkaTls>,
    pub sasl: Option<KafkaSasl>,
    /// librdkafka properties, already checked against the allow-list.
    pub client_config: BTreeMap<String, String>,
}

/// TLS with host names verified; absent files mean the system's roots and no client certificate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KafkaTls {
    pub ca_file: Option<String>,
    pub certificate_file: Option<String>,
    pub key_file: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSasl {
    pub mechanism: SaslMechanism,
    pub username: String,
    pub password_file: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    ScramSha512,
    ScramSha256,
    Plain,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    #[default]
    Json,
    Text,
}

/// What is around an event in its record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Envelope {
    /// The record's value is the event.
    #[default]
    None,
    /// Debezium's change event as JSON: the row after the change is the event, a deletion is a delete.
    Debezium,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InvalidRecords {
    #[default]
    DeadLetter,
    Skip,
    Stop,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub name: String,
    pub topic: String,
    pub format: Format,
    pub key_format: Format,
    #[serde(default)]
    pub envelope: Envelope,
    /// JSON Schema; a record that does not fit is invalid.
    pub schema: Option<serde_json::Value>,
    /// CEL over `event`, `key`, `headers`, `time`; absent: the record's key.
    pub key: Option<String>,
    /// CEL giving a timestamp, or an int of milliseconds; absent: the record's timestamp.
    pub event_time: Option<String>,
    pub invalid_records: InvalidRecords,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    pub name: String,
    /// 6 hexadecimal characters over all that decides what the fold gives.
    pub generation: String,
    pub from: Vec<From>,
    pub fold: Fold,
    pub indexes: Vec<Index>,
    pub input: Input,
    /// The compacted topic of rows and marks, written by the view's stage.
    pub state_topic: String,
    /// Where this view's refused records go.
    pub dead_topic: String,
    /// Each change of a row, with what it was before, in the order in which they were folded; only where an agent is
    /// triggered by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes_topic: Option<String>,
    /// A key is gone so long after its last event, by the reader's time; absent: never.
    #[serde(default)]
    pub expire_after_ms: Option<i64>,
    #[serde(default)]
    pub serve: Option<Serve>,
    /// Sources as this generation reads them, where the stage has them otherwise; the others are [`Stage::sources`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Source>,
}

impl View {
    /// The sources as the view reads them, in a stage that has `sources`.
    pub fn sources_in<'a>(
        &self,
        sources: &'a BTreeMap<String, Source>,
    ) -> Cow<'a, BTreeMap<String, Source>> {
        if self.sources.is_empty() {
            return Cow::Borrowed(sources);
        }
        let mut all = sources.clone();
        all.extend(self.sources.clone());
        Cow::Owned(all)
    }
}

/// Rows by HTTP, from the view's stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Serve {
    /// Path of the rows, beginning with a slash.
    pub path: String,
    /// File with the tokens that may read, one a line; absent: anybody may.
    pub token_file: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct From {
    pub name: String,
    /// Name of the source in [`Stage::sources`].
    pub source: String,
    /// Rows of other views that the expressions see as `joined.<name>`.
    #[serde(default)]
    pub joins: Vec<Join>,
    pub filter: Option<String>,
    pub key: Option<String>,
    pub value: Option<String>,
    pub delete: Option<String>,
    /// With `Merge::Fields`: no row while this source has nothing for the key.
    pub required: bool,
}

/// A row of another view, read once, as an event is taken in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Join {
    pub name: String,
    /// Name of the view in [`Stage::views`].
    pub view: String,
    /// CEL over `event`, `key`, `headers` and `time`, giving the row's key.
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fold {
    Latest {
        merge: Merge,
    },
    /// The newest `limit` events of a key, newest first, and no older than `within_ms` at the reader's time.
    History {
        limit: u32,
        within_ms: Option<i64>,
    },
    /// An object of fields, computed from all events of a key, or from those of a window.
    Aggregate {
        fields: Vec<AggregateField>,
    },
}

/// One field of an aggregate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AggregateField {
    pub name: String,
    pub compute: Compute,
    /// CEL over `value`; absent only with [`Compute::Count`].
    pub of: Option<String>,
    /// CEL over `value`: whether the event counts.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// Events no older than this at the reader's time; absent: all.
    pub within_ms: Option<i64>,
    /// Values of a [`Compute::TopK`].
    pub limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Compute {
    Count,
    Sum,
    Min,
    Max,
    Average,
    /// Of the oldest event, by event time, then log order.
    First,
    /// Of the newest event.
    Last,
    CountDistinct,
    /// The most frequent values: a list of `{value, count}`.
    TopK,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Merge {
    #[default]
    Replace,
    Fields,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub name: String,
    pub key: IndexKey,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum IndexKey {
    /// CEL over `value` and `key` giving one key.
    One(String),
    /// CEL giving a list: the row is under each.
    Many(String),
}

/// The one order that a view folds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Input {
    /// The only source's topic is the input log.
    Source { topic: String },
    /// A topic of the view's own, written by its intake.
    Own { topic: String },
}

impl Input {
    pub fn topic(&self) -> &str {
        match self {
            Self::Source { topic } | Self::Own { topic } => topic,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lookup {
    /// Name of the view in [`Stage::views`].
    pub view: String,
    pub by: By,
    pub index: Option<String>,
    #[serde(rename = "where")]
    pub filter: Option<String>,
    pub order_by: Option<String>,
    pub order: Order,
    /// 1 to 1,000.
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum By {
    /// CEL giving one key.
    Key(String),
    /// CEL giving a list of keys.
    Keys(String),
    /// Every row.
    All,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    #[default]
    Ascending,
    Descending,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slot {
    pub name: String,
    pub lookup: Lookup,
    pub required: bool,
    pub budget_tokens: Option<u32>,
    pub priority: i32,
    /// Older than this at assembly, `on_stale` applies; absent: never.
    pub max_staleness_ms: Option<i64>,
    pub on_stale: OnStale,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnStale {
    #[default]
    Mark,
    Fail,
    Omit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    pub name: String,
    pub trigger: Trigger,
    pub slots: Vec<Slot>,
    pub freshness_wait_ms: u64,
    pub when: Option<String>,
    pub conversation: Option<Conversation>,
    pub prompt: Option<Prompt>,
    pub model: Option<Model>,
    /// JSON Schema that the model's answer has to fit; the outputs see it as `result.json`.
    #[serde(default)]
    pub result_schema: Option<serde_json::Value>,
    /// What the model may call; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Tools>,
    pub outputs: Vec<Output>,
    pub delivery: Delivery,
    pub audit: Audit,
    /// Runs under way at once in each replica.
    pub concurrency: u32,
    pub topics: AgentTopics,
}

impl Agent {
    /// Topics that its outputs and tools write.
    pub fn written(&self) -> impl Iterator<Item = &str> {
        let outputs = self.outputs.iter().map(|output| output.topic.as_str());
        let tools = self.tools.iter().flat_map(|tools| &tools.tools);
        outputs
            .chain(tools.filter_map(|tool| match &tool.does {
                ToolDoes::Emit { topic, .. } => Some(topic.as_str()),
                ToolDoes::Server { .. } | ToolDoes::View { .. } => None,
            }))
            .chain(self.requests().map(|requests| requests.topic.as_str()))
    }

    /// The same whatever its shares of models' limits are: they go by how many replicas others have.
    #[must_use]
    pub fn without_shares(&self) -> Self {
        let mut agent = self.clone();
        if let Some(model) = &mut agent.model {
            model.each_of_chain(|model| model.limits = Limits::default());
        }
        agent
    }

    fn requests(&self) -> Option<&Requests> {
        let approval = self.tools.as_ref()?.approval.as_ref()?;
        approval.requests.as_ref()
    }

    /// Names of the sources that its outputs and tools write.
    pub fn written_sources(&self) -> impl Iterator<Item = &str> {
        let outputs = self.outputs.iter().map(|output| output.source.as_str());
        let tools = self.tools.iter().flat_map(|tools| &tools.tools);
        outputs
            .chain(tools.filter_map(|tool| match &tool.does {
                ToolDoes::Emit { source, .. } => Some(source.as_str()),
                ToolDoes::Server { .. } | ToolDoes::View { .. } => None,
            }))
            .chain(self.requests().map(|requests| requests.source.as_str()))
    }
}

/// Topics of the agent's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentTopics {
    pub conversation: Option<String>,
    /// Steps of runs that are not over, runs that may have ended a process, and what must not run twice.
    pub journal: String,
    pub runs: String,
    pub dead: String,
    /// What people are asked, and what they say; present where a rule requires it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    pub from: TriggerFrom,
    pub start_from: StartFrom,
    pub deletes: Deletes,
    pub filter: Option<String>,
    /// A run for every row found, which its expressions and templates see as `match`. The limit is not asked.
    #[serde(default)]
    pub for_each: Option<Lookup>,
    /// CEL; absent: the event's key, with `for_each` the row's.
    pub key: Option<String>,
    #[serde(default)]
    pub once: Option<Once>,
    /// How long a trigger waits for a newer one of its key, which takes its place; 0: every trigger runs.
    #[serde(default)]
    pub coalesce_ms: u64,
    /// The topic of the agent's own from which runs start, one record each, keyed by the run's key. Absent: runs start
    /// from the records of `from`, whose keys are the runs'.
    #[serde(default)]
    pub input: Option<String>,
}

/// Whose records trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TriggerFrom {
    /// Name of the source in [`Stage::sources`]: a run for every event.
    Source(String),
    /// Name of the view in [`Stage::views`]: a run for every change of a row, read from [`View::changes_topic`].
    View(String),
}

impl TriggerFrom {
    /// The source's name, if it is one.
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Source(name) => Some(name),
            Self::View(_) => None,
        }
    }

    /// The view's name, if it is one.
    pub fn view(&self) -> Option<&str> {
        match self {
            Self::Source(_) => None,
            Self::View(name) => Some(name),
        }
    }

    /// The topic of what triggers; `None` where the stage does not have it.
    pub fn topic<'a>(&self, stage: &'a Stage) -> Option<&'a str> {
        match self {
            Self::Source(name) => Some(&stage.sources.get(name)?.topic),
            Self::View(name) => stage.views.get(name)?.changes_topic.as_deref(),
        }
    }
}

/// No second run for the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Once {
    /// CEL giving a key: what must not run twice under one run's key.
    pub key: String,
    /// For so long after a run of it was done, by the triggers' times.
    pub within_ms: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFrom {
    #[default]
    Latest,
    Earliest,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deletes {
    #[default]
    Ignore,
    Run,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conversation {
    pub turns: u32,
    pub expire_after_ms: i64,
    /// CEL giving text; absent: the rendered user prompt.
    pub user_text: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Prompt {
    pub system: Option<String>,
    /// Jinja; absent: `{{ event }}`.
    pub user: Option<String>,
    /// Absent: the model's window less its output.
    pub budget_tokens: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The resource's name.
    pub name: String,
    pub provider: Provider,
    /// What the provider calls the model.
    pub model: String,
    /// Merged into each request.
    pub parameters: serde_json::Map<String, serde_json::Value>,
    pub context_window_tokens: u32,
    pub max_output_tokens: u32,
    pub request_timeout_ms: u64,
    pub retry: Retry,
    /// This replica's share of what all replicas of all agents may ask together.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Asked where this one gives no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Box<Model>>,
}

/// How much a model may be asked; absent: as much as one likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<f64>,
    /// Of prompts and answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
}

impl Limits {
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What one of so many may ask; of requests at once, one at least.
    #[must_use]
    pub fn divided(self, by: u32) -> Self {
        let by = by.max(1);
        let share = |whole: f64| whole / f64::from(by);
        Self {
            requests_per_minute: self.requests_per_minute.map(share),
            tokens_per_minute: self.tokens_per_minute.map(share),
            concurrent_requests: self.concurrent_requests.map(|whole| (whole / by).max(1)),
        }
    }
}

impl Model {
    /// This one, and those that are asked in its place, in their order.
    pub fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |model| model.fallback.as_deref())
    }

    /// The same, for each of them.
    pub fn each_of_chain(&mut self, mut change: impl FnMut(&mut Self)) {
        let mut next = Some(self);
        while let Some(model) = next {
            change(model);
            next = model.fallback.as_deref_mut();
        }
    }

    /// Tokens that a prompt may have, whichever of them is asked.
    pub fn prompt_tokens(&self) -> i64 {
        let room = |model: &Self| {
            i64::from(model.context_window_tokens) - i64::from(model.max_output_tokens)
        };
        self.chain().map(room).min().unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Provider {
    OpenAi {
        base_url: String,
        api_key_file: Option<String>,
        headers: Vec<HttpHeader>,
        query: BTreeMap<String, String>,
    },
    Anthropic {
        base_url: String,
        api_key_file: Option<String>,
        headers: Vec<HttpHeader>,
    },
    Scripted {
        rules: Vec<Rule>,
    },
}

impl Provider {
    /// Where it is served.
    pub fn base_url(&self) -> Option<&str> {
        match self {
            Self::OpenAi { base_url, .. } | Self::Anthropic { base_url, .. } => Some(base_url),
            Self::Scripted { .. } => None,
        }
    }

    /// Paths of the files with its credentials.
    pub fn secret_files(&mut self) -> Vec<&mut String> {
        let (key, headers) = match self {
            Self::OpenAi {
                api_key_file,
                headers,
                ..
            }
            | Self::Anthropic {
                api_key_file,
                headers,
                ..
            } => (api_key_file, headers),
            Self::Scripted { .. } => return Vec::new(),
        };
        let headers = headers.iter_mut().filter_map(HttpHeader::file);
        key.iter_mut().chain(headers).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpHeader {
    pub name: String,
    pub value: HttpHeaderValue,
}

impl HttpHeader {
    /// Path of the file with its value, where it is a credential.
    fn file(&mut self) -> Option<&mut String> {
        match &mut self.value {
            HttpHeaderValue::File(file) => Some(file),
            HttpHeaderValue::Text(_) => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HttpHeaderValue {
    Text(String),
    File(String),
}

/// One rule of a scripted model; the first whose `when` holds answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// CEL over `request`; absent: true.
    pub when: Option<String>,
    /// Jinja over `request`.
    pub reply: Option<String>,
    /// Tools that the answer calls, all at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<RuleToolCall>,
    pub error: Option<RuleError>,
    pub delay_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleToolCall {
    pub tool: String,
    /// CEL over `request`, giving a map; absent: no arguments.
    pub arguments: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleError {
    /// HTTP status that the provider would give.
    pub status: u16,
    /// How many requests get it before the rule falls silent; absent: all.
    pub times: Option<u32>,
}

/// What a model may call, and under which rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tools {
    /// By name.
    pub tools: Vec<Tool>,
    /// Every server that a tool is of, by name.
    pub servers: BTreeMap<String, ToolServer>,
    /// How many times the model may call tools; then it is asked for an answer without.
    pub max_rounds: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<PolicyRule>,
    /// Present where a rule requires it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
}

/// How a person is asked before a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// After which silence denies.
    pub timeout_ms: u64,
    /// Gets a copy of what is asked.
    pub requests: Option<Requests>,
}

/// A source that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    pub source: String,
    pub topic: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tool {
    /// As the model and the policy know it.
    pub name: String,
    /// For the model; absent: the server's.
    pub description: Option<String>,
    pub does: ToolDoes,
    /// Arguments that the model neither sees nor sets, each CEL over what the trigger and `context` give.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fixed: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ToolDoes {
    /// Calls the tool of a server.
    Server {
        /// Name of the server in [`Tools::servers`].
        server: String,
        /// As the server calls it.
        tool: String,
        repeat: Repeat,
    },
    /// Writes an event in the run's transaction; the arguments are its value.
    Emit {
        /// Name of the source in [`Stage::sources`], its topic and format.
        source: String,
        topic: String,
        format: Format,
        /// CEL over what the trigger, `context` and `call` give; absent: the run's key.
        key: Option<String>,
        /// JSON Schema of the arguments; absent: any object.
        schema: Option<serde_json::Value>,
    },
    /// Reads a view; its lookup sees the model's key as `argument`.
    View { lookup: Lookup },
}

/// What becomes of a call of which nobody knows whether it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Repeat {
    /// It is not made again: its outcome is unknown.
    #[default]
    Never,
    /// It is made again, under the same key.
    Always,
}

/// Where tools are, and how long one call may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolServer {
    /// The resource's name.
    pub name: String,
    pub provider: ToolProvider,
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ToolProvider {
    /// A server that speaks MCP over streamable HTTP.
    Mcp {
        url: String,
        headers: Vec<HttpHeader>,
    },
    Scripted {
        tools: Vec<ScriptedTool>,
    },
}

impl ToolProvider {
    /// Paths of the files with its credentials.
    pub fn secret_files(&mut self) -> impl Iterator<Item = &mut String> {
        let headers = match self {
            Self::Mcp { headers, .. } => headers.as_mut_slice(),
            Self::Scripted { .. } => &mut [],
        };
        headers.iter_mut().filter_map(HttpHeader::file)
    }
}

/// A tool whose results are those of an expression.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScriptedTool {
    pub name: String,
    pub description: String,
    /// JSON Schema of the arguments; absent: none.
    pub schema: Option<serde_json::Value>,
    /// CEL over `arguments`.
    pub result: String,
}

/// A rule about tool calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    pub name: String,
    /// Names of the tools that it is about; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// CEL; absent: true.
    pub when: Option<String>,
    pub action: Action,
    /// Jinja; absent: the rule's name.
    pub message: Option<String>,
}

impl PolicyRule {
    /// Whether it lets a person decide.
    pub fn asks(&self) -> bool {
        self.action == Action::RequireApproval
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    Deny,
    RequireApproval,
    Allow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    pub max_attempts: u32,
    pub initial_backoff_ms: u64,
    pub max_backoff_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    pub name: String,
    /// The source that is written to, its topic and format.
    pub source: String,
    pub topic: String,
    pub format: Format,
    pub outcome: Outcome,
    pub when: Option<String>,
    /// CEL giving a list: one record for each `item`.
    pub items: Option<String>,
    pub key: Option<String>,
    pub value: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    #[default]
    Done,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    pub max_attempts: u32,
    pub attempt_timeout_ms: u64,
    pub max_hops: u32,
    pub on_failure: OnFailure,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    #[default]
    DeadLetter,
    Skip,
    Stop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audit {
    #[default]
    Full,
    /// Provenance and hashes, no values.
    Hashes,
}
