//! Dead letters: what a view or an agent refused, and feeding it to its source again.
//!
//! A record is fed again as it was: bytes, headers and timestamp, to the partition that it was in, so that it keeps its
//! place among the records of its key. A header says which position it was refused at, and a note in the dead-letter
//! topic where it went; so what was fed again before is seen, and is fed once more only if asked for.

use super::{Gateway, find, missing};
use crate::control::{Letter, Letters, Retried, Retry};
use crate::dump::{self, text_or_bytes};
use crate::error::Error;
use headwater_engine::config::{Role, Stage};
use headwater_engine::names::header;
use headwater_engine::record::{NewRecord, Position, Record};
use headwater_engine::time::rfc3339;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A letter with the bytes that it keeps.
struct Kept {
    /// What the dead-letter topic keys it by: the record's position.
    position: String,
    /// In the dead-letter topic.
    place: (i32, i64),
    refused_at: i64,
    reason: String,
    message: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    value_left_out: bool,
    /// The record's own.
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
    fed_again_from: Option<String>,
    fed_again_to: Option<String>,
}

impl Gateway {
    /// The newest letters of a resource, oldest first.
    ///
    /// # Errors
    /// [`Error::Refused`] for a resource or a letter that there is not; the log's.
    pub(crate) fn letters(&self, asked: &Letters) -> Result<Vec<Letter>, Error> {
        let (_, topic) = self.dead_topic(asked.namespace.as_deref(), &asked.resource)?;
        let mut kept = self.kept(&topic)?;
        if let Some(position) = &asked.position {
            let one = kept.into_iter().find(|letter| letter.position == *position);
            let one = one.ok_or_else(|| no_letter(&asked.resource, position))?;
            return Ok(vec![one.shown()]);
        }
        let limit = usize::try_from(asked.limit).unwrap_or(usize::MAX);
        kept.drain(..kept.len().saturating_sub(limit));
        Ok(kept.iter().map(Kept::shown).collect())
    }

    /// Feeds letters to their sources again, in the order of their positions.
    ///
    /// # Errors
    /// As [`Gateway::letters`]; what was fed before an error stays fed, and is noted.
    pub(crate) fn retry(&self, asked: &Retry) -> Result<Vec<Retried>, Error> {
        let (stage, topic) = self.dead_topic(asked.namespace.as_deref(), &asked.resource)?;
        let sources = source_topics(stage);
        let mut kept = self.kept(&topic)?;
        if let Some(position) = &asked.position {
            kept.retain(|letter| letter.position == *position);
            if kept.is_empty() {
                return Err(no_letter(&asked.resource, position));
            }
        }
        // So that the records of a key come in the order that they came in.
        kept.sort_by_cached_key(|letter| letter.position.parse::<Position>().ok());
        kept.into_iter()
            .map(|letter| self.feed_again(letter, &topic, &sources, asked.again))
            .collect()
    }

    fn feed_again(
        &self,
        letter: Kept,
        dead_topic: &str,
        sources: &BTreeSet<&str>,
        again: bool,
    ) -> Result<Retried, Error> {
        let left = |why: String| {
            Ok(Retried {
                position: letter.position.clone(),
                fed_to: None,
                left: Some(why),
            })
        };
        if let Some(to) = &letter.fed_again_to
            && !again
        {
            return left(format!(
                "it was fed again before, to {to}; with --again it is fed once more"
            ));
        }
        if letter.value_left_out {
            return left(
                "its value was too large to be kept beside the reason; read it at its position while the source has it".to_owned(),
            );
        }
        let Some(position) = letter
            .position
            .parse::<Position>()
            .ok()
            .filter(|position| sources.contains(&*position.topic))
        else {
            return left(
                "it was refused in a log of the view's own, which nobody else writes to; mend the view, and send the event again".to_owned(),
            );
        };
        let mut headers = letter.headers;
        headers.retain(|(name, _)| name != header::RETRIED);
        headers.push((
            header::RETRIED.to_owned(),
            Some(letter.position.clone().into_bytes()),
        ));
        let written = self.write(&NewRecord {
            topic: position.topic.to_string(),
            partition: Some(position.partition),
            key: letter.key,
            value: letter.value,
            headers,
            timestamp: letter.timestamp,
        })?;
        self.write(&NewRecord {
            topic: dead_topic.to_owned(),
            partition: Some(letter.place.0),
            key: Some(letter.position.clone().into_bytes()),
            value: None,
            headers: vec![(
                header::RETRIED.to_owned(),
                Some(written.to_string().into_bytes()),
            )],
            timestamp: None,
        })?;
        Ok(Retried {
            position: letter.position,
            fed_to: Some(written.to_string()),
            left: None,
        })
    }

