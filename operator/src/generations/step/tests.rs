//! A table of single steps, and a world in which pods, readers, topics and operators come and go in any order.

use super::*;
use proptest::prelude::*;

fn facts(wanted: &str) -> Facts {
    Facts {
        wanted: wanted.to_owned(),
        served: None,
        building: None,
        stages: BTreeMap::new(),
        used: BTreeSet::new(),
        topics: BTreeSet::new(),
        complete: Complete::Unknown,
    }
}

fn some(generation: &str) -> Option<String> {
    Some(generation.to_owned())
}

fn set(generations: &[&str]) -> BTreeSet<String> {
    generations
        .iter()
        .map(|generation| (*generation).to_owned())
        .collect()
}

fn found(stages: &[(&str, Found)]) -> BTreeMap<String, Found> {
    stages
        .iter()
        .map(|(generation, found)| ((*generation).to_owned(), *found))
        .collect()
}

#[test]
fn the_first_generation_is_never_refused_and_read_at_once() {
    let first = step(&Facts {
        complete: Complete::No,
        ..facts("a")
    });
    assert_eq!((first.building, first.read), (some("a"), None));
    let begun = step(&Facts {
        building: some("a"),
        complete: Complete::No,
        ..facts("a")
    });
    assert_eq!((begun.read, begun.keep), (some("a"), set(&["a"])));
    assert_eq!(begun.served, None);
}

#[test]
fn another_generation_is_built_beside_and_read_when_it_is_ready() {
    let before = Facts {
        served: some("a"),
        stages: found(&[("a", Found::Ready)]),
        topics: set(&["a"]),
        used: set(&["a"]),
        complete: Complete::Yes,
        ..facts("b")
    };
    let begin = step(&before);
    assert_eq!((begin.building.clone(), begin.read), (some("b"), some("a")));
    assert_eq!(begin.keep, set(&["a"]));
    let building = Facts {
        building: begin.building,
        stages: found(&[("a", Found::Ready), ("b", Found::NotReady)]),
        topics: set(&["a", "b"]),
        ..before
    };
    let wait = step(&building);
    assert_eq!(
        (wait.served, wait.read, wait.keep, wait.phase),
        (some("a"), some("a"), set(&["a", "b"]), Phase::Building)
    );
    let ready = Facts {
        stages: found(&[("a", Found::Ready), ("b", Found::Ready)]),
        ..building
    };
    let promoted = step(&ready);
    // First the status says so; readers are told in the step after.
    assert_eq!(
        (promoted.served.clone(), promoted.building, promoted.read),
        (some("b"), None, some("a"))
    );
    let moving = Facts {
        served: promoted.served,
        building: None,
        ..ready
    };
    let move_on = step(&moving);
    assert_eq!(
        (move_on.read, move_on.remove, move_on.phase),
        (some("b"), set(&[]), Phase::Moving)
    );
    let moved = step(&Facts {
        used: set(&["b"]),
        ..moving
    });
    assert_eq!(moved.remove, set(&["a"]));
}

#[test]
fn what_the_sources_lack_refuses_the_next_one_and_keeps_what_is_read() {
    let lacking = Facts {
        served: some("a"),
        stages: found(&[("a", Found::Ready)]),
        complete: Complete::No,
        ..facts("b")
    };
    let refused = step(&lacking);
    assert_eq!(refused.phase, Phase::Refused);
    assert_eq!(
        (refused.read, refused.building, refused.keep),
        (some("a"), None, set(&["a"]))
    );
    // Not asked again once it is being built.
    let begun = step(&Facts {
        building: some("b"),
        ..lacking
    });
    assert_eq!(begun.phase, Phase::Building);
    assert_eq!(begun.keep, set(&["a", "b"]));
}

#[test]
fn a_change_of_mind_supersedes_what_was_being_built() {
    let changed = Facts {
        served: some("a"),
        building: some("b"),
        stages: found(&[("a", Found::Ready), ("b", Found::NotReady)]),
        topics: set(&["a", "b"]),
        used: set(&["a"]),
        complete: Complete::Yes,
        ..facts("c")
    };
    let next = step(&changed);
    assert_eq!((next.building.clone(), next.read), (some("c"), some("a")));
    let after = step(&Facts {
        building: next.building,
        ..changed.clone()
    });
    assert_eq!(after.remove, set(&["b"]));
    // Back to what is read: nothing is left to build.
    let back = step(&Facts {
        wanted: "a".to_owned(),
        ..changed
    });
    assert_eq!((back.served, back.building), (some("a"), None));
}

