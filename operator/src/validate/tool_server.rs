//! ToolServer: well-formed, with its Secrets there. Which tools it has, agents see when they ask it.

use super::{
    Context,
    checked::ToolServer,
    findings::{Findings, Outcome},
    url,
};
use crate::reason::Reason;
use headwater_crds as crds;
use headwater_engine::expr::{Expression, Names};
use std::collections::BTreeSet;

pub(super) fn check(context: &Context<'_>, server: &crds::ToolServer) -> Outcome<ToolServer> {
    let mut findings = Findings::default();
    let mut secrets = BTreeSet::new();
    let spec = &server.spec;
    if spec.mcp.is_some() == spec.scripted.is_some() {
        findings.problem(
            Reason::InvalidSpec,
            "spec",
            "set exactly one of mcp and scripted",
        );
    }
    if let Some(mcp) = &spec.mcp {
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
    }
    let names = Names::new(&["arguments"]);
    for tool in spec.scripted.iter().flat_map(|scripted| &scripted.tools) {
        if let Err(error) = Expression::compile(&tool.result, &names) {
            findings.problem(
                Reason::InvalidExpression,
                format!("spec.scripted.tools[name={}].result", tool.name),
                error.to_string(),
            );
        }
    }
    findings.finish(Some(ToolServer { secrets }))
}
