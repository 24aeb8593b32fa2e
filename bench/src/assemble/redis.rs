//! One fetch of many values from Redis: a request, its answer read whole, over a connection that stands.
//!
//! `HEADWATER_REDIS` names the server's program, default `redis-server`. It runs on this machine without writing to disk.

use crate::Result;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Redis {
    server: Child,
    connection: BufReader<TcpStream>,
}

impl Redis {
    /// # Errors
    /// Where there is no such program.
    pub fn start() -> Result<Self> {
        let program =
            std::env::var("HEADWATER_REDIS").unwrap_or_else(|_| "redis-server".to_owned());
        // Free a moment ago; nothing else on this machine asks for ports.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Command::new(&program)
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("'{program}' does not start: {error}"))?;
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    // It is the connection that failed; that the server ends is only asked for.
                    let _ = server.kill();
                    return Err(format!("'{program}' does not answer: {error}").into());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_nodelay(true)?;
        Ok(Self {
            server,
            connection: BufReader::with_capacity(1 << 16, stream),
        })
    }

    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.send(&["SET", key, value])?;
        self.line().map(drop)
    }

    /// Fetches all at once; gives the bytes of their values.
    pub fn fetch(&mut self, keys: &[&str]) -> Result<usize> {
        let words: Vec<&str> = ["MGET"].iter().chain(keys).copied().collect();
        self.send(&words)?;
        let count = number(&self.line()?, '*')?;
        let mut bytes = 0;
        let mut value = Vec::new();
        for _ in 0..count {
            let length = number(&self.line()?, '$')?;
            value.resize(length + 2, 0);
            self.connection.read_exact(&mut value)?;
            bytes += length;
        }
        Ok(bytes)
    }

    fn send(&mut self, words: &[&str]) -> Result<()> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        Ok(self.connection.get_mut().write_all(request.as_bytes())?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.connection.read_line(&mut line)?;
        Ok(line)
    }
}

fn number(line: &str, kind: char) -> Result<usize> {
    line.trim_end()
        .strip_prefix(kind)
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| format!("Redis answers {line:?}").into())
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
