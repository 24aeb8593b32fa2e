//! Model: where it is, with which credentials, or by which rules it answers.

use super::{
    Context,
    checked::Model,
    compile, fallback,
    findings::{Findings, Outcome},
    url,
};
use crate::reason::Reason;
use crate::resources::{Kind, SecretKey};
use headwater_crds::common::{Header, SecretKeyRef};
use headwater_crds::{self as crds};
use headwater_engine::config;
use std::collections::{BTreeMap, BTreeSet};

/// Fields of a request that are Headwater's to set.
const RESERVED_PARAMETERS: [&str; 4] = ["model", "messages", "system", "tools"];

/// `models`: those that were checked before, in the order of [`fallback::order`].
pub(super) fn check(
    context: &Context<'_>,
    name: &str,
    model: &crds::Model,
    models: &BTreeMap<String, Outcome<Model>>,
) -> Outcome<Model> {
    let mut findings = Findings::default();
    let spec = &model.spec;
    let mut secrets = BTreeSet::new();
    if [
        spec.openai.is_some(),
        spec.anthropic.is_some(),
        spec.scripted.is_some(),
    ]
    .iter()
    .filter(|set| **set)
    .count()
        != 1
    {
        findings.problem(
            Reason::InvalidSpec,
            "spec",
            "set exactly one of openAI, anthropic and scripted",
        );
    }
    for parameter in spec.parameters.keys() {
        if RESERVED_PARAMETERS.contains(&parameter.as_str()) {
            findings.problem(
                Reason::NotAllowed,
                format!("spec.parameters.{parameter}"),
                format!("Headwater sets '{parameter}' itself; leave it out of parameters"),
            );
        }
    }
    if spec.max_output_tokens >= spec.context_window_tokens {
        findings.problem(
            Reason::InvalidSpec,
            "spec.maxOutputTokens",
            format!(
                "maxOutputTokens ({}) leaves no room for a prompt in contextWindowTokens ({}); make it smaller",
                spec.max_output_tokens, spec.context_window_tokens
            ),
        );
    }
    let provider = match (&spec.openai, &spec.anthropic, &spec.scripted) {
        (Some(openai), ..) => Some(open_ai(context, &mut findings, &mut secrets, openai)),
        (None, Some(own), _) => Some(anthropic(context, &mut findings, &mut secrets, own)),
        (None, None, Some(scripted)) => Some(self::scripted(&mut findings, name, scripted)),
        (None, None, None) => None,
    };
    if spec.scripted.is_none() && provider.is_some() && spec.model.is_none() {
        findings.problem(
            Reason::InvalidSpec,
            "spec.model",
            "say which model to ask for, as the server calls it, e.g. gpt-4o-mini",
        );
    }
    let fallback = fall_back(context, &mut findings, name, spec, models);
    secrets.extend(fallback.iter().flat_map(|other| other.secrets.clone()));
    let config = provider.map(|provider| config::Model {
        name: name.to_owned(),
        provider,
        model: spec.model_name().to_owned(),
        parameters: spec.parameters.clone(),
        context_window_tokens: spec.context_window_tokens,
        max_output_tokens: spec.max_output_tokens,
        request_timeout_ms: u64::from(spec.request_timeout_seconds) * 1_000,
        retry: config::Retry {
            max_attempts: spec.retry.max_attempts,
            initial_backoff_ms: u64::from(spec.retry.initial_backoff_milliseconds),
            max_backoff_ms: u64::from(spec.retry.max_backoff_milliseconds),
        },
        // Of all together; the plan divides them.
        limits: spec
            .limits
            .as_ref()
            .map_or_else(Default::default, |own| config::Limits {
                requests_per_minute: own.requests_per_minute.map(f64::from),
                tokens_per_minute: own.tokens_per_minute.map(f64::from),
                concurrent_requests: own.concurrent_requests,
            }),
        fallback: fallback.map(|other| Box::new(other.config.clone())),
    });
    findings.finish(config.map(|config| Model { config, secrets }))
}

/// The model that is asked where this one gives no answer.
fn fall_back<'m>(
    context: &Context<'_>,
    findings: &mut Findings,
    name: &str,
    spec: &crds::model::ModelSpec,
    models: &'m BTreeMap<String, Outcome<Model>>,
) -> Option<&'m Model> {
    const PATH: &str = "spec.fallbackModelRef.name";
    let other = spec.fallback_model_ref.as_ref()?;
    if let Some(way) = fallback::circle(&context.resources.models, name) {
        let message = format!(
            "no model answers in the end, they fall back in a circle: {}. Leave fallbackModelRef out of one of them",
            way.join(" -> ")
        );
        findings.problem(Reason::InvalidSpec, PATH, message);
        return None;
    }
    findings.refer(Kind::Model, PATH, &other.name, models)
}

