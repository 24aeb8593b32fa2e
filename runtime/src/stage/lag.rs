//! Measures, now and then, how far a stage is behind the ends of its input logs.
//!
//! For metrics and the status only; nothing of the stage waits for it. Partitions that stand still count: who
//! reads the view lacks what they hold.

use super::context::Context;
use super::life::Life;
use super::status::Board;
use crate::log::{self, Log};
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
        let log = Arc::clone(&context.services.log);
        let board = Arc::clone(&life.board);
        let behind = tokio::task::spawn_blocking(move || behind(&*log, &board));
        // Where Kafka does not answer, the last value stands.
        if let Ok(Ok(behind)) = behind.await {
            context
                .services
                .metrics
                .lag_records
                .get_or_create(&label)
                .set(i64::try_from(behind).unwrap_or(i64::MAX));
        }
    }
}

/// Offsets between what is processed and the ends of the input logs; noted in the status too.
///
/// # Errors
/// When the log does not say where it ends.
pub(super) fn behind(log: &dyn Log, board: &Board) -> log::Result<u64> {
    let (partitions, next): (Vec<TopicPartition>, Vec<i64>) =
        board.all_positions().into_iter().unzip();
    let ends = log.ends(&partitions)?;
    let behind = ends
        .iter()
        .zip(next)
        .map(|(end, next)| end.saturating_sub(next).max(0).cast_unsigned())
        .sum();
    board.measured(behind);
    Ok(behind)
}
