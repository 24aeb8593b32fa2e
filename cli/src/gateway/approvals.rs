//! What runs ask people, and their answers: read from and written to the agents' approvals topics.
//!
//! An answer is written beside its question and then looked for: it counts only if it is the first, and the log took it in
//! time. Who answers is the user that this process belongs to; the door of an `up` lets in nobody else.

use super::{Gateway, PREFIX_MIN, find, now_ms};
use crate::control::{Decide, Decided, Open, Question};
use crate::dump;
use crate::error::Error;
use headwater_engine::approval::{Answer, Answered, Asked, Entry};
use headwater_engine::config::{self, Role};
use headwater_engine::time::rfc3339;
use std::collections::BTreeMap;

/// A question, and the first answer to it.
struct Held {
    asked: Asked,
    partition: i32,
    /// With its offset and the time that the log has of it.
    answer: Option<(i64, i64, Answer)>,
}

impl Gateway {
    /// The questions that nobody has answered and that can be, the oldest first.
    ///
    /// # Errors
    /// [`Error::Refused`] for an agent that there is not; the log's.
    pub(crate) fn questions(&self, open: &Open) -> Result<Vec<Question>, Error> {
        let mut questions = Vec::new();
        for topic in self.topics(open.namespace.as_deref(), open.agent.as_deref())? {
            let held = self.held(&topic)?;
            let now = now_ms();
            let waiting = held.into_values().filter(|held| held.waits(now));
            questions.extend(waiting.map(|held| held.asked));
        }
        questions.sort_by(|a, b| (a.asked_at, &a.approval).cmp(&(b.asked_at, &b.approval)));
        Ok(questions.into_iter().map(Question::from).collect())
    }

    /// What the run of this id, or of one that begins so, waits for.
    ///
    /// # Errors
    /// The log's.
    pub(super) fn asked_by(&self, agent: &str, run: &str) -> Result<Option<Question>, Error> {
        let open = Open {
            namespace: None,
            agent: None,
        };
        let mut questions = self.questions(&open)?.into_iter();
        Ok(questions.find(|question| question.agent == agent && question.run.starts_with(run)))
    }

    /// Answers one of them.
    ///
    /// # Errors
    /// [`Error::Refused`] for a question that there is not, or that is settled; the log's.
    pub(crate) fn answer_question(&self, decide: &Decide) -> Result<Decided, Error> {
        let (topic, question) = self.question(decide)?;
        let id = question.asked.approval.clone();
        question.settled(now_ms())?;
        let answer = Answer {
            approve: decide.approve,
            by: user(),
            reason: decide.reason.clone(),
        };
        let record = Entry::Answer(answer).record(&topic, question.partition, &id);
        let record = record.map_err(|fault| Error::internal(fault.to_string()))?;
        let written = self.write(&record)?;
        // Another may have been first.
        let after = self.held(&topic)?.remove(&id);
        let after = after.ok_or_else(|| Error::internal("the question is gone"))?;
        match &after.answer {
            Some((offset, _, answer)) if *offset == written.offset => {
                let answered = after.answered();
                if answered == Some(Answered::Expired) {
                    return Err(over(&after.asked));
                }
                Ok(Decided {
                    by: answer.by.clone(),
                    approved: answer.approve,
                    question: after.asked.into(),
                })
            }
            _ => Err(after
                .settled(now_ms())
                .err()
                .unwrap_or_else(|| Error::internal("the log does not have the answer"))),
        }
    }