fn open_ai(
    context: &Context<'_>,
    findings: &mut Findings,
    secrets: &mut BTreeSet<SecretKey>,
    openai: &crds::model::OpenAi,
) -> config::Provider {
    for parameter in openai.query.keys() {
        url::credential_parameter(
            findings,
            &format!("spec.openAI.query[{parameter}]"),
            parameter,
        );
    }
    let server = Server {
        path: "spec.openAI",
        base_url: &openai.base_url,
        api_key: openai.api_key_secret_key_ref.as_ref(),
        headers: &openai.headers,
    };
    config::Provider::OpenAi {
        base_url: openai.base_url.clone(),
        api_key_file: server.check(context, findings, secrets),
        headers: openai.headers.iter().filter_map(url::header).collect(),
        query: openai.query.clone(),
    }
}

fn anthropic(
    context: &Context<'_>,
    findings: &mut Findings,
    secrets: &mut BTreeSet<SecretKey>,
    anthropic: &crds::model::Anthropic,
) -> config::Provider {
    let server = Server {
        path: "spec.anthropic",
        base_url: &anthropic.base_url,
        api_key: anthropic.api_key_secret_key_ref.as_ref(),
        headers: &anthropic.headers,
    };
    config::Provider::Anthropic {
        base_url: anthropic.base_url.clone(),
        api_key_file: server.check(context, findings, secrets),
        headers: anthropic.headers.iter().filter_map(url::header).collect(),
    }
}

/// What all servers of models have in common.
struct Server<'a> {
    /// Of its fields.
    path: &'a str,
    base_url: &'a str,
    api_key: Option<&'a SecretKeyRef>,
    headers: &'a [Header],
}

impl Server<'_> {
    /// Gives the file of its API key.
    fn check(
        &self,
        context: &Context<'_>,
        findings: &mut Findings,
        secrets: &mut BTreeSet<SecretKey>,
    ) -> Option<String> {
        let known = &context.resources.secrets;
        let at = |field: &str| format!("{}.{field}", self.path);
        let encrypted = url::url(findings, &at("baseURL"), self.base_url);
        let api_key = self.api_key.map(|key| SecretKey::new(&key.name, &key.key));
        if let Some(key) = &api_key {
            findings.secret(&at("apiKeySecretKeyRef"), key, known);
            secrets.insert(key.clone());
        }
        secrets.extend(url::headers(findings, &at("headers"), self.headers, known));
        if !encrypted && !secrets.is_empty() {
            findings.warn(
                Reason::UnencryptedCredential,
                at("baseURL"),
                "the credentials cross the network unencrypted; use an https:// URL",
            );
        }
        api_key.map(|key| key.file())
    }
}

fn scripted(
    findings: &mut Findings,
    name: &str,
    scripted: &crds::model::Scripted,
) -> config::Provider {
    if scripted.rules.is_empty() {
        findings.problem(
            Reason::InvalidSpec,
            "spec.scripted.rules",
            "give at least one rule, e.g. {reply: \"Hello\"}",
        );
    }
    let mut rules = Vec::new();
    for (index, rule) in scripted.rules.iter().enumerate() {
        let path = format!("spec.scripted.rules[{index}]");
        if rule.reply.is_none() && rule.error.is_none() && rule.tool_calls.is_empty() {
            findings.problem(
                Reason::InvalidSpec,
                &path,
                "a rule answers with reply, toolCalls or both, or else with error; set one of them",
            );
        }
        let error = rule
            .error
            .as_ref()
            .and_then(|error| match u16::try_from(error.status) {
                Ok(status) => Some(config::RuleError {
                    status,
                    times: error.times,
                }),
                Err(_) => {
                    findings.problem(
                        Reason::InvalidSpec,
                        format!("{path}.error.status"),
                        "an HTTP status is from 400 to 599",
                    );
                    None
                }
            });
        rules.push(config::Rule {
            when: rule.when.clone(),
            reply: rule.reply.clone(),
            tool_calls: rule
                .tool_calls
                .iter()
                .map(|call| config::RuleToolCall {
                    tool: call.tool.clone(),
                    arguments: call.arguments.clone(),
                })
                .collect(),
            error,
            delay_ms: u64::from(rule.delay_milliseconds),
        });
    }
    findings.compiled(compile::scripted(name, &rules));
    config::Provider::Scripted { rules }
}
