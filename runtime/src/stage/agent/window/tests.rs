use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn key(text: &str) -> Option<Key> {
    Key::from_text(text).unwrap()
}

fn from(next: i64) -> Progress {
    Progress {
        next,
        finished: Vec::new(),
        clean: false,
    }
}

fn window(keys: &[&str]) -> Window<(), i64> {
    let mut window = Window::new(from(0));
    for (offset, text) in (0..).zip(keys) {
        window.wait(offset, key(text), ());
    }
    window
}

fn start(window: &mut Window<(), i64>, limit: usize) -> Vec<i64> {
    window
        .start(limit, &|_| true)
        .into_iter()
        .map(|(offset, _, _)| offset)
        .collect()
}

/// The runs, the offset, and what is finished above.
fn commit(window: &mut Window<(), i64>) -> Option<(Vec<i64>, i64, Vec<Range<i64>>)> {
    let part = window.take(&mut |_| true)?;
    window.committed(&part);
    Some((part.runs, part.progress.next, part.progress.finished))
}

#[test]
fn one_run_of_a_key_at_a_time_and_any_number_without_key() {
    let mut window = window(&["a", "b", "a", "", "", "b"]);
    assert_eq!(start(&mut window, 100), [0, 1, 3, 4]);
    assert_eq!(start(&mut window, 100), [0_i64; 0]);
    assert_eq!(window.running(), 4);
    window.finish(0, 0);
    // Finished is not committed.
    assert_eq!(start(&mut window, 100), [0_i64; 0]);
    assert_eq!(commit(&mut window), Some((vec![0], 1, vec![])));
    assert_eq!(start(&mut window, 100), [2]);
}

#[test]
fn a_waiting_key_is_not_overtaken_when_the_limit_was_reached() {
    let mut window = window(&["a", "b", "b"]);
    assert_eq!(start(&mut window, 1), [0]);
    assert_eq!(start(&mut window, 1), [1]);
    assert_eq!(start(&mut window, 1), [0_i64; 0]);
}

#[test]
fn a_slow_run_holds_back_none_but_its_key() {
    let mut window = window(&["a", "b", "c", "a", "b"]);
    start(&mut window, 9);
    window.finish(1, 1);
    window.finish(2, 2);
    assert_eq!(commit(&mut window), Some((vec![1, 2], 0, vec![1..3])));
    assert_eq!(start(&mut window, 9), [4]);
    window.finish(4, 4);
    assert_eq!(commit(&mut window), Some((vec![4], 0, vec![1..3, 4..5])));
    assert!(window.finish(0, 0));
    assert!(!window.finish(0, 0));
    assert_eq!(commit(&mut window), Some((vec![0], 3, vec![4..5])));
    assert_eq!(start(&mut window, 9), [3]);
    window.finish(3, 3);
    assert_eq!(commit(&mut window), Some((vec![3], 5, vec![])));
    assert_eq!(window.unfinished(), 0);
}

#[test]
fn a_run_without_an_offset_holds_back_its_key_and_no_offset() {
    let mut window = window(&["a", "b", "a"]);
    window.wait(i64::MIN + 1, key("a"), ());
    assert_eq!(start(&mut window, 100), [i64::MIN + 1, 1]);
    window.finish(1, 1);
    assert_eq!(commit(&mut window), Some((vec![1], 0, vec![1..2])));
    // It goes on in the middle of everything, and what comes behind it is its key's.
    assert_eq!(start(&mut window, 100), [0_i64; 0]);
    window.finish(i64::MIN + 1, -1);
    assert_eq!(commit(&mut window), Some((vec![-1], 0, vec![1..2])));
    assert_eq!(start(&mut window, 100), [0]);
    window.wait(i64::MIN + 2, None, ());
    window.finish(0, 0);
    assert_eq!(commit(&mut window), Some((vec![0], 2, vec![])));
    assert!(!window.has_moved());
    assert_eq!(start(&mut window, 100), [i64::MIN + 2, 2]);
    window.finish(2, 2);
    // It is not finished, and the offset is at the end.
    assert_eq!(commit(&mut window), Some((vec![2], 3, vec![])));
    assert_eq!(window.unfinished(), 1);
}