#[test]
fn what_is_left_of_a_former_generation_goes_before_it_is_built_again() {
    let back = Facts {
        served: some("b"),
        stages: found(&[("a", Found::Going), ("b", Found::Ready)]),
        topics: set(&["a", "b"]),
        complete: Complete::Yes,
        ..facts("a")
    };
    for stages in [
        back.stages.clone(),
        // Its pods are gone, and some of its topics.
        found(&[("b", Found::Ready)]),
    ] {
        let wait = step(&Facts {
            stages,
            ..back.clone()
        });
        assert_eq!((wait.building, wait.remove), (None, set(&["a"])));
        assert_eq!(wait.read, some("b"));
    }
    let clean = step(&Facts {
        stages: found(&[("b", Found::Ready)]),
        topics: set(&["b"]),
        ..back.clone()
    });
    assert_eq!(clean.building, some("a"));
    // One that is still whole is taken up again as it is, whatever the sources hold.
    let whole = step(&Facts {
        stages: found(&[("a", Found::Ready), ("b", Found::Ready)]),
        complete: Complete::No,
        ..back
    });
    assert_eq!(whole.building, some("a"));
}

#[test]
fn a_ready_first_generation_stays_read_until_the_next_is_ready() {
    let changed = Facts {
        building: some("a"),
        stages: found(&[("a", Found::Ready)]),
        topics: set(&["a"]),
        used: set(&["a"]),
        ..facts("b")
    };
    let first = step(&changed);
    assert_eq!((first.served, first.building), (some("a"), None));
}

/// What a random test does next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The resource asks for another generation.
    Change(usize),
    Ready(usize),
    NotReady(usize),
    /// The last pod of a stage that is being deleted is gone.
    Gone(usize),
    /// A pod of a reader gets the reader's newest configuration.
    Roll(usize, usize),
    /// The operator works, and stops after so many of the things it has to do.
    Operate(usize),
    /// A topic that is to go is deleted.
    DeleteTopic,
    Complete(bool),
}

const GENERATIONS: [&str; 3] = ["a", "b", "c"];
const PARTS: [&str; 2] = ["state", "input"];
const READERS: usize = 2;
const PODS: usize = 2;

