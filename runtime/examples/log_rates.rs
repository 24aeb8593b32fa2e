//! How fast the log is: `cargo run --release -p headwater-runtime --example log_rates [HOST:PORT]`.
//!
//! Without an address only the memory log is measured. On Kafka it makes topics named `log-rates.*`
//! and leaves them.

#![allow(clippy::print_stdout, reason = "figures are what this program is for")]

use headwater_engine::config;
use headwater_engine::record::{NewRecord, TopicPartition};
use headwater_runtime::log::kafka::Kafka;
use headwater_runtime::log::memory::Memory;
use headwater_runtime::log::{
    Committed, Error, GroupEvent, GroupOptions, Isolation, Log, Result, Start, TopicSpec,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const RECORDS: usize = 1_000_000;
const BATCH: usize = 500;

fn main() -> Result<()> {
    println!("memory log");
    rates(&Memory::new(), RECORDS)?;
    transactions(&Memory::new(), 2_000)?;
    if let Some(address) = std::env::args().nth(1) {
        let config = config::Kafka {
            bootstrap_servers: vec![address],
            ..config::Kafka::default()
        };
        let kafka = Kafka::open(&config, "log-rates")?;
        println!("kafka");
        ends(&kafka, 6)?;
        ends(&kafka, 30)?;
        rates(&kafka, RECORDS)?;
        transactions(&kafka, 400)?;
    }
    Ok(())
}

fn topic(log: &dyn Log, name: &str, partitions: i32) -> Result<String> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let name = format!("log-rates.{}.{name}", since.as_millis());
    log.create(&[TopicSpec {
        name: name.clone(),
        partitions,
        replication_factor: None,
        config: BTreeMap::new(),
    }])?;
    Ok(name)
}

fn record(topic: &str, number: usize, partitions: usize) -> NewRecord {
    NewRecord {
        topic: topic.to_owned(),
        partition: i32::try_from(number % partitions).ok(),
        key: Some(format!("key-{}", number % 10_000).into_bytes()),
        value: Some(vec![b'x'; 200]),
        ..NewRecord::default()
    }
}

/// Asks for the ends of all partitions again and again.
fn ends(log: &dyn Log, partitions: i32) -> Result<()> {
    let topic = topic(log, "ends", partitions)?;
    let list: Vec<_> = (0..partitions)
        .map(|it| TopicPartition::new(topic.as_str(), it))
        .collect();
    log.ends(&list)?;
    let mut times = Vec::new();
    for _ in 0..3_000 {
        let began = Instant::now();
        log.ends(&list)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!(
        "  ends of {partitions} partitions: p50 {:?}, p99 {:?}",
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    Ok(())
}

/// Writes and reads back records of about 210 bytes in 6 partitions.
fn rates(log: &dyn Log, count: usize) -> Result<()> {
    let topic = topic(log, "rates", 6)?;
    let batches: Vec<Vec<NewRecord>> = (0..count / BATCH)
        .map(|batch| {
            (0..BATCH)
                .map(|it| record(&topic, batch * BATCH + it, 6))
                .collect()
        })
        .collect();
    let mut writer = log.writer()?;
    let began = Instant::now();
    for batch in &batches {
        writer.write(batch)?;
    }
    let written = began.elapsed();
    let mut reader = log.reader(Isolation::ReadCommitted)?;
    let starts: Vec<_> = (0..6)
        .map(|it| (TopicPartition::new(topic.as_str(), it), Start::Earliest))
        .collect();
    let began = Instant::now();
    reader.assign(&starts)?;
    let (mut read, mut bytes) = (0, 0);
    while read < count {
        read += reader.poll(Duration::from_secs(1), &mut |record| {
            bytes += record.value.map_or(0, <[u8]>::len);
        })?;
    }
    let took = began.elapsed();
    println!(
        "  {count} records: written in {written:?}, read in {took:?} ({bytes} bytes of values)"
    );
    Ok(())
}

/// Transactions of 500 records with the offset of one partition.
fn transactions(log: &dyn Log, count: u32) -> Result<()> {
    for partitions in [1, 6] {
        let topic = topic(log, &format!("tx{partitions}"), 6)?;
        let mut member = log.group(GroupOptions {
            group: format!("{topic}.group"),
            member: format!("{topic}.group.0"),
            topics: vec![topic.clone()],
        })?;
        let mut assigned = Vec::new();
        while assigned.is_empty() {
            member.poll(Duration::from_secs(1), &mut |event| {
                if let GroupEvent::Assigned(partitions) = event {
                    assigned = partitions.to_vec();
                }
            })?;
        }
        let at = assigned
            .first()
            .cloned()
            .ok_or_else(|| Error::UnknownTopic(topic.clone()))?;
        let mut writer = log.transactional(&format!("{topic}.group.0"))?;
        let records: Vec<_> = (0..BATCH)
            .map(|it| record(&topic, it, partitions))
            .collect();
        let mut times = Vec::new();
        let all = Instant::now();
        for round in 0..count {
            let began = Instant::now();
            let offset = Committed {
                offset: i64::from(round),
                metadata: "1:AAAA".to_owned(),
            };
            writer.transact(
                &records,
                Some((&member.metadata()?, &[(at.clone(), offset)])),
            )?;
            times.push(began.elapsed());
        }
        let all = all.elapsed();
        times.sort_unstable();
        println!(
            "  {count} transactions of {BATCH} records to {partitions} partition(s): {:.0} records/s, p50 {:?}, p99 {:?}",
            f64::from(count) * 500.0 / all.as_secs_f64(),
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
    Ok(())
}