#[test]
fn what_finds_no_room_goes_next() {
    let mut window = window(&["a", "b", "c"]);
    start(&mut window, 3);
    (0..3).for_each(|offset| assert!(window.finish(offset, offset)));
    let mut room = 2;
    let part = window.take(&mut |_| {
        room -= 1;
        room >= 0
    });
    let part = part.unwrap();
    assert_eq!((&part.runs, part.progress.next), (&vec![0, 1], 2));
    window.committed(&part);
    assert_eq!(commit(&mut window), Some((vec![2], 3, vec![])));
}

#[test]
fn records_without_a_run_move_the_offset() {
    let mut window = window(&[]);
    assert!(!window.has_moved());
    window.advance(5);
    assert!(window.has_moved());
    assert_eq!(window.idle().progress, from(5));
    window.wait(5, key("a"), ());
    window.advance(9);
    assert_eq!(window.idle().progress.next, 5);
    assert_eq!(window.idle().progress.finished, vec![6..9]);
    start(&mut window, 1);
    window.finish(5, 5);
    assert_eq!(commit(&mut window), Some((vec![5], 9, vec![])));
    assert!(!window.has_moved());
}

#[test]
fn where_nothing_was_under_way_that_is_taken_back_before_a_start() {
    let mut window: Window<(), i64> = Window::new(Progress {
        clean: true,
        ..from(3)
    });
    assert!(!window.awaits_mark());
    assert!(window.leave().1);
    // A record that starts no run does not change that.
    window.advance(4);
    let moved = window.idle();
    assert_eq!((moved.progress.next, moved.progress.clean), (4, true));
    window.committed(&moved);
    assert!(!window.is_marked());
    window.wait(4, key("a"), ());
    assert_eq!(start(&mut window, 9), [0_i64; 0]);
    assert!(window.awaits_mark());
    let mark = window.begin();
    assert_eq!(mark.progress, from(4));
    window.committed(&mark);
    assert!(!window.awaits_mark());
    assert_eq!(start(&mut window, 9), [4]);

    // Its run was ended where it was.
    let (left, is_said) = window.leave();
    assert!(!is_said);
    let clean = Progress {
        clean: true,
        ..from(4)
    };
    assert_eq!(left.progress, clean);
    window.committed(&left);
    assert!(window.leave().1);
}

#[test]
fn nothing_after_a_halt_is_started() {
    let mut window = window(&["a", "b", "c"]);
    assert_eq!(start(&mut window, 2), [0, 1]);
    window.halt_at(1);
    assert_eq!(window.running(), 1);
    window.finish(0, 0);
    assert_eq!(commit(&mut window), Some((vec![0], 1, vec![])));
    assert_eq!(start(&mut window, 9), [0_i64; 0]);
    assert!(!window.has_moved());
    assert!(window.is_halted());
}

#[test]
fn what_is_before_a_halt_goes_on() {
    let mut window = window(&["a", "a"]);
    window.halt_at(2);
    assert_eq!(start(&mut window, 9), [0]);
    window.finish(0, 0);
    assert_eq!(commit(&mut window), Some((vec![0], 1, vec![])));
    assert_eq!(start(&mut window, 9), [1]);
    window.finish(1, 1);
    assert_eq!(commit(&mut window), Some((vec![1], 2, vec![])));
    assert_eq!(commit(&mut window), None);
}

#[test]
fn there_is_room_for_so_many_stretches_and_for_the_lowest_always() {
    let count = 3 * STRETCHES_MAX as i64;
    let keys: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut window = window(&keys);
    start(&mut window, keys.len());
    (1..count)
        .step_by(2)
        .for_each(|offset| assert!(window.finish(offset, offset)));
    let (runs, next, finished) = commit(&mut window).unwrap();
    assert_eq!(
        (runs.len(), next, finished.len()),
        (STRETCHES_MAX, 0, STRETCHES_MAX)
    );
    assert_eq!(commit(&mut window), None);
    window.finish(0, 0);
    let (runs, next, finished) = commit(&mut window).unwrap();
    assert_eq!((runs, next), (vec![0], 2));
    assert!(finished.len() < STRETCHES_MAX);
    assert_eq!(commit(&mut window).map(|(runs, ..)| runs.len()), Some(1));
}

