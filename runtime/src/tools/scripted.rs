//! Results from a scripted server's expressions, as a server would give them.

use super::{Answer, Error, Server, SetupError};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::agent::Listed;
use headwater_engine::config::ScriptedTool;
use headwater_engine::tool;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::future::ready;
use std::time::Duration;

pub struct Scripted(tool::Scripted);

impl Scripted {
    /// # Errors
    /// When a tool's expression or schema cannot work.
    pub fn new(name: &str, tools: &[ScriptedTool]) -> Result<Self, SetupError> {
        let compiled = tool::Scripted::compile(name, tools).map_err(|error| SetupError::Tools {
            server: name.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self(compiled))
    }
}

impl Server for Scripted {
    fn list(&self, _within: Duration) -> BoxFuture<'_, Result<BTreeMap<String, Listed>, Error>> {
        ready(Ok(self.0.list())).boxed()
    }

    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: &'a Map<String, Value>,
        _key: &'a str,
        _within: Duration,
    ) -> BoxFuture<'a, Result<Answer, Error>> {
        let answer = match self.0.call(tool, arguments) {
            Ok(result) => Answer {
                result,
                failed: false,
            },
            Err(fault) => Answer {
                result: Value::String(fault.message),
                failed: true,
            },
        };
        ready(Ok(answer)).boxed()
    }
}
