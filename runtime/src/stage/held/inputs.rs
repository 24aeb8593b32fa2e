//! The partitions of input logs that a folding thread reads, and which of its views fold each.

use headwater_engine::record::{Record, TopicPartition};

/// Sorted by topic and partition.
#[derive(Default)]
pub(super) struct Inputs {
    all: Vec<Input>,
    /// Where the last record was found: the next is of the same partition, mostly.
    last: usize,
}

pub(super) struct Input {
    pub(super) at: TopicPartition,
    pub(super) views: Vec<Reading>,
    /// Caught up once this offset is here.
    pub(super) target: i64,
    /// Stands still at the record of this offset, which a view refused.
    pub(super) stopped: Option<i64>,
}

/// One view of an input.
pub(super) struct Reading {
    /// The view's place.
    pub(super) view: usize,
    /// Stands still at a record that it refuses.
    pub(super) stops: bool,
}

impl Inputs {
    /// All partitions of a view's input log.
    pub(super) fn add(&mut self, topic: &str, partitions: i32, view: usize, stops: bool) {
        for partition in 0..partitions {
            let at = TopicPartition::new(topic, partition);
            let place = match self.all.binary_search_by(|input| input.at.cmp(&at)) {
                Ok(place) => place,
                Err(place) => {
                    let input = Input {
                        at,
                        views: Vec::new(),
                        target: 0,
                        stopped: None,
                    };
                    self.all.insert(place, input);
                    place
                }
            };
            self.all[place].views.push(Reading { view, stops });
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Input> {
        self.all.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Input> {
        self.all.iter_mut()
    }

    pub(super) fn of(&mut self, record: &Record<'_>) -> Option<(usize, &Input)> {
        let is = |input: &Input| {
            input.at.partition == record.partition && *input.at.topic == *record.topic
        };
        if !self.all.get(self.last).is_some_and(is) {
            let wanted = (record.topic, record.partition);
            self.last = self
                .all
                .binary_search_by(|input| (&*input.at.topic, input.at.partition).cmp(&wanted))
                .ok()?;
        }
        Some((self.last, &self.all[self.last]))
    }

    pub(super) fn stop(&mut self, place: usize, offset: i64) {
        if let Some(input) = self.all.get_mut(place) {
            input.stopped = Some(offset);
        }
    }

    pub(super) fn any_stopped(&self) -> bool {
        self.all.iter().any(|input| input.stopped.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_the_views_that_read_its_partition() {
        let mut inputs = Inputs::default();
        inputs.add("b", 2, 0, false);
        inputs.add("a", 1, 1, true);
        inputs.add("b", 2, 2, true);
        let record = |topic: &'static str, partition| Record {
            topic,
            partition,
            offset: 0,
            timestamp: 0,
            key: None,
            value: None,
            headers: &[],
        };
        let mut of = |topic, partition| {
            let (_, input) = inputs.of(&record(topic, partition))?;
            let views = input
                .views
                .iter()
                .map(|reading| (reading.view, reading.stops));
            Some(views.collect::<Vec<_>>())
        };
        for _ in 0..2 {
            assert_eq!(of("b", 1), Some(vec![(0, false), (2, true)]));
            assert_eq!(of("a", 0), Some(vec![(1, true)]));
            assert_eq!(of("a", 1), None);
            assert_eq!(of("c", 0), None);
            assert_eq!(of("b", 0), Some(vec![(0, false), (2, true)]));
        }
    }
}