    /// The question that is meant, with its topic.
    fn question(&self, decide: &Decide) -> Result<(String, Held), Error> {
        let wanted = &decide.approval;
        let mut found = Vec::new();
        for topic in self.topics(decide.namespace.as_deref(), None)? {
            let held = self.held(&topic)?.into_iter();
            let meant = held.filter(|(id, _)| {
                id == wanted || wanted.len() >= PREFIX_MIN && id.starts_with(wanted.as_str())
            });
            found.extend(meant.map(|(_, held)| (topic.clone(), held)));
        }
        if let Some(exact) = found
            .iter()
            .position(|(_, held)| held.asked.approval == *wanted)
        {
            return Ok(found.swap_remove(exact));
        }
        let now = now_ms();
        if found.len() > 1 {
            found.retain(|(_, held)| held.waits(now));
        }
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => Err(Error::refused(format!(
                "several questions begin with '{wanted}'; give more of the id"
            ))),
            (None, _) => Err(Error::refused(format!(
                "nobody asks for the approval '{wanted}'; list what waits with: headwater approvals"
            ))),
        }
    }

    /// The approvals topics of agents.
    fn topics(&self, namespace: Option<&str>, agent: Option<&str>) -> Result<Vec<String>, Error> {
        let agents = &self.directory.agents;
        let topic = |role: &Role| match role {
            Role::Agent(agent) => agent.topics.approvals.clone(),
            Role::View { .. } => None,
        };
        if let Some(name) = agent {
            let (_, stage) = find("agent", agents, namespace, name)?;
            return topic(&stage.role).map(|topic| vec![topic]).ok_or_else(|| {
                Error::refused(format!(
                    "no rule of agent '{name}' asks a person: none of its policy has action: RequireApproval"
                ))
            });
        }
        let of = |((other, _), stage): (&(String, String), &config::Stage)| {
            namespace
                .is_none_or(|namespace| namespace == other)
                .then(|| topic(&stage.role))?
        };
        Ok(agents.iter().filter_map(of).collect())
    }

    /// All questions of a topic by id; none where it is not there yet.
    fn held(&self, topic: &str) -> Result<BTreeMap<String, Held>, Error> {
        let mut held: BTreeMap<String, Held> = BTreeMap::new();
        dump::scan(
            &*self.log,
            topic,
            &mut |record| match (Entry::read(record), record.partition) {
                (Some((id, Entry::Asked(asked))), partition) => {
                    held.entry(id.to_owned()).or_insert(Held {
                        asked,
                        partition,
                        answer: None,
                    });
                }
                (Some((id, Entry::Answer(answer))), _) => {
                    if let Some(held) = held.get_mut(id) {
                        held.answer
                            .get_or_insert((record.offset, record.timestamp, answer));
                    }
                }
                (None, _) => {}
            },
        )?;
        Ok(held)
    }
}

impl Held {
    fn waits(&self, now: i64) -> bool {
        self.answer.is_none() && now <= self.asked.expires_at
    }

    fn answered(&self) -> Option<Answered> {
        let (_, taken_at, answer) = self.answer.as_ref()?;
        Some(Answered::of(answer, *taken_at, self.asked.expires_at))
    }

    /// That it can still be answered.
    fn settled(&self, now: i64) -> Result<(), Error> {
        let asked = &self.asked;
        match self.answered() {
            Some(Answered::By(answer)) => {
                let did = if answer.approve { "approved" } else { "denied" };
                Err(Error::refused(format!(
                    "{} {did} {} already: the first answer counts",
                    answer.by, asked.approval
                )))
            }
            Some(Answered::Expired) => Err(over(asked)),
            None if now > asked.expires_at => Err(over(asked)),
            None => Ok(()),
        }
    }
}

fn over(asked: &Asked) -> Error {
    Error::refused(format!(
        "{} could be answered until {}, and was denied by then as nobody did",
        asked.approval,
        rfc3339(asked.expires_at)
    ))
}

/// Whose process this is.
fn user() -> String {
    let name = |variable| std::env::var(variable).ok().filter(|name| !name.is_empty());
    name("USER")
        .or_else(|| name("LOGNAME"))
        .unwrap_or_else(|| "a user of this machine".to_owned())
}

impl From<Asked> for Question {
    fn from(asked: Asked) -> Self {
        let (namespace, agent) = match asked.agent.split_once('/') {
            Some((namespace, agent)) => (namespace.to_owned(), agent.to_owned()),
            None => (String::new(), asked.agent),
        };
        Self {
            approval: asked.approval,
            namespace,
            agent,
            run: asked.run,
            rule: asked.rule,
            message: asked.message,
            tool: asked.tool,
            arguments: asked.arguments,
            asked_at: rfc3339(asked.asked_at),
            expires_at: rfc3339(asked.expires_at),
        }
    }
}
