//! The view stage: writes a view's input log where it needs one of its own, folds it, and checkpoints.
//!
//! Readers do not wait for it: they fold the same input log themselves. It makes their restore short,
//! and it keeps the dead letters of what the view refuses.

mod fold;
mod intake;

use super::life::Life;
use super::reading::partitions;
use super::{Context, Error, Parts};
use fold::Fold;
use headwater_engine::config::{Input, View};
use headwater_engine::view::Definition;
use headwater_engine::view::intake::Intake;
use std::sync::Arc;

/// Compiles the view and says which loops its stage has.
pub(super) fn parts(context: &Arc<Context>, view: &View) -> Result<Parts, Error> {
    let definition = Definition::compile(view, &context.config.sources)?;
    let mut parts: Parts = Vec::new();
    if let Input::Own { topic } = &view.input {
        let (context, view, topic) = (Arc::clone(context), view.clone(), topic.clone());
        let definition = Arc::clone(&definition);
        parts.push((
            "intake",
            Box::new(move |life: Arc<Life>| {
                let counts = partitions(&*context.services.log, &life, &[topic])?;
                let count = counts.first().copied().unwrap_or(1);
                match Intake::new(definition, count) {
                    Some(intake) => intake::Loop::new(context, life, view, intake).run(),
                    None => Ok(()),
                }
            }),
        ));
    }
    let (context, view) = (Arc::clone(context), view.clone());
    parts.push((
        "fold",
        Box::new(move |life: Arc<Life>| {
            let topics = [view.input.topic().to_owned(), view.state_topic.clone()];
            partitions(&*context.services.log, &life, &topics)?;
            Fold::new(context, life, view, definition).run()
        }),
    ));
    Ok(parts)
}
