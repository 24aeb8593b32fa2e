//! A provider that is away holds the replica; one that refuses a single request does not.

use crate::bed::{Bed, DEADLINE, until};
use futures::FutureExt;
use futures::future::BoxFuture;
use headwater_engine::model::{Reply, Request};
use headwater_runtime::model::{Error, Model};
use headwater_runtime::stage::Handle;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// No connection while it is away; there, it refuses the prompt `500`.
#[derive(Default)]
struct Remote {
    away: AtomicBool,
    /// Requests in vain, while it was away.
    knocks: AtomicUsize,
    asking: AtomicUsize,
    most: AtomicUsize,
}

impl Remote {
    async fn say(&self, request: &Request) -> Result<Reply, Error> {
        let asking = self.asking.fetch_add(1, Ordering::SeqCst) + 1;
        sleep(Duration::from_millis(2)).await;
        self.asking.fetch_sub(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            // Those that began before anybody knew may be many.
            if self.knocks.fetch_add(1, Ordering::SeqCst) >= BURST {
                self.most.fetch_max(asking, Ordering::SeqCst);
            }
            return Err(Error::Connection {
                model: "chat".to_owned(),
                reason: "refused".to_owned(),
            });
        }
        if request.prompt() == "500" {
            return Err(Error::Status {
                model: "chat".to_owned(),
                status: 500,
                hint: "of this one".to_owned(),
                retry_after: None,
            });
        }
        Ok(Reply {
            text: "well".to_owned(),
            ..Reply::default()
        })
    }
}

impl Model for Remote {
    fn answer<'a>(
        &'a self,
        request: &'a Request,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Reply, Error>> {
        self.say(request).boxed()
    }
}

/// Runs at once.
const BURST: usize = 8;

fn remote(bed: &mut Bed) -> (Value, Arc<Remote>) {
    let model = bed.asks(Remote::default());
    let mut stage = bed.agent();
    let agent = &mut stage["role"]["agent"];
    agent["model"]["provider"] = json!({
        "openAi": {"baseUrl": "http://127.0.0.1:9/v1", "apiKeyFile": null, "headers": [], "query": {}},
    });
    agent["concurrency"] = json!(BURST);
    (stage, model)
}

fn is_away(handle: &Handle) -> bool {
    let problems = handle.status().problems;
    problems
        .iter()
        .any(|problem| problem.reason == "ModelUnavailable")
}

pub async fn a_provider_that_is_away_holds_the_runs_and_uses_none_of_their_attempts(mut bed: Bed) {
    const QUESTIONS: usize = 20;
    let (stage, model) = remote(&mut bed);
    model.away.store(true, Ordering::SeqCst);
    let agent = bed.started(&stage).await;
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("k{}", n % 10), &format!("q{n}"), ""))
        .collect();
    bed.writer().write(&questions).unwrap();
    // In vain more often than all attempts of all that run at once would allow for any of them.
    until(&agent, "away", |agent| {
        is_away(agent) && model.knocks.load(Ordering::SeqCst) >= BURST + 4
    })
    .await;
    assert_eq!(bed.read("agent.helper.dead").len(), 0);
    assert_eq!(bed.read("agent.helper.runs").len(), 0);
    model.away.store(false, Ordering::SeqCst);
    let mut answers = bed.follow("answers");
    let asked: BTreeSet<String> = answers
        .wait(QUESTIONS)
        .iter()
        .map(|seen| seen.value["asked"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(asked.len(), QUESTIONS);
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert!(!is_away(&agent));
    assert_eq!(model.most.load(Ordering::SeqCst), 1, "one asks at a time");
    for run in bed.read("agent.helper.runs") {
        assert_eq!(
            (&run.value["outcome"], &run.value["attempt"]),
            (&json!("Done"), &json!(1))
        );
    }
    agent.crash().await;
}

pub async fn another_model_answers_while_a_provider_is_away(bed: Bed) {
    const QUESTIONS: usize = 12;
    let mut stage = bed.agent();
    let model = &mut stage["role"]["agent"]["model"];
    let mut spare = model.clone();
    spare["name"] = json!("spare");
    model["provider"] = json!({
        "openAi": {"baseUrl": "http://127.0.0.1:9/v1", "apiKeyFile": null, "headers": [], "query": {}},
    });
    model["fallback"] = spare;
    let agent = bed.started(&stage).await;
    let questions: Vec<_> = (0..QUESTIONS)
        .map(|n| bed.question(&format!("k{n}"), &format!("q{n}"), ""))
        .collect();
    bed.writer().write(&questions).unwrap();
    for seen in bed.follow("answers").wait(QUESTIONS) {
        assert_eq!(seen.value["text"], "gate none turns 1");
    }
    let runs = bed.read("agent.helper.runs");
    assert_eq!(runs.len(), QUESTIONS);
    for run in runs {
        let model = &run.value["model"];
        assert_eq!(model["name"], "chat");
        assert_eq!(model["calls"][0]["answeredBy"], "spare");
    }
    assert!(!is_away(&agent));
    agent.crash().await;
}

pub async fn a_request_that_is_refused_while_others_are_answered_is_given_up(mut bed: Bed) {
    let (stage, _) = remote(&mut bed);
    let agent = bed.started(&stage).await;
    let mut writer = bed.writer();
    writer.write(&[bed.question("poison", "500", "")]).unwrap();
    let mut answers = bed.follow("answers");
    let begun = std::time::Instant::now();
    let mut asked = 0;
    while bed.read("agent.helper.dead").is_empty() {
        assert!(begun.elapsed() < DEADLINE, "it was never given up");
        writer
            .write(&[bed.question("fine", &format!("q{asked}"), "")])
            .unwrap();
        asked += 1;
        answers.wait(asked);
    }
    // Its key goes on.
    writer
        .write(&[bed.question("poison", "and now?", "")])
        .unwrap();
    answers.wait(asked + 1);
    let letters = bed.read("agent.helper.dead");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].headers["headwater-reason"], "ModelFailed");
    until(&agent, "idle", |agent| agent.caught_up(&*bed.log).unwrap()).await;
    assert!(!is_away(&agent));
    agent.crash().await;
}
