//! The model and the tools as a server: chat completions, as OpenAI's protocol has them, and MCP, from the desk's ledger.
//!
//! Each replica asks at an address of its own, so that one can be killed at the very moment that it asks, or has its answer.

use crate::desk;
use crate::desk::model::{Ledger, Process, Verdict};
use crate::rounds::replica;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// For the first step of a run.
    Asked,
    /// For a later one: the first is in the journal.
    AskedAgain,
    Answered,
    /// A tool is called: the call is in the journal.
    Called,
    /// It gave its result, which is in no journal yet.
    Gave,
}

/// Kills a process, once.
struct Trap {
    replica: String,
    moment: Moment,
    process: u32,
    sprung: AtomicBool,
}

#[derive(Clone, Default)]
struct Traps(Arc<Mutex<Vec<Arc<Trap>>>>);

impl Traps {
    /// Whether the replica is no more.
    fn spring(&self, replica: &str, moment: Moment) -> bool {
        let mut traps = self.0.lock().unwrap();
        let found = traps
            .iter()
            .position(|trap| trap.replica == replica && trap.moment == moment);
        let Some(place) = found else { return false };
        let trap = traps.remove(place);
        replica::send("-KILL", trap.process);
        trap.sprung.store(true, Ordering::SeqCst);
        true
    }
}

/// Who asks at the address of a replica.
#[derive(Clone, Default)]
struct Processes(Arc<Mutex<HashMap<String, Process>>>);

pub struct Server {
    address: String,
    ledger: Ledger,
    processes: Processes,
    traps: Traps,
}

impl Server {
    pub fn start(ledger: Ledger) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let traps = Traps::default();
        let springs = traps.clone();
        let processes = Processes::default();
        let asking = processes.clone();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (processes, traps) = (asking.clone(), springs.clone());
                // A client that is gone is not answered.
                std::thread::spawn(move || while serve(&stream, &processes, &traps).is_some() {});
            }
        });
        Self {
            address,
            ledger,
            processes,
            traps,
        }
    }

    /// The provider of a replica's model, as its configuration names it.
    pub fn provider(&self, replica: &str) -> Value {
        json!({"openAi": {
            "baseUrl": format!("http://{}/{replica}", self.address),
            "apiKeyFile": null, "headers": [], "query": {},
        }})
    }

    /// Where a replica's tools are, as its configuration names it.
    pub fn tools(&self, replica: &str) -> Value {
        let url = format!("http://{}/{replica}/mcp", self.address);
        json!({"mcp": {"url": url, "headers": []}})
    }

    /// To be called when another process begins to ask at a replica's address.
    pub fn born(&self, replica: &str) -> impl Fn() + Send + 'static {
        let (ledger, processes, replica) = (
            self.ledger.clone(),
            self.processes.clone(),
            replica.to_owned(),
        );
        move || {
            let mut processes = processes.0.lock().unwrap();
            processes.insert(replica.clone(), ledger.process());
        }
    }

    /// Kills a replica's process at its next call. Gives whether that was within `patience`.
    pub fn kill_at(&self, replica: &str, process: u32, moment: Moment, patience: Duration) -> bool {
        let trap = Arc::new(Trap {
            replica: replica.to_owned(),
            moment,
            process,
            sprung: AtomicBool::new(false),
        });
        self.traps.0.lock().unwrap().push(Arc::clone(&trap));
        let deadline = Instant::now() + patience;
        while !trap.sprung.load(Ordering::SeqCst) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut traps = self.traps.0.lock().unwrap();
        traps.retain(|it| !Arc::ptr_eq(it, &trap));
        trap.sprung.load(Ordering::SeqCst)
    }
}

/// One request; `None` where the connection is at its end.
fn serve(stream: &TcpStream, processes: &Processes, traps: &Traps) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<&TcpStream>| {
        line.clear();
        let count = reader.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim().to_owned())
    };
    let first = next(&mut reader)?;
    let replica = first.split(['/', ' ']).nth(2)?.to_owned();
    let is_tools = first.contains("/mcp ");
    let (mut length, mut key) = (0, String::new());
    loop {
        let header = next(&mut reader)?;
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "idempotency-key" => value.trim().clone_into(&mut key),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if is_tools && !first.starts_with("POST") {
        // No stream of the server's own, and no session to be ended.
        return write(stream, 405, &Value::Null);
    }
    let request: Value = serde_json::from_slice(&body).ok()?;
    let process = processes.0.lock().unwrap().get(&replica)?.clone();
    if is_tools {
        return call(stream, &replica, &process, &request, traps);
    }
    let (verdict, delay) = process.ask(&key, request["messages"].as_array()?);
    let moment = if key.ends_with("-1") {
        Moment::Asked
    } else {
        Moment::AskedAgain
    };
    if traps.spring(&replica, moment) {
        return None;
    }
    std::thread::sleep(delay);
    let (status, body) = match verdict {
        Verdict::Answer(text) => {
            let choice =
                json!({"message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
            (200, json!({"choices": [choice]}))
        }
        Verdict::Calls(calls) => {
            let calls = calls.into_iter().map(|(id, tool, arguments)| {
                let function = json!({"name": tool, "arguments": arguments.to_string()});
                json!({"id": id, "type": "function", "function": function})
            });
            let calls: Value = calls.collect();
            let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
            (
                200,
                json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]}),
            )
        }
        Verdict::Refusal(status) => (status, json!({"error": {"message": "no"}})),
        Verdict::Nonsense => (200, json!({"choices": []})),
    };
    write(stream, status, &body)?;
    traps.spring(&replica, Moment::Answered);
    Some(())
}

/// One message of MCP.
fn call(
    stream: &TcpStream,
    replica: &str,
    process: &Process,
    request: &Value,
    traps: &Traps,
) -> Option<()> {
    let result = match request["method"].as_str()? {
        "initialize" => json!({
            "protocolVersion": request["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "desk", "version": "1"},
        }),
        "tools/list" => {
            let tools = desk::listed().map(|(name, description, schema)| {
                json!({"name": name, "description": description, "inputSchema": schema})
            });
            json!({"tools": tools})
        }
        "tools/call" => {
            let of = &request["params"];
            let key = of["_meta"]["headwater.dev/idempotency-key"].as_str()?;
            let given = process.call(key, of["name"].as_str()?, &of["arguments"]);
            if traps.spring(replica, Moment::Called) {
                return None;
            }
            json!({"content": [], "structuredContent": given})
        }
        // Of what is no request.
        _ => return write(stream, 202, &Value::Null),
    };
    let answer = json!({"jsonrpc": "2.0", "id": request["id"], "result": result});
    write(stream, 200, &answer)?;
    if request["method"] == "tools/call" {
        traps.spring(replica, Moment::Gave);
    }
    Some(())
}

/// `body` is null where there is none.
fn write(mut stream: &TcpStream, status: u16, body: &Value) -> Option<()> {
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let answer = format!(
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).ok()
}
