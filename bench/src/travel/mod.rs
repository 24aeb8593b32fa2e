//! A travel desk as applications have them: customers, their bookings, flights; and the agent that answers their questions from all three.
//!
//! Prompts of the `assemble`, `runs` and `answer` benchmarks are made from it: some 7 kB, of 35 rows with the usual limit.

pub mod data;
#[cfg(feature = "kafka")]
pub mod desk;

use crate::Result;
use headwater_engine::config::Stage;
use serde_json::{Value, json};

pub const CUSTOMERS: usize = 10_000;
pub const BOOKINGS: usize = 30_000;
pub const FLIGHTS: usize = 2_000;
/// Other flights on the route of the customer's first: with the customer, three bookings and their flights a prompt of 35 rows.
pub const ALTERNATIVES: usize = 28;

pub const SYSTEM: &str = "\
You are the travel assistant of Larkspur Air. You help one customer with their own trips.

# Rules
1. Use only what stands below. If it does not hold the answer, say so and name what is missing.
2. The flights stand below as they are this minute. What you said earlier may be out of date.
3. Offer only flights under \"Other flights\" that can still be caught, and name the seats that are free.
4. You cannot book or change anything yourself. The customer confirms in the app or at the desk.
5. Times are local to the airport. Two or three sentences, no lists.

# Customer
{{ context.customer.name }}, home airport {{ context.customer.home_airport }}, prefers {{ context.customer.seat_preference }} seats, loyalty level {{ context.customer.loyalty }}.

# Bookings
{% for b in context.bookings -%}
- {{ b.booking_id }}: flight {{ b.flight_id }}, fare {{ b.fare }}, paid {{ b.paid }} {{ b.currency }}, seat {{ b.seat }}
{% else -%}
- none
{% endfor %}
# Booked flights
{% for f in context.flights -%}
- {{ f.flight_id }}, {{ f.status }}
{%- if f.status == 'Delayed' %} by {{ f.delay_minutes }} minutes{% endif %}: {{ f.origin_city }} {{ f.origin_airport }} {{ f.departure[11:16] }} to {{ f.destination_city }} {{ f.destination_airport }} {{ f.arrival[11:16] }}, gate {{ f.gate }}, operated with {{ f.aircraft }}, {{ f.seats_free }} seats free at this minute, fares from: Standard {{ f.fares.Standard }} EUR, Flex {{ f.fares.Flex }} EUR
{% endfor %}
# Other flights on the same route
{% for f in context.alternatives -%}
- {{ f.flight_id }}, {{ f.status }}
{%- if f.status == 'Delayed' %} by {{ f.delay_minutes }} minutes{% endif %}: {{ f.origin_city }} {{ f.origin_airport }} {{ f.departure[11:16] }} to {{ f.destination_city }} {{ f.destination_airport }} {{ f.arrival[11:16] }}, gate {{ f.gate }}, operated with {{ f.aircraft }}, {{ f.seats_free }} seats free at this minute, fares from: Standard {{ f.fares.Standard }} EUR, Flex {{ f.fares.Flex }} EUR
{% else -%}
- none
{% endfor -%}
";
pub const USER: &str = "{{ event.text }}";

/// Topics of the desk, by what they hold.
pub struct Topics {
    pub customers: String,
    pub bookings: String,
    pub flights: String,
    pub questions: String,
    pub answers: String,
    pub journal: String,
    pub runs: String,
    pub dead: String,
    /// State topics of the three views: nothing writes them here.
    pub state: [String; 3],
}

impl Topics {
    /// Names for a desk that is on no broker.
    pub fn in_memory() -> Self {
        let name = |name: &str| format!("desk.{name}");
        Self {
            customers: name("customers"),
            bookings: name("bookings"),
            flights: name("flights"),
            questions: name("questions"),
            answers: name("answers"),
            journal: name("journal"),
            runs: name("runs"),
            dead: name("dead"),
            state: ["s1", "s2", "s3"].map(name),
        }
    }
}

