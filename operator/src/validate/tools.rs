//! What an agent's model may call, and under which rules.

use super::{
    agent::Around,
    checked::{Source, View},
    findings::Findings,
    slot::{self, Asked},
};
use crate::reason::Reason;
use crate::resources::{Kind, SecretKey};
use headwater_crds::{self as crds, agent as crd, common::Order};
use headwater_engine::config;
use std::collections::{BTreeMap, BTreeSet};

/// What else the tools need of the agent's stage.
#[derive(Default)]
pub(super) struct Needs {
    /// Clusters of the sources that are written, and who is there.
    pub(super) clusters: BTreeSet<(String, String)>,
    pub(super) sources: BTreeSet<String>,
    pub(super) secrets: BTreeSet<SecretKey>,
}

/// `views` gets the views that tools read.
pub(super) fn check<'v>(
    findings: &mut Findings,
    spec: &crds::AgentSpec,
    around: &Around<'v>,
    views: &mut BTreeMap<String, &'v View>,
) -> (Option<config::Tools>, Needs) {
    let mut needs = Needs::default();
    let mut servers = BTreeMap::new();
    let mut tools = Vec::new();
    for tool in &spec.tools {
        let path = format!("spec.tools[name={}]", tool.name);
        let does = match (&tool.mcp, &tool.emit, &tool.view) {
            (Some(mcp), None, None) => {
                server(findings, &path, mcp, around, &mut needs, &mut servers)
            }
            (None, Some(emit), None) => self::emit(findings, &path, tool, emit, around, &mut needs),
            (None, None, Some(view)) => self::view(findings, &path, view, around, views),
            _ => {
                findings.problem(
                    Reason::InvalidSpec,
                    &path,
                    "set exactly one of mcp, emit and view",
                );
                None
            }
        };
        if tool.mcp.is_none() && tool.description.is_none() {
            findings.problem(
                Reason::InvalidSpec,
                format!("{path}.description"),
                "say what the tool does: the model reads it",
            );
        }
        if tool.view.is_some() && !tool.fixed.is_empty() {
            findings.problem(
                Reason::InvalidSpec,
                format!("{path}.fixed"),
                "fixed is for mcp and emit; bind what a view shows with its where, e.g. value.customer_id == event.customer_id",
            );
        }
        tools.extend(does.map(|does| config::Tool {
            name: tool.name.clone(),
            description: tool.description.clone(),
            does,
            fixed: tool.fixed.clone(),
        }));
    }
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    let policy = policy(findings, spec);
    let approval = approval(findings, spec, around, &mut needs);
    if spec.tools.is_empty() {
        return (None, needs);
    }
    let tools = config::Tools {
        tools,
        servers,
        max_rounds: spec.max_tool_rounds,
        approval: approval.filter(|_| policy.iter().any(config::PolicyRule::asks)),
        policy,
    };
    (Some(tools), needs)
}

fn server(
    findings: &mut Findings,
    path: &str,
    mcp: &crd::McpTool,
    around: &Around<'_>,
    needs: &mut Needs,
    servers: &mut BTreeMap<String, config::ToolServer>,
) -> Option<config::ToolDoes> {
    let name = &mcp.tool_server_ref.name;
    let server = findings.refer(
        Kind::ToolServer,
        format!("{path}.mcp.toolServerRef.name"),
        name,
        around.tool_servers,
    )?;
    if let config::ToolProvider::Scripted { tools } = &server.config.provider
        && !tools.iter().any(|own| own.name == mcp.tool)
    {
        let hint = crate::hint::instead(&mcp.tool, tools.iter().map(|own| own.name.as_str()));
        findings.problem(
            Reason::NotFound,
            format!("{path}.mcp.tool"),
            format!("ToolServer '{name}' has no tool '{}'{hint}", mcp.tool),
        );
    }
    needs.secrets.extend(server.secrets.iter().cloned());
    servers.insert(name.clone(), server.config.clone());
    Some(config::ToolDoes::Server {
        server: name.clone(),
        tool: mcp.tool.clone(),
        repeat: match mcp.repeat {
            crd::Repeat::Never => config::Repeat::Never,
            crd::Repeat::Always => config::Repeat::Always,
        },
    })
}

