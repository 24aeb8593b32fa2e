//! Events folded per CPU-second, over what a bare librdkafka consumer reads per CPU-second from the same topic,
//! and over what Kafka Streams folds.

use crate::bed::Bed;
use crate::data;
use crate::measure::{cpu_of, load, median};
use crate::{Result, streams};
use headwater_engine::record::TopicPartition;
use headwater_engine::view::{Definition, Folded, Partition, fold_each};
use headwater_runtime::log::{Isolation, Log, Start, kafka::Kafka};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const EVENTS: usize = 1_000_000;
pub const KEYS: usize = 100_000;
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run() -> Result<()> {
    let mut bed = Bed::new()?;
    let topic = bed.topic("fold", 1, &[])?;
    let bytes = bed.fill(&topic, 0..EVENTS, KEYS)?;
    println!(
        "{EVENTS} events of {} B, {KEYS} keys, one partition; filter and key in CEL; {ROUNDS} rounds, medians; load {}",
        bytes / EVENTS,
        load()
    );
    let latest = [data::definition(&topic, &data::latest())?];
    let three = [
        Arc::clone(&latest[0]),
        data::definition(&topic, &data::history())?,
        data::definition(&topic, &data::aggregate())?,
    ];
    let (mut bare, mut ours_latest, mut ours_three) = (Vec::new(), Vec::new(), Vec::new());
    let mut ratios = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let ((), cpu) = cpu_of(|| consume(&bed.bootstrap, &topic, 0, EVENTS))?;
        let of_bare = rate(cpu);
        bare.push(of_bare);
        let ((), cpu) = cpu_of(|| fold(&bed.kafka, &topic, &latest))?;
        ours_latest.push(rate(cpu));
        ratios.0.push(rate(cpu) / of_bare);
        let ((), cpu) = cpu_of(|| fold(&bed.kafka, &topic, &three))?;
        ours_three.push(rate(cpu));
        ratios.1.push(rate(cpu) / of_bare);
    }
    let (ours_latest, ours_three) = (median(ours_latest), median(ours_three));
    println!("events per CPU-second                              ratio to bare");
    println!("bare librdkafka consumer         {:>9.0}", median(bare));
    println!(
        "headwater, latest                {ours_latest:>9.0}   {:>9.2}",
        median(ratios.0)
    );
    println!(
        "headwater, latest+last 20+aggregate {ours_three:>6.0}   {:>9.2}",
        median(ratios.1)
    );
    for (load, ours) in [("latest", ours_latest), ("three", ours_three)] {
        match streams::run(&mut bed, load)? {
            Some(cpu) => println!(
                "kafka streams, {load:<7}           {:>9.0}   headwater is {:.1} times as fast",
                rate(cpu),
                ours / rate(cpu)
            ),
            None => println!("kafka streams is left out: it wants Java 17 and Maven"),
        }
    }
    Ok(())
}

fn rate(cpu: Duration) -> f64 {
    EVENTS as f64 / cpu.as_secs_f64()
}

/// Reads so many records and looks at nothing but their lengths.
pub fn consume(bootstrap: &str, topic: &str, partition: i32, records: usize) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "never-used")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    consumer.assign(&assignment)?;
    let mut bytes = 0;
    for _ in 0..records {
        let message = consumer.poll(PATIENCE).ok_or("the topic ended early")??;
        bytes += message.payload_len();
    }
    std::hint::black_box(bytes);
    Ok(())
}

/// Folds the topic into a partition of each view, as a stage does.
fn fold(kafka: &Kafka, topic: &str, definitions: &[Arc<Definition>]) -> Result<()> {
    let mut states: Vec<Partition> = definitions
        .iter()
        .map(|definition| Partition::new(Arc::clone(definition), 0))
        .collect();
    let mut states: Vec<&mut Partition> = states.iter_mut().collect();
    let mut reader = kafka.reader(Isolation::ReadCommitted)?;
    reader.assign(&[(TopicPartition::new(topic, 0), Start::Earliest)])?;
    let (mut read, mut faults) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    while read < EVENTS {
        // Nothing may come although there is more, where only a position moved.
        read += reader.poll(PATIENCE, &mut |record| {
            let mut took = |_, folded: Folded| faults += usize::from(folded.fault.is_some());
            fold_each(&mut states, record, &mut took);
        })?;
        if Instant::now() > deadline {
            return Err(format!("{read} events after {PATIENCE:?}").into());
        }
    }
    let wrong = states.iter().find(|state| state.keys() != data::kept(KEYS));
    match wrong {
        _ if faults > 0 => Err(format!("{faults} events were refused").into()),
        Some(state) => Err(format!("a view holds {} keys", state.keys()).into()),
        None => Ok(()),
    }
}
