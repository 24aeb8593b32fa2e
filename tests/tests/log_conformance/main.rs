//! One suite for both logs: what the data plane relies on holds on Kafka and in memory alike.
//!
//! Each check is a function of a [`bed::Bed`]; the list below makes two tests of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod bed;
mod groups;
mod members;
mod records;
mod transactions;

macro_rules! conformance {
    ($($module:ident: $($check:ident)*;)*) => {
        mod memory {
            $(mod $module {
                $(#[test] fn $check() { crate::$module::$check(&crate::bed::Bed::memory()); })*
            })*
        }
        mod kafka {
            $(mod $module {
                $(#[test] fn $check() { crate::$module::$check(&crate::bed::Bed::kafka()); })*
            })*
        }
    };
}

conformance! {
    records:
        order_and_positions
        nulls_headers_and_empty_values
        timestamps_of_the_writer
        timestamps_of_the_log
        ends_and_watermarks
        starts_and_positions_before_any_record
        an_offset_out_of_range_is_told_and_others_go_on
        what_does_not_exist
        a_record_too_large_is_refused_and_the_writer_goes_on
        keys_choose_partitions_as_in_java
        a_topic_created_again_has_another_id
        creating_twice_changes_nothing
        a_waker_ends_a_wait
        a_poll_is_bounded;
    transactions:
        positions_pass_markers
        aborted_records_are_hidden
        an_open_transaction_holds_back_what_follows
        a_marker_ends_a_wait
        a_zombie_is_fenced
        opening_an_id_aborts_what_it_left_open
        a_refused_record_takes_its_transaction_along
        offsets_come_with_the_transaction
        pending_offsets_are_waited_for
        a_sweep_leaves_what_was_decided
        what_is_acknowledged_can_be_read
        metadata_is_bounded
        an_empty_transaction;
    groups:
        a_second_member_gets_its_share
        a_spare_member_is_assigned_nothing
        leaving_hands_over_at_once
        a_dead_member_keeps_its_partitions_for_its_session
        a_static_member_comes_back
        partitions_that_nobody_has_are_given_anew
        a_fenced_member_loses_all
        revoked_partitions_can_be_committed_before_the_next_poll
        an_old_generation_commits_nothing
        nothing_is_read_before_the_start
        paused_partitions_rest
        committed_of_any_partition;
}
