//! The brokers of the bed: shared by all, or private and then ours to disturb.

use std::net::TcpStream;

use headwater_testbed::{Kafka, Result};

fn answers(kafka: &Kafka) -> bool {
    TcpStream::connect(kafka.bootstrap()).is_ok()
}

#[test]
fn shared_broker_answers_and_is_the_same_for_all() -> Result<()> {
    let addresses: Vec<String> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..3)
            .map(|_| scope.spawn(headwater_testbed::kafka))
            .collect();
        starts
            .into_iter()
            .map(|start| {
                start
                    .join()
                    .unwrap()
                    .map(|kafka| kafka.bootstrap().to_owned())
            })
            .collect::<Result<_>>()
    })?;
    assert_eq!(addresses[0], addresses[1]);
    assert_eq!(addresses[0], addresses[2]);
    assert!(answers(&headwater_testbed::kafka()?));
    Ok(())
}

#[test]
fn private_broker_can_be_killed_and_started_again_on_its_port() -> Result<()> {
    let kafka = Kafka::private()?;
    let other = Kafka::private()?;
    assert_ne!(kafka.bootstrap(), other.bootstrap());
    assert!(answers(&kafka) && answers(&other));

    kafka.kill()?;
    assert!(!answers(&kafka));
    assert!(answers(&other));

    kafka.start()?;
    assert!(answers(&kafka));

    kafka.restart()?;
    assert!(answers(&kafka));

    let address = kafka.bootstrap().to_owned();
    drop(kafka);
    assert!(TcpStream::connect(address).is_err());
    Ok(())
}
