//! The one request that tells whether a broker serves: Metadata, by hand, so that the bed needs no Kafka client.

use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Metadata (key 3) version 1, correlation id 1, no client id, no topics; preceded by its length.
const REQUEST: [u8; 18] = [0, 0, 0, 14, 0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0];

/// Whether a broker at `address` answers and knows of at least one broker that is not fenced (itself, in the bed).
///
/// An open port is not enough: a starting broker accepts connections before it may lead partitions.
pub(crate) fn serves(address: &str) -> bool {
    brokers(address).is_some_and(|count| count > 0)
}

fn brokers(address: &str) -> Option<i32> {
    let address = address.to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(&REQUEST).ok()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
    if length > ANSWER_BYTES_MAX {
        return None;
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).ok()?;
    // Correlation id, then the array of brokers, which begins with its length.
    let (id, rest) = answer.split_first_chunk::<4>()?;
    let (count, _) = rest.split_first_chunk::<4>()?;
    (i32::from_be_bytes(*id) == 1).then(|| i32::from_be_bytes(*count))
}
