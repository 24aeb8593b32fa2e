//! The view stage: writes a view's input log where it needs one of its own, folds it, and checkpoints.
//!
//! Readers do not wait for it: they fold the same input log themselves. It makes their restore short,
//! and it keeps the dead letters of what the view refuses.

mod fold;

use super::held::{Folder, Held};
use super::intake::{self, Joins};
use super::life::Life;
use super::look::{Desk, Mailbox};
use super::reading::partitions;
use super::serve::Rows;
use super::{Context, Error, Parts};
use fold::Fold;
use headwater_engine::config::{Input, View};
use headwater_engine::fault::leave_out_value;
use headwater_engine::names::{self, Owner};
use headwater_engine::record::NewRecord;
use headwater_engine::view::Definition;
use headwater_engine::view::intake::Intake;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Compiles the view and says which loops its stage has.
pub(super) fn parts(context: &Arc<Context>, view: &View) -> Result<(Parts, Option<Desk>), Error> {
    let definition = Definition::compile(view, &context.config.sources)?;
    let mut parts: Parts = Vec::new();
    if let Input::Own { topic } = &view.input {
        let (context, view, topic) = (Arc::clone(context), view.clone(), topic.clone());
        let definition = Arc::clone(&definition);
        let held = joined(&context, &definition)?.map(Arc::new);
        if let Some(held) = held.clone() {
            let context = Arc::clone(&context);
            parts.push((
                "views",
                Box::new(move |life| Folder::new(context, life, held).run()),
            ));
        }
        parts.push((
            "intake",
            Box::new(move |life: Arc<Life>| {
                let counts = partitions(&*context.services.log, &life, &[topic])?;
                let count = counts.first().copied().unwrap_or(1);
                let entries = definition.source_topics().map(str::to_owned).collect();
                match Intake::new(definition, count) {
                    Some(intake) => {
                        let joins = held
                            .map(|held| Joins::new(Arc::clone(&context), Arc::clone(&life), held));
                        let task = task(&context, &view, entries, count);
                        intake::Loop::new(context, life, task, Box::new(intake), joins).run()
                    }
                    None => Ok(()),
                }
            }),
        ));
    }
    let (questions, mailbox) = Mailbox::new();
    let rows = served(context, view, &definition)?;
    if let Some((rows, held)) = rows.clone() {
        let context = Arc::clone(context);
        parts.push((
            "rows",
            Box::new(move |life: Arc<Life>| {
                rows.begin(&life)?;
                Folder::new(context, life, held).named("rows").run()
            }),
        ));
    }
    let desk = Desk {
        view: view.clone(),
        questions,
        rows: rows.map(|(rows, _)| rows),
    };
    let (context, view) = (Arc::clone(context), view.clone());
    parts.push((
        "fold",
        Box::new(move |life: Arc<Life>| {
            let topics = [view.input.topic().to_owned(), view.state_topic.clone()];
            let counts = partitions(&*context.services.log, &life, &topics)?;
            let count = counts.last().copied().unwrap_or(0);
            Fold::new(context, life, view, definition, count, mailbox).run()
        }),
    ));
    Ok((parts, Some(desk)))
}

/// From where to where the view's intake goes.
fn task(context: &Context, view: &View, entries: Vec<String>, partitions: i32) -> intake::Task {
    let sources: BTreeSet<&str> = view
        .from
        .iter()
        .filter_map(|from| context.config.sources.get(&from.source))
        .map(|source| source.topic.as_str())
        .collect();
    intake::Task {
        group: names::group(
            &context.config.namespace,
            Owner::View,
            &view.name,
            Some(&view.generation),
            "intake",
        ),
        sources: sources.into_iter().map(str::to_owned).collect(),
        entries,
        topic: view.input.topic().to_owned(),
        partitions,
        dead_topic: view.dead_topic.clone(),
        journal: None,
        begin: intake::Begin::Earliest,
    }
}

/// The whole view, to be held here and read by others; `None` where it is not served.
fn served(
    context: &Arc<Context>,
    view: &View,
    definition: &Arc<Definition>,
) -> Result<Option<(Rows, Arc<Held>)>, Error> {
    let Some(serve) = &view.serve else {
        return Ok(None);
    };
    let whole = (view.clone(), Arc::clone(definition));
    let held = Arc::new(Held::new(BTreeMap::from([(view.name.clone(), whole)])));
    let rows = Rows::new(context, view, serve, Arc::clone(&held))?;
    Ok(Some((rows, held)))
}

/// The views that the view joins, to be held here; `None` where it joins none.
fn joined(context: &Context, definition: &Definition) -> Result<Option<Held>, Error> {
    let mut definitions = BTreeMap::new();
    for name in definition.joined_views() {
        let Some(view) = context.config.views.get(name) else {
            return Err(Error::UnknownView {
                view: name.to_owned(),
            });
        };
        let definition = Definition::compile(view, &context.config.sources)?;
        definitions.insert(name.to_owned(), (view.clone(), definition));
    }
    Ok((!definitions.is_empty()).then(|| Held::new(definitions)))
}

/// What becomes of a batch's record that Kafka will never take. A dead letter may be larger than its topic allows, by the headers that
/// say why: it goes without its value then. A value that was projected or folded fits.
fn without_value(view: &View, record: Option<&mut NewRecord>, reason: String) -> Result<(), Error> {
    match record {
        Some(record) if record.topic == view.dead_topic && record.value.is_some() => {
            tracing::warn!(reason, "a dead letter is written without its value");
            leave_out_value(record);
            Ok(())
        }
        _ => Err(Error::CheckpointRefused {
            view: view.name.clone(),
            reason,
        }),
    }
}