proptest! {
    /// Owners that come and go, each going on from what was committed: everything is run once, and what the offset
    /// says is finished is what was committed.
    #[test]
    fn whoever_goes_on_runs_what_is_left(
        steps in prop::collection::vec((0..6u8, 0..40usize), 1..200),
        keys in prop::collection::vec(0..6u8, 40),
    ) {
        let mut stored = from(0);
        let mut done = BTreeSet::new();
        let mut window: Window<(), i64> = Window::new(stored.clone());
        for (step, number) in steps {
            match step {
                // Reads on.
                0 | 1 => {
                    let offset = window.next();
                    if offset < 40 {
                        let finished = window.is_finished(offset);
                        prop_assert_eq!(finished, done.contains(&offset));
                        match keys[offset as usize] {
                            _ if finished => window.advance(offset + 1),
                            // Filtered.
                            0 => { window.advance(offset + 1); done.insert(offset); }
                            own => window.wait(offset, key(&own.to_string()), ()),
                        }
                    }
                }
                2 => { start(&mut window, 1 + number % 4); }
                3 => { window.finish(number as i64, number as i64); }
                4 => {
                    if let Some(part) = window.take(&mut |_| true) {
                        // Read back as a successor would.
                        let committed = crate::log::Committed { offset: part.progress.next, metadata: part.progress.metadata(7) };
                        stored = Progress::read(&committed, &committed.metadata).unwrap();
                        prop_assert_eq!(&stored, &part.progress);
                        for run in &part.runs {
                            prop_assert!(done.insert(*run), "{} is committed twice", run);
                        }
                        window.committed(&part);
                    }
                }
                // Dies.
                _ => {
                    let said = |offset: i64| offset < stored.next || stored.finished.iter().any(|own| own.contains(&offset));
                    done.retain(|offset| said(*offset) || keys[*offset as usize] != 0);
                    for offset in 0..40 {
                        prop_assert!(!said(offset) || done.contains(&offset) || keys[offset as usize] == 0);
                        prop_assert!(said(offset) || !done.contains(&offset), "{} was committed and is forgotten", offset);
                    }
                    window = Window::new(stored.clone());
                }
            }
        }
    }
}

#[test]
fn a_newer_trigger_takes_the_place_of_one_that_waits_and_frees_no_key() {
    let mut window = window(&["a", "b", "a", "a"]);
    assert_eq!(start(&mut window, 1), [0]);
    let any = |_: &()| true;
    let a = key("a").unwrap();
    assert_eq!(window.supersede(&a, &any), Some((3, ())));
    assert_eq!(window.supersede(&a, &|()| false), None);
    assert_eq!(window.supersede(&a, &any), Some((2, ())));
    // One that runs is not taken.
    assert_eq!(window.supersede(&a, &any), None);
    window.wait(4, key("a"), ());
    assert!(window.finish(2, 2) && window.finish(3, 3));
    assert_eq!(window.running(), 1);
    let part = window.take(&mut |_| true).unwrap();
    assert_eq!(part.runs, [2, 3]);
    window.committed(&part);
    // The run of 0 is still under way.
    assert_eq!(start(&mut window, 9), [1]);
    window.finish(0, 0);
    let part = window.take(&mut |_| true).unwrap();
    window.committed(&part);
    assert_eq!(start(&mut window, 9), [4]);
}

#[test]
fn what_is_not_due_waits_and_is_not_overtaken_by_its_key() {
    let mut window: Window<u32, i64> = Window::new(from(0));
    for (offset, text, due) in [(0, "a", 9), (1, "a", 0), (2, "", 0), (3, "b", 0)] {
        window.wait(offset, key(text), due);
    }
    let mut offsets = |now: u32| -> Vec<i64> {
        let started = window.start(9, &|due| *due <= now);
        started.into_iter().map(|(offset, _, _)| offset).collect()
    };
    assert_eq!(offsets(0), [2, 3]);
    assert_eq!(offsets(9), [0]);
    assert_eq!(window.waiting().count(), 1);
}
