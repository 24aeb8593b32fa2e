//! The few requests that the bed makes of a broker, by hand, so that it needs no Kafka client: whether it serves, which topics it has, and
//! that topics be deleted.
//!
//! All are of versions that every broker since 2.0 takes. Plain text only, as the bed's brokers speak it.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);
/// A deletion waits for the controller.
const DELETION: Duration = Duration::from_secs(20);
const ANSWER_BYTES_MAX: usize = 1 << 24;
const METADATA: i16 = 3;
const DELETE_TOPICS: i16 = 20;
/// Of both requests.
const VERSION: i16 = 1;
const CORRELATION: i32 = 1;

/// Whether a broker at `address` answers and knows of at least one broker that is not fenced (itself, in the bed).
///
/// An open port is not enough: a starting broker accepts connections before it may lead partitions.
pub(crate) fn serves(address: &str) -> bool {
    let answer = ask(address, METADATA, &no_topics(), PATIENCE);
    let brokers = answer.and_then(|answer| Answer(&answer).number());
    brokers.is_ok_and(|count| count > 0)
}

/// Names of all topics, internal ones too.
pub(crate) fn topics(address: &str) -> io::Result<Vec<String>> {
    let answer = ask(address, METADATA, &all_topics(), PATIENCE)?;
    let mut answer = Answer(&answer);
    for _ in 0..answer.number()? {
        answer.skip(4)?;
        answer.text()?;
        answer.skip(4)?;
        answer.text()?;
    }
    // The controller's id.
    answer.skip(4)?;
    let mut names = Vec::new();
    for _ in 0..answer.number()? {
        answer.skip(2)?;
        names.push(answer.text()?);
        answer.skip(1)?;
        for _ in 0..answer.number()? {
            answer.skip(10)?;
            for _ in 0..2 {
                let replicas = usize::try_from(answer.number()?).unwrap_or(0);
                answer.skip(4 * replicas)?;
            }
        }
    }
    Ok(names)
}

/// Topics that are there no more are no error.
pub(crate) fn delete(address: &str, topics: &[String]) -> io::Result<()> {
    const UNKNOWN_TOPIC: i16 = 3;
    let mut body = Vec::new();
    put_number(&mut body, topics.len());
    for topic in topics {
        put_text(&mut body, topic);
    }
    put_number(&mut body, DELETION.as_millis() as usize);
    let answer = ask(address, DELETE_TOPICS, &body, DELETION + PATIENCE)?;
    let mut answer = Answer(&answer);
    // How long the broker held the request back.
    answer.skip(4)?;
    for _ in 0..answer.number()? {
        let (name, error) = (answer.text()?, answer.small()?);
        if error != 0 && error != UNKNOWN_TOPIC {
            return Err(io::Error::other(format!(
                "Kafka does not delete topic '{name}': error {error} of its protocol"
            )));
        }
    }
    Ok(())
}

fn no_topics() -> Vec<u8> {
    0i32.to_be_bytes().to_vec()
}

/// A null array.
fn all_topics() -> Vec<u8> {
    (-1i32).to_be_bytes().to_vec()
}

fn put_number(body: &mut Vec<u8>, number: usize) {
    body.extend(i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes());
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend(i16::try_from(text.len()).unwrap_or(i16::MAX).to_be_bytes());
    body.extend(text.as_bytes());
}

/// Sends one request on a connection of its own. Gives the answer after its correlation id.
fn ask(address: &str, key: i16, body: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    let mut addresses = address.to_socket_addrs()?;
    let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(patience))?;
    let mut request = Vec::new();
    request.extend(key.to_be_bytes());
    request.extend(VERSION.to_be_bytes());
    request.extend(CORRELATION.to_be_bytes());
    put_text(&mut request, "testbed");
    request.extend(body);
    let mut whole = Vec::new();
    put_number(&mut whole, request.len());
    whole.extend(request);
    stream.write_all(&whole)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > ANSWER_BYTES_MAX {
        return Err(io::Error::other(format!("an answer of {length} bytes")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    if answer.get(..4) != Some(&CORRELATION.to_be_bytes()) {
        return Err(io::Error::other("an answer to another request"));
    }
    answer.drain(..4);
    Ok(answer)
}

/// What is left of an answer.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (taken, rest) = self
            .0
            .split_first_chunk()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn skip(&mut self, bytes: usize) -> io::Result<()> {
        self.0 = self.0.get(bytes..).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }

    fn number(&mut self) -> io::Result<i32> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    fn small(&mut self) -> io::Result<i16> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    /// Empty where it is null.
    fn text(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.small()?).unwrap_or(0);
        let bytes = self.0.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.skip(length)?;
        Ok(text)
    }
}
