//! Looking into views: their figures, their keys, a value and where it comes from.
//!
//! A running `up` asks the stages that fold them; without stages in this process they are read from the log.

use super::{Gateway, find, now_ms};
use crate::control::{Look, Row, Seen, ViewFigures, Views};
use crate::dump;
use crate::error::Error;
use headwater_engine::config::{Fold, Input, Role, Stage, View};
use headwater_engine::key::Key;
use headwater_engine::names::{self, MARK_KEY, Owner};
use headwater_engine::time::rfc3339;
use headwater_engine::view::{Partition, Row as ViewRow};
use headwater_runtime::stage::look::{self, Held};
use serde_json::Value;
use std::collections::HashMap;

impl Gateway {
    /// Every view of the namespace, by name; of all namespaces where none is given.
    ///
    /// # Errors
    /// The log's.
    pub(crate) fn views(&self, asked: &Views) -> Result<Vec<ViewFigures>, Error> {
        let all = self.directory.views.iter();
        let asked_for = all.filter(|((namespace, _), _)| {
            asked
                .namespace
                .as_ref()
                .is_none_or(|other| other == namespace)
        });
        asked_for
            .map(|(id, stage)| match self.stage_look(id) {
                Some(look) => figures_of_stage(&id.0, &look),
                None => self.figures_of_log(&id.0, stage),
            })
            .collect()
    }

    /// Keys of a view, or the value of one.
    ///
    /// # Errors
    /// [`Error::Refused`] for a view or a key that there is not; the log's.
    pub(crate) fn look(&self, asked: &Look) -> Result<Seen, Error> {
        let (id, stage) = find(
            "view",
            &self.directory.views,
            asked.namespace.as_deref(),
            &asked.view,
        )?;
        let view = view_of(stage)?;
        let key = asked.key.as_deref().map(key).transpose()?;
        let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        let at = now_ms();
        let held = match (self.stage_look(id), &key) {
            (Some(look), Some(key)) => look.key(key, at).map_err(failed)?,
            (Some(look), None) => look.keys(limit, at).map_err(failed)?,
            (None, key) => {
                let states = self.snapshot(stage, view, key.as_ref())?;
                let states: Vec<(i32, &Partition)> = states
                    .iter()
                    .map(|(number, state)| (*number, state))
                    .collect();
                match key {
                    Some(key) => look::held(&states, key, at),
                    None => look::first(&states, limit, at),
                }
            }
        };
        if let Some(key) = key
            && held.is_empty()
        {
            return Err(Error::refused(format!(
                "view '{}' has no key '{}'; see its first keys with: headwater views {}",
                view.name,
                key.as_str(),
                view.name
            )));
        }
        Ok(Seen {
            view: view.name.clone(),
            generation: view.generation.clone(),
            fold: match view.fold {
                Fold::Latest { .. } => "latest",
                Fold::History { .. } => "history",
                Fold::Aggregate { .. } => "aggregate",
            }
            .to_owned(),
            input: view.input.topic().to_owned(),
            rows: held.into_iter().flat_map(rows).collect(),
        })
    }

    fn stage_look(&self, (namespace, name): &(String, String)) -> Option<look::Look> {
        self.stages.as_ref()?.look(namespace, name)
    }

    /// As of the last checkpoint: what a restart would begin with.
    fn figures_of_log(&self, namespace: &str, stage: &Stage) -> Result<ViewFigures, Error> {
        let view = view_of(stage)?;
        let mut sizes: HashMap<Vec<u8>, usize> = HashMap::new();
        dump::scan(&*self.log, &view.state_topic, &mut |record| {
            let Some(key) = record.key.filter(|key| *key != MARK_KEY) else {
                return;
            };
            match record.value {
                Some(value) => sizes.insert(key.to_vec(), key.len() + value.len()),
                None => sizes.remove(key),
            };
        })?;
        Ok(ViewFigures {
            namespace: namespace.to_owned(),
            name: view.name.clone(),
            generation: view.generation.clone(),
            ready: None,
            restored_percent: None,
            keys: sizes.len() as u64,
            bytes: sizes.values().sum::<usize>() as u64,
            records_per_second: None,
            behind: Some(self.behind(stage, view)?),
            behind_ms: None,
            dead_letters: None,
            problems: Vec::new(),
        })
    }

    /// Between the positions of the view's groups and the ends of their logs.
    fn behind(&self, stage: &Stage, view: &View) -> Result<u64, Error> {
        let group = |role: &str| {
            let generation = Some(view.generation.as_str());
            names::group(&stage.namespace, Owner::View, &view.name, generation, role)
        };
        let mut logs = vec![(group("fold"), view.input.topic().to_owned())];
        if let Input::Own { .. } = view.input {
            let sources = view
                .from
                .iter()
                .filter_map(|from| stage.sources.get(&from.source));
            logs.extend(sources.map(|source| (group("intake"), source.topic.clone())));
            logs.sort();
            logs.dedup();
        }
        let mut behind = 0;
        for (group, topic) in logs {
            let Some(partitions) = dump::partitions(&*self.log, &topic)? else {
                continue;
            };
            let committed = self.offsets.committed(&group, &partitions)?;
            let bounds = self.log.watermarks(&partitions)?;
            for partition in &partitions {
                let Some(bounds) = bounds.get(partition) else {
                    continue;
                };
                let next = match committed.get(partition) {
                    Some(Some(committed)) => committed.offset,
                    _ => bounds.low,
                };
                behind += bounds.high.saturating_sub(next).max(0).cast_unsigned();
            }
        }
        Ok(behind)
    }
}

fn figures_of_stage(namespace: &str, look: &look::Look) -> Result<ViewFigures, Error> {
    let status = look.status().map_err(failed)?;
    let view = status.view.unwrap_or_default();
    Ok(ViewFigures {
        namespace: namespace.to_owned(),
        name: look.view().name.clone(),
        generation: look.view().generation.clone(),
        ready: Some(status.ready),
        restored_percent: Some(view.restored_percent),
        keys: view.keys,
        bytes: view.bytes,
        records_per_second: Some(view.records_per_second),
        behind: view.behind,
        behind_ms: view.behind_ms,
        dead_letters: Some(status.dead_letters),
        problems: status
            .problems
            .into_iter()
            .map(|problem| format!("{}: {}", problem.reason, problem.message))
            .collect(),
    })
}

fn view_of(stage: &Stage) -> Result<&View, Error> {
    match &stage.role {
        Role::View { name } => stage.views.get(name),
        Role::Agent(_) => None,
    }
    .ok_or_else(|| Error::internal("the view's stage is not one"))
}

fn key(text: &str) -> Result<Key, Error> {
    match Key::from_bytes(text.as_bytes()) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(Error::refused("a key is not empty")),
        Err(fault) => Err(Error::refused(fault.message)),
    }
}

fn failed(error: look::Error) -> Error {
    Error::failed(error.to_string())
}

fn rows(held: Held) -> Vec<Row> {
    let row = |row: Option<ViewRow>| {
        let (value, position, time) = match row {
            Some(row) => (row.value, Some(row.position), Some(row.time)),
            None => (Value::Null, None, None),
        };
        Row {
            key: held.key.as_str().to_owned(),
            value,
            position: position.map(|position| position.to_string()),
            time: time.map(rfc3339),
            partition: held.partition,
            next: held.next,
        }
    };
    if held.rows.is_empty() {
        return vec![row(None)];
    }
    held.rows.iter().cloned().map(Some).map(row).collect()
}