#[derive(Clone, Debug, Default)]
struct World {
    wanted: usize,
    served: Option<String>,
    building: Option<String>,
    complete: bool,
    stages: BTreeMap<String, Found>,
    /// Topics that there are.
    topics: BTreeSet<(String, &'static str)>,
    to_delete: BTreeSet<(String, &'static str)>,
    configured: [Option<String>; READERS],
    pods: [[Option<String>; PODS]; READERS],
    /// Generations that the operator saw ready since they were last made.
    seen_ready: BTreeSet<String>,
    /// The operator saw one ready before readers were given the next.
    any_ready: bool,
}

impl World {
    fn facts(&self) -> Facts {
        let read = self.pods.iter().flatten().chain(&self.configured).flatten();
        let on_record = self.topics.iter().chain(&self.to_delete);
        Facts {
            wanted: GENERATIONS[self.wanted].to_owned(),
            served: self.served.clone(),
            building: self.building.clone(),
            stages: self.stages.clone(),
            used: read.cloned().collect(),
            topics: on_record
                .map(|(generation, _)| generation.clone())
                .collect(),
            complete: if self.complete {
                Complete::Yes
            } else {
                Complete::No
            },
        }
    }

    /// Does what the step says, in the operator's order, and at most so much of it.
    fn operate(&mut self, most: usize) {
        let facts = self.facts();
        let step = step(&facts);
        for (generation, found) in &facts.stages {
            if *found == Found::Ready {
                self.seen_ready.insert(generation.clone());
            }
        }
        let mut left = most;
        let mut may = || {
            left = left.saturating_sub(1);
            left > 0
        };
        for generation in &step.keep {
            let begun = facts.building.as_ref() == Some(generation)
                || facts.served.as_ref() == Some(generation);
            if !begun || self.stages.contains_key(generation) {
                continue;
            }
            if !may() {
                return;
            }
            let there = PARTS
                .iter()
                .filter(|part| self.topics.contains(&(generation.clone(), **part)))
                .count();
            assert!(
                there == 0 || there == PARTS.len(),
                "{generation} is built on a part of its former topics: {self:?}"
            );
            self.to_delete.retain(|(of, _)| of != generation);
            self.topics
                .extend(PARTS.iter().map(|part| (generation.clone(), *part)));
            self.stages.insert(generation.clone(), Found::NotReady);
            self.seen_ready.remove(generation);
        }
        for generation in &step.remove {
            if !may() {
                return;
            }
            match self.stages.get(generation) {
                Some(_) => {
                    self.stages.insert(generation.clone(), Found::Going);
                }
                None => {
                    let topics = self.topics.iter().filter(|(of, _)| of == generation);
                    self.to_delete.extend(topics.cloned().collect::<Vec<_>>());
                }
            }
        }
        for reader in 0..READERS {
            let Some(read) = &step.read else { break };
            if self.configured[reader].as_ref() == Some(read) {
                continue;
            }
            if !may() {
                return;
            }
            assert!(
                self.seen_ready.contains(read) || !self.any_ready,
                "readers are given {read}, which was never ready: {self:?}"
            );
            self.configured[reader] = Some(read.clone());
        }
        if (&step.served, &step.building) != (&self.served, &self.building) && may() {
            self.any_ready |= step.served.is_some();
            self.served = step.served;
            self.building = step.building;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Change(wanted) => self.wanted = wanted,
            Event::Ready(which) => self.pod(which, Found::Ready),
            Event::NotReady(which) => self.pod(which, Found::NotReady),
            Event::Gone(which) => {
                if self.stages.get(GENERATIONS[which]) == Some(&Found::Going) {
                    self.stages.remove(GENERATIONS[which]);
                }
            }
            Event::Roll(reader, pod) => {
                self.pods[reader][pod].clone_from(&self.configured[reader]);
            }
            Event::Operate(most) => self.operate(most),
            Event::DeleteTopic => {
                if let Some(topic) = self.to_delete.pop_first() {
                    self.topics.remove(&topic);
                }
            }
            Event::Complete(complete) => self.complete = complete,
        }
        for read in self.pods.iter().flatten().chain(&self.configured).flatten() {
            let stage = self.stages.get(read);
            assert!(
                stage.is_some() && stage != Some(&Found::Going),
                "{read} is read and has no stage after {event:?}: {self:?}"
            );
            for part in PARTS {
                assert!(
                    self.topics.contains(&(read.clone(), part)),
                    "{read} is read and a topic of it is gone after {event:?}: {self:?}"
                );
            }
        }
    }

    fn pod(&mut self, which: usize, now: Found) {
        if let Some(found) = self.stages.get_mut(GENERATIONS[which])
            && *found != Found::Going
        {
            *found = now;
        }
    }

    /// Lets everything go on until nothing changes any more.
    fn settle(&mut self) {
        self.complete = true;
        for _ in 0..30 {
            for which in 0..GENERATIONS.len() {
                self.happen(Event::Gone(which));
                self.happen(Event::Ready(which));
            }
            for reader in 0..READERS {
                for pod in 0..PODS {
                    self.happen(Event::Roll(reader, pod));
                }
            }
            self.happen(Event::DeleteTopic);
            self.happen(Event::DeleteTopic);
            self.happen(Event::Operate(usize::MAX));
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    let which = 0..GENERATIONS.len();
    prop_oneof![
        2 => which.clone().prop_map(Event::Change),
        3 => which.clone().prop_map(Event::Ready),
        1 => which.clone().prop_map(Event::NotReady),
        3 => which.prop_map(Event::Gone),
        4 => (0..READERS, 0..PODS).prop_map(|(reader, pod)| Event::Roll(reader, pod)),
        8 => (1usize..8).prop_map(Event::Operate),
        2 => Just(Event::DeleteTopic),
        1 => any::<bool>().prop_map(Event::Complete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever the order of pods, readers, changes of the resource and deaths of the operator: what readers are given was ready
    /// (but for the very first), nothing goes that is read, and in the end only the wanted generation is left.
    #[test]
    fn readers_always_have_a_generation_and_in_the_end_it_is_the_wanted_one(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let mut world = World { complete: true, ..World::default() };
        for event in events {
            world.happen(event);
        }
        world.settle();
        let wanted = GENERATIONS[world.wanted].to_owned();
        prop_assert_eq!(&world.served, &Some(wanted.clone()));
        prop_assert_eq!(&world.building, &None);
        prop_assert_eq!(world.stages.keys().collect::<Vec<_>>(), vec![&wanted]);
        prop_assert!(world.topics.iter().all(|(generation, _)| *generation == wanted));
        prop_assert!(world.pods.iter().flatten().all(|read| read.as_ref() == Some(&wanted)));
    }
}