/// The agent's stage. `model`: whether it asks one; else its output holds the prompt's hash. `limit`: of the other flights.
pub fn stage(
    namespace: &str,
    bootstrap: &str,
    topics: &Topics,
    model: bool,
    limit: usize,
) -> Result<Stage> {
    let source = |name: &str, topic: &str| {
        json!({
            "name": name, "topic": topic, "format": "Json", "keyFormat": "Text", "schema": null,
            "key": null, "eventTime": null, "invalidRecords": "DeadLetter",
        })
    };
    let view = |name: &str, topic: &str, state: &str, indexes: Value| {
        json!({
            "name": name, "generation": "000000",
            "from": [{
                "name": name, "source": name, "filter": null, "key": null, "value": null, "delete": null, "required": false,
            }],
            "fold": {"latest": {"merge": "Replace"}}, "indexes": indexes,
            "input": {"source": {"topic": topic}}, "stateTopic": state, "deadTopic": topics.dead,
        })
    };
    let slot = |name: &str, view: &str, by: Value, index: Option<&str>, limit: usize| {
        json!({
            "name": name, "required": false, "budgetTokens": null, "priority": 0,
            "maxStalenessMs": null, "onStale": "Mark",
            "lookup": {
                "view": view, "by": by, "index": index, "where": null, "orderBy": null, "order": "Ascending", "limit": limit,
            },
        })
    };
    let stage = json!({
        "namespace": namespace,
        "kafka": {"bootstrapServers": [bootstrap]},
        "sources": {
            "customers": source("customers", &topics.customers),
            "bookings": source("bookings", &topics.bookings),
            "flights": source("flights", &topics.flights),
            "questions": source("questions", &topics.questions),
        },
        "views": {
            "customers": view("customers", &topics.customers, &topics.state[0], json!([])),
            "bookings": view("bookings", &topics.bookings, &topics.state[1], json!([
                {"name": "byCustomer", "key": {"one": "value.customer_id"}},
            ])),
            "flights": view("flights", &topics.flights, &topics.state[2], json!([
                {"name": "byRoute", "key": {"one": "value.route"}},
            ])),
        },
        "role": {"agent": {
            "name": "assistant",
            "trigger": {
                "from": {"source": "questions"}, "startFrom": "Earliest", "deletes": "Ignore", "filter": null, "key": null,
            },
            "slots": [
                slot("customer", "customers", json!({"key": "event.customer_id"}), None, 20),
                slot("bookings", "bookings", json!({"key": "event.customer_id"}), Some("byCustomer"), 20),
                slot("flights", "flights", json!({"keys": "context.bookings.map(b, b.flight_id)"}), None, 20),
                slot("alternatives", "flights", json!({"key": "context.flights[0].route"}), Some("byRoute"), limit),
            ],
            "freshnessWaitMs": 5_000, "when": null, "conversation": null,
            "prompt": {"system": SYSTEM, "user": USER},
            "model": model.then(|| json!({
                "name": "chat", "provider": {"scripted": {"rules": [{"reply": "yes"}]}},
                "model": "scripted", "parameters": {}, "contextWindowTokens": 128_000, "maxOutputTokens": 1_000,
                "requestTimeoutMs": 10_000, "retry": {"maxAttempts": 1, "initialBackoffMs": 10, "maxBackoffMs": 10},
            })),
            "outputs": [{
                "name": "answer", "source": "answers", "topic": topics.answers, "format": "Json", "outcome": "Done",
                "when": null, "items": null, "key": null,
                "value": if model { "{'text': result.text}" } else { "{'text': prompt.hash}" },
            }],
            "delivery": {"maxAttempts": 3, "attemptTimeoutMs": 60_000, "maxHops": 16, "onFailure": "DeadLetter"},
            "audit": "Full", "concurrency": 64,
            "topics": {"conversation": null, "journal": topics.journal, "runs": topics.runs, "dead": topics.dead},
        }},
    });
    Ok(serde_json::from_value(stage)?)
}
