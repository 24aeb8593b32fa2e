//! View and agent stages, held to what they promise, on the memory log and on a real Kafka alike.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it measured"
)]

#[path = "stages/answers.rs"]
mod answers;
#[path = "stages/approvals.rs"]
mod approvals;
#[path = "stages/attempts.rs"]
mod attempts;
#[path = "stages/bed.rs"]
mod bed;
#[path = "stages/changes.rs"]
mod changes;
#[path = "stages/faults.rs"]
mod faults;
#[path = "stages/faulty.rs"]
mod faulty;
#[path = "support/follow.rs"]
mod follow;
#[path = "stages/forgotten.rs"]
mod forgotten;
#[path = "stages/joins.rs"]
mod joins;
#[path = "stages/life.rs"]
mod life;
#[path = "stages/look.rs"]
mod look;
#[path = "stages/models.rs"]
mod models;
#[path = "stages/outages.rs"]
mod outages;
#[path = "stages/steps.rs"]
mod steps;
#[path = "stages/tools.rs"]
mod tools;
#[path = "stages/triggers.rs"]
mod triggers;
#[path = "stages/views.rs"]
mod views;
#[path = "stages/windows.rs"]
mod windows;

use bed::{Bed, Seen};
use serde_json::json;

macro_rules! on_both_logs {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$module::$name(super::Bed::new(super::bed::Kind::Memory)).await; })*
        }
        mod kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$module::$name(super::Bed::new(super::bed::Kind::Kafka)).await; })*
        }
    };
}

on_both_logs!(
    answers::two_turns_remember,
    look::a_running_view_is_looked_into,
    look::a_record_is_gone_past_once_somebody_decides,
    look::whoever_holds_a_view_follows_its_stage_past_a_record,
    look::an_input_made_anew_is_gone_on_with_where_somebody_decides,
    forgotten::an_agent_whose_group_was_forgotten_goes_on_where_it_stopped,
    forgotten::an_agent_that_crashed_before_its_group_was_forgotten_repeats_nothing,
    forgotten::a_partition_whose_offset_is_gone_goes_on_where_it_stopped,
    forgotten::an_agent_that_never_ran_misses_nothing,
    forgotten::an_agent_that_passed_records_over_goes_on_behind_them,
    forgotten::what_ran_is_not_repeated_where_a_group_has_former_offsets,
    forgotten::what_somebody_decided_outlives_the_group_too,
    forgotten::an_agent_with_an_input_log_takes_in_what_came_meanwhile,
    look::lost_positions_are_found_again_where_somebody_decides,
    look::every_replica_serves_every_row_as_fresh_as_the_log,
    look::offsets_of_a_group_are_seen_and_set_from_outside,
    answers::an_update_is_in_the_next_answer,
    changes::a_view_triggers_a_run_for_each_change_of_a_row,
    changes::a_row_that_goes_starts_a_run_where_the_agent_asks_for_it,
    changes::each_change_starts_a_run_for_each_row_of_another_view,
    changes::where_an_agent_goes_on_in_a_view_that_was_built_anew_is_not_guessed,
    changes::nor_where_an_intake_of_changes_does,
    faults::bad_records_are_dead_letters,
    faults::a_failing_model_is_given_up_and_the_next_key_goes_on,
    outages::a_provider_that_is_away_holds_the_runs_and_uses_none_of_their_attempts,
    outages::another_model_answers_while_a_provider_is_away,
    outages::a_request_that_is_refused_while_others_are_answered_is_given_up,
    steps::a_journaled_step_is_not_repeated_after_a_crash,
    steps::steps_are_journaled_once_across_crashes,
    steps::a_retry_goes_on_after_the_journaled_step,
    steps::a_repair_that_does_not_fit_fails_the_run_at_once,
    steps::a_step_that_is_too_large_is_not_journaled_and_the_run_goes_on,
    approvals::a_run_waits_for_a_person_and_its_key_goes_on,
    approvals::silence_denies_also_while_nobody_was_there,
    approvals::the_first_answer_counts_and_only_one_that_is_in_time,
    approvals::an_answer_in_time_counts_though_nobody_was_there,
    approvals::rules_are_asked_again_after_an_approval,
    approvals::answers_survive_whatever_ends_the_process,
    approvals::a_run_that_failed_after_it_waited_may_be_triggered_again,
    tools::a_call_that_a_crash_left_open_is_not_made_again,
    tools::a_call_that_may_be_repeated_is_made_again_under_its_key,
    tools::what_a_tool_gave_is_not_asked_for_again_after_a_crash,
    tools::calls_are_made_once_at_most_across_crashes,
    tools::rules_are_asked_about_the_moment_of_the_call,
    tools::runs_wait_for_tools_that_are_not_known_yet,
    life::every_trigger_is_answered_once_across_crashes,
    views::a_view_goes_on_from_its_checkpoint,
    views::several_sources_are_one_view,
    views::of_what_waits_in_several_sources_the_oldest_goes_first,
    views::what_was_taken_in_is_not_taken_in_again_where_offsets_were_lost,
    windows::an_aggregate_goes_on_after_a_crash_and_is_read_at_the_triggers_time,
    windows::expired_keys_are_gone_for_readers_and_then_from_the_topic,
    life::a_zombie_is_fenced,
    life::transactions_that_go_wrong_are_applied_once,
    life::shutdown_finishes_what_is_in_flight,
    answers::where_a_new_agent_begins_is_fixed_once,
    faults::stop_stands_still_at_a_bad_record,
    life::two_replicas_share_and_hand_over,
    attempts::a_run_that_ends_its_process_is_given_up_and_those_beside_it_are_not,
    attempts::partitions_that_are_left_in_order_tell_so,
    attempts::runs_of_a_revoked_partition_have_time_to_end,
    faults::a_record_that_cannot_be_written_fails_its_run_alone,
    faults::lost_positions_are_not_guessed,
    life::idle_is_when_nothing_is_left,
    joins::semantics_7_a_join_has_what_was_acknowledged_before_its_event,
    joins::semantics_7_a_join_has_what_is_in_its_events_transaction,
    joins::after_a_crash_joins_are_read_again_only_for_what_was_not_committed,
    joins::a_join_reaches_through_two_hops,
    joins::a_join_waits_for_its_view_and_says_so,
    joins::what_comes_in_during_a_wait_has_a_wait_of_its_own,
    joins::a_stage_that_waits_for_a_join_ends_at_once_and_loses_nothing,
    joins::replicas_share_an_intake_with_joins_and_hand_it_over,
    joins::what_fails_with_its_join_is_a_dead_letter_or_stops,
    triggers::a_key_that_is_not_the_records_orders_runs_across_crashes,
    triggers::events_are_taken_in_once_when_transactions_go_wrong,
    triggers::where_an_agent_with_an_input_log_begins_is_fixed_once,
    triggers::a_trigger_runs_for_each_row_that_was_acknowledged_before_it,
    triggers::what_an_intake_refuses_ends_as_every_trigger_does,
    triggers::an_intake_stands_still_where_its_source_says_so,
    triggers::what_was_done_is_not_done_again_across_crashes,
    triggers::a_run_that_failed_may_be_tried_by_the_next_trigger,
    triggers::of_triggers_that_wait_the_newest_runs,
    triggers::triggers_wait_for_their_keys_run_and_the_newest_of_them_is_next,
);

fn text(seen: &Seen) -> &str {
    seen.value["text"].as_str().unwrap()
}

fn flight(bed: &Bed, number: &str, gate: &str) -> headwater_engine::record::NewRecord {
    bed.record("flights", number, &json!({"gate": gate}))
}
