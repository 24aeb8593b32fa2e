//! Measures, now and then, how far a stage is behind the ends of its input logs.
//!
//! For metrics only; nothing of the stage waits for it.

use super::context::Context;
use super::life::Life;
use crate::metrics;
use headwater_engine::record::TopicPartition;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(10);

/// Measures until the stage ends.
pub(super) async fn measure(context: Arc<Context>, life: Arc<Life>) {
    let label = metrics::Stage {
        kind: context.kind_label(),
        name: context.name.clone(),
    };
    while tokio::time::timeout(EVERY, life.ended()).await.is_err() {
        let positions = life.board.positions();
        let log = Arc::clone(&context.services.log);
        let lag = tokio::task::spawn_blocking(move || {
            let (partitions, next): (Vec<TopicPartition>, Vec<i64>) = positions.into_iter().unzip();
            let ends = log.ends(&partitions)?;
            let lag = ends.iter().zip(next).map(|(end, next)| (end - next).max(0));
            Ok::<i64, crate::log::Error>(lag.sum())
        });
        // Where Kafka does not answer, the last value stands.
        if let Ok(Ok(lag)) = lag.await {
            context
                .services
                .metrics
                .lag_records
                .get_or_create(&label)
                .set(lag);
        }
    }
}