    /// Every letter of a topic, each record's once, in the order in which they were refused last.
    fn kept(&self, topic: &str) -> Result<Vec<Kept>, Error> {
        let mut letters: BTreeMap<String, Kept> = BTreeMap::new();
        let found = dump::scan(&*self.log, topic, &mut |record| {
            let Some(key) = record.key.map(text) else {
                return;
            };
            match (Kept::of(&key, record), letters.get_mut(&key)) {
                (Some(letter), former) => {
                    let fed = former.and_then(|former| former.fed_again_to.take());
                    let letter = Kept {
                        fed_again_to: fed,
                        ..letter
                    };
                    letters.insert(key, letter);
                }
                (None, Some(letter)) => {
                    letter.fed_again_to = record.header(header::RETRIED).map(text)
                }
                (None, None) => {}
            }
        })?;
        if !found {
            return Err(missing(topic));
        }
        let mut letters: Vec<Kept> = letters.into_values().collect();
        letters.sort_by_key(|letter| letter.place);
        Ok(letters)
    }

    fn dead_topic(
        &self,
        namespace: Option<&str>,
        resource: &str,
    ) -> Result<(&Stage, String), Error> {
        let (_, stage) = self.stage_of(namespace, resource)?;
        let topic = match &stage.role {
            Role::View { name } => stage.views.get(name).map(|view| view.dead_topic.clone()),
            Role::Agent(agent) => Some(agent.topics.dead.clone()),
        };
        let topic = topic.ok_or_else(|| Error::internal("the view's stage is not one"))?;
        Ok((stage, topic))
    }

    /// The stage of `view/NAME` or `agent/NAME`, with its namespace and name.
    pub(super) fn stage_of(
        &self,
        namespace: Option<&str>,
        resource: &str,
    ) -> Result<(&(String, String), &Stage), Error> {
        match resource.split_once('/') {
            Some(("view", name)) => find("view", &self.directory.views, namespace, name),
            Some(("agent", name)) => find("agent", &self.directory.agents, namespace, name),
            _ => Err(Error::refused(format!(
                "'{resource}' is no resource here: write view/NAME or agent/NAME"
            ))),
        }
    }
}

impl Kept {
    /// `None` for a record that is no letter: a note of where one went.
    fn of(key: &str, record: &Record<'_>) -> Option<Self> {
        // Whatever headers the record had come before those that say why.
        let own = record
            .headers
            .iter()
            .rposition(|(name, _)| *name == header::REASON)?;
        let (headers, why) = record.headers.split_at(own);
        let of = |headers: &[(&str, Option<&[u8]>)], wanted: &str| {
            let found = headers.iter().rev().find(|(name, _)| *name == wanted);
            found.and_then(|(_, value)| value.map(<[u8]>::to_vec))
        };
        let said = |wanted: &str| {
            of(why, wanted)
                .map(|bytes| text(&bytes))
                .unwrap_or_default()
        };
        Some(Self {
            position: key.to_owned(),
            place: (record.partition, record.offset),
            refused_at: record.timestamp,
            reason: said(header::REASON),
            message: said(header::MESSAGE),
            key: of(why, header::KEY),
            value: record.value.map(<[u8]>::to_vec),
            value_left_out: why.iter().any(|(name, _)| *name == header::NO_VALUE),
            timestamp: said(header::TIMESTAMP).parse().ok().filter(|ms| *ms >= 0),
            fed_again_from: of(headers, header::RETRIED).map(|bytes| text(&bytes)),
            fed_again_to: None,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        })
    }

    fn shown(&self) -> Letter {
        let show = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or(Value::Null, text_or_bytes);
        Letter {
            position: self.position.clone(),
            refused_at: rfc3339(self.refused_at),
            reason: self.reason.clone(),
            message: self.message.clone(),
            key: show(&self.key),
            value: show(&self.value),
            value_left_out: self.value_left_out,
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.clone(), show(value)))
                .collect(),
            timestamp: self.timestamp.map(rfc3339),
            fed_again_from: self.fed_again_from.clone(),
            fed_again_to: self.fed_again_to.clone(),
        }
    }
}

fn source_topics(stage: &Stage) -> BTreeSet<&str> {
    stage
        .sources
        .values()
        .map(|source| source.topic.as_str())
        .collect()
}

fn no_letter(resource: &str, position: &str) -> Error {
    Error::refused(format!(
        "there is no dead letter of {resource} for '{position}'; list them with: headwater dead-letters {resource}"
    ))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
