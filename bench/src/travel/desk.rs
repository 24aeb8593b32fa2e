//! The desk on a broker: its topics, filled, and the agent's stage in this process.

use super::{Topics, data, stage};
use crate::Result;
use crate::bed::Bed;
use headwater_engine::model::{Reply, Request};
use headwater_runtime::model::{Error, Model};
use headwater_runtime::stage::{Handle, Services};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub struct Desk {
    pub topics: Topics,
    model: bool,
    limit: usize,
}

impl Desk {
    /// Makes the topics and writes what the views are made of. `partitions`: of the questions. `model`, `limit`: see [`stage`].
    pub fn open(bed: &mut Bed, partitions: i32, model: bool, limit: usize) -> Result<Self> {
        let compacted = [("cleanup.policy", "compact")];
        let mut topic =
            |name: &str, partitions, config: &[(&str, &str)]| bed.topic(name, partitions, config);
        let topics = Topics {
            customers: topic("customers", 1, &[])?,
            bookings: topic("bookings", 1, &[])?,
            flights: topic("flights", 1, &[])?,
            questions: topic("questions", partitions, &[])?,
            answers: topic("answers", 1, &[])?,
            journal: topic("journal", partitions, &compacted)?,
            runs: topic("runs", partitions, &[])?,
            dead: topic("dead", 1, &[])?,
            state: [
                topic("customers.state", 1, &compacted)?,
                topic("bookings.state", 1, &compacted)?,
                topic("flights.state", 1, &compacted)?,
            ],
        };
        bed.write(&topics.customers, data::customers())?;
        bed.write(&topics.bookings, data::bookings())?;
        bed.write(&topics.flights, data::flights())?;
        Ok(Self {
            topics,
            model,
            limit,
        })
    }

    /// Starts the agent's stage. Its model answers at once.
    pub fn start(&self, bed: &Bed, services: &Services) -> Result<Handle> {
        let mut services = services.clone();
        services.models.insert("chat".to_owned(), Arc::new(AtOnce));
        // Group and transactional ids are made from the namespace: no run meets another's.
        let namespace = &self.topics.questions;
        let stage = stage(
            namespace,
            &bed.bootstrap,
            &self.topics,
            self.model,
            self.limit,
        )?;
        Ok(headwater_runtime::stage::start(stage, 0, services)?)
    }
}

struct AtOnce;

impl Model for AtOnce {
    fn answer<'a>(
        &'a self,
        _: &'a Request,
        _: tokio::time::Instant,
    ) -> Pin<Box<dyn Future<Output = std::result::Result<Reply, Error>> + Send + 'a>> {
        Box::pin(std::future::ready(Ok(Reply {
            text: "You can still catch the flight at 14:20; it costs 120 EUR more.".to_owned(),
            finish_reason: "stop".to_owned(),
            ..Reply::default()
        })))
    }
}