fn emit(
    findings: &mut Findings,
    path: &str,
    tool: &crd::Tool,
    emit: &crd::EmitTool,
    around: &Around<'_>,
    needs: &mut Needs,
) -> Option<config::ToolDoes> {
    let at = format!("{path}.emit.sourceRef.name");
    let name = &emit.source_ref.name;
    let source = written(findings, &at, name, around, needs)?;
    Some(config::ToolDoes::Emit {
        source: name.clone(),
        topic: source.config.topic.clone(),
        format: source.config.format,
        key: emit.key.clone(),
        schema: tool
            .schema
            .clone()
            .map(Into::into)
            .or_else(|| source.config.schema.clone()),
    })
}

fn view<'v>(
    findings: &mut Findings,
    path: &str,
    view: &crd::ViewTool,
    around: &Around<'v>,
    views: &mut BTreeMap<String, &'v View>,
) -> Option<config::ToolDoes> {
    findings.not_supported(
        view.argument == crd::ViewArgument::Query,
        format!("{path}.view.argument"),
        "search",
        "let the model give a key: argument: Key",
    );
    let asked = Asked {
        view: &view.view_ref.name,
        index: view.index.as_deref(),
        key: Some("argument"),
        keys: None,
        search: false,
    };
    let path = format!("{path}.view");
    let by = slot::lookup(findings, &path, &asked, around.views, views)?;
    Some(config::ToolDoes::View {
        lookup: config::Lookup {
            view: view.view_ref.name.clone(),
            by,
            index: view.index.clone(),
            filter: view.filter.clone(),
            order_by: view.order_by.clone(),
            order: match view.order {
                Order::Ascending => config::Order::Ascending,
                Order::Descending => config::Order::Descending,
            },
            limit: view.limit,
        },
    })
}

/// `None`: what it names is not there.
fn approval(
    findings: &mut Findings,
    spec: &crds::AgentSpec,
    around: &Around<'_>,
    needs: &mut Needs,
) -> Option<config::Approval> {
    let requests = match &spec.approval.requests_source_ref {
        None => None,
        Some(source) => {
            let path = "spec.approval.requestsSourceRef.name";
            let written = written(findings, path, &source.name, around, needs)?;
            Some(config::Requests {
                source: source.name.clone(),
                topic: written.config.topic.clone(),
            })
        }
    };
    Some(config::Approval {
        timeout_ms: u64::from(spec.approval.timeout_seconds) * 1_000,
        requests,
    })
}

/// A source that the agent writes.
fn written<'s>(
    findings: &mut Findings,
    path: &str,
    name: &str,
    around: &Around<'s>,
    needs: &mut Needs,
) -> Option<&'s Source> {
    let source = findings.refer(Kind::EventSource, path, name, around.sources)?;
    needs
        .clusters
        .insert((format!("EventSource '{name}'"), source.cluster.clone()));
    needs.sources.insert(name.to_owned());
    findings.writes(path, name, source);
    Some(source)
}

fn policy(findings: &mut Findings, spec: &crds::AgentSpec) -> Vec<config::PolicyRule> {
    let tools: BTreeSet<&str> = spec.tools.iter().map(|tool| tool.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    for rule in &spec.policy {
        let path = format!("spec.policy[name={}]", rule.name);
        if !seen.insert(rule.name.as_str()) {
            findings.problem(
                Reason::InvalidSpec,
                &path,
                format!("the name '{}' is given twice", rule.name),
            );
        }
        for tool in &rule.tools {
            if !tools.contains(tool.as_str()) {
                let hint = crate::hint::instead(tool, tools.iter().copied());
                findings.problem(
                    Reason::NotFound,
                    format!("{path}.tools"),
                    format!("the agent has no tool '{tool}'{hint}"),
                );
            }
        }
        rules.push(config::PolicyRule {
            name: rule.name.clone(),
            tools: rule.tools.clone(),
            when: rule.when.clone(),
            action: match rule.action {
                crd::Action::Deny => config::Action::Deny,
                crd::Action::RequireApproval => config::Action::RequireApproval,
                crd::Action::Allow => config::Action::Allow,
            },
            message: rule.message.clone(),
        });
    }
    rules.sort_by(|a, b| a.name.cmp(&b.name));
    rules
}
