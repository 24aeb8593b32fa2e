//! ToolServer: well-formed, with its Secrets there. Which tools an MCP server has, agents see when they ask it.

use super::{
    Context,
    checked::ToolServer,
    compile,
    findings::{Findings, Outcome},
    url,
};
use crate::reason::Reason;
use headwater_crds as crds;
use headwater_engine::config;
use std::collections::BTreeSet;

pub(super) fn check(
    context: &Context<'_>,
    name: &str,
    server: &crds::ToolServer,
) -> Outcome<ToolServer> {
    let mut findings = Findings::default();
    let mut secrets = BTreeSet::new();
    let spec = &server.spec;
    let provider = match (&spec.mcp, &spec.scripted) {
        (Some(mcp), None) => {
            let encrypted = url::url(&mut findings, "spec.mcp.url", &mcp.url);
            secrets = url::headers(
                &mut findings,
                "spec.mcp.headers",
                &mcp.headers,
                &context.resources.secrets,
            );
            if !encrypted && !secrets.is_empty() {
                findings.warn(
                    Reason::UnencryptedCredential,
                    "spec.mcp.url",
                    "the credentials cross the network unencrypted; use an https:// URL",
                );
            }
            Some(config::ToolProvider::Mcp {
                url: mcp.url.clone(),
                headers: mcp.headers.iter().filter_map(url::header).collect(),
            })
        }
        (None, Some(scripted)) => {
            let tools: Vec<config::ScriptedTool> = scripted
                .tools
                .iter()
                .map(|tool| config::ScriptedTool {
                    name: tool.name.clone(),
                    description: tool.description.clone(),
                    schema: tool.schema.clone().map(Into::into),
                    result: tool.result.clone(),
                })
                .collect();
            findings.compiled(compile::tools(name, &tools));
            Some(config::ToolProvider::Scripted { tools })
        }
        _ => {
            findings.problem(
                Reason::InvalidSpec,
                "spec",
                "set exactly one of mcp and scripted",
            );
            None
        }
    };
    let config = provider.map(|provider| config::ToolServer {
        name: name.to_owned(),
        provider,
        timeout_ms: u64::from(spec.timeout_seconds) * 1_000,
    });
    findings.finish(config.map(|config| ToolServer { config, secrets }))
}
