//! One list of cases per suite, and how a case is run.

use std::{future::Future, time::Duration};

/// No case takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs one case on a runtime of its own.
///
/// # Panics
/// When the case panics or hangs.
pub fn run(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test needs threads to run on");
    let end = runtime.block_on(async { tokio::time::timeout(PATIENCE, case).await });
    assert!(end.is_ok(), "the case did not end within {PATIENCE:?}");
}

/// Makes of a list of cases the macro that turns each of them into a `#[test]`. A case that is
/// written but not listed is dead code, and so a warning.
macro_rules! suite {
    ($d:tt $(#[$meta:meta])* $name:ident of $module:ident for $probe:ident: $($case:ident)*) => {
        #[doc(hidden)]
        pub mod $name {
            $(
                pub async fn $case(probe: impl crate::conformance::$probe) {
                    crate::conformance::$module::$case(probe).await;
                }
            )*
        }

        $(#[$meta])*
        $(#[doc = concat!("- `", stringify!($case), "`")])*
        #[macro_export]
        macro_rules! $name {
            ($d probe:expr) => {
                $(
                    #[test]
                    fn $case() {
                        $d crate::conformance::run(async {
                            $d crate::conformance::$name::$case($d probe.await).await;
                        });
                    }
                )*
            };
        }
    };
}

suite! {$
    /// Holds a [`SessionStore`](crate::SessionStore) to its contract. Takes an expression that
    /// gives a future of a [`SessionProbe`](crate::conformance::SessionProbe) on an empty store.
    ///
    /// The cases:
    session_store_conformance of session_cases for SessionProbe:
    answers
    create_then_load
    an_id_is_taken_once
    the_limit_counts_unfinished_sessions
    the_limit_holds_in_a_race
    every_transition_is_what_apply_says
    nothing_follows_the_end
    a_stale_row_commits_nothing
    a_regress_stops_the_older_writer
    the_size_is_fixed_once
    a_handle_is_adopted_once
    a_quota_counts_unfinished_sizes
    a_quota_holds_in_a_race
    one_of_many_writers_commits
    a_dropped_change_is_whole_or_nothing
    a_claim_keeps_others_out
    a_claim_is_released
    a_claim_is_taken_again
    one_of_many_claims
    pieces_come_in_order
    pieces_are_replaced_by_covering
    only_replaced_pieces_are_forgotten
    a_regress_drops_later_pieces
    a_regress_ends_publishing
    pieces_end_with_their_session
    unclean_tombstones_are_listed
    old_tombstones_are_purged
    expired_sessions_are_found
    a_notification_keeps_its_id
    a_delivered_upload_goes_on
    unpublished_sessions_are_found
    lists_are_filtered
    lists_are_filtered_by_idle_time
    sessions_are_tallied
    lists_come_in_pages
    values_at_the_limits
}

suite! {$
    /// Holds an [`UploadStore`](crate::UploadStore) to its contract. Takes an expression that
    /// gives a future of an [`UploadProbe`](crate::conformance::UploadProbe) on an empty store.
    ///
    /// The cases:
    upload_store_conformance of upload_cases for UploadProbe:
    answers
    one_write_is_published
    nothing_shows_before_publishing
    writes_at_any_offset_add_up
    many_small_writes_add_up
    sizes_around_the_part_size
    bodies_come_in_any_pieces
    a_broken_body_keeps_what_came
    an_empty_body_writes_nothing
    an_empty_upload_is_published
    regress_then_rewrite
    writes_without_a_row_do_no_harm
    a_stale_writer_does_no_harm
    what_was_begun_can_be_given_up
    what_was_written_is_available
    sync_at_any_offset
    inspect_says_what_stands_there
    an_existing_file_is_kept
    a_file_that_appears_late_is_kept
    overwriting_replaces_the_file
    publishing_again_changes_nothing
    the_first_of_two_wins
    one_of_many_at_once_wins
    a_folder_is_not_replaced
    a_folder_that_appears_late_is_not_replaced
    missing_folders_are_made_or_refused
    a_file_as_a_folder_is_refused
    discard_leaves_nothing
    discard_by_tombstone
    discard_touches_nothing_else
    many_uploads_at_once
    names_at_the_limits
    similar_names_never_mix
    published_files_are_read
    any_range_is_read
    nothing_is_opened_where_no_file_stands
    a_replaced_file_is_not_mixed_with_the_new_one
    tags_differ_with_the_content
    staged_uploads_are_read_then_published
    replies_are_kept_and_read
    an_empty_reply_is_none
    a_newer_reply_replaces_the_older
    a_reply_that_breaks_off_is_none
    a_reply_leaves_its_upload_alone
    a_reply_ends_with_its_session
    a_reply_without_a_row_is_found
}

suite! {$
    /// Holds an [`Outbox`](crate::Outbox) that is a [`SessionStore`](crate::SessionStore) too to
    /// its contract. Takes an expression that gives a future of an
    /// [`OutboxProbe`](crate::conformance::OutboxProbe) on an empty store.
    ///
    /// The cases:
    outbox_conformance of outbox_cases for OutboxProbe:
    changes_tell_what_they_are
    a_change_that_is_not_made_tells_nothing
    a_dropped_change_tells_as_much_as_it_does
    subscribers_are_told_what_they_want
    a_session_is_told_in_order
    sessions_do_not_wait_for_each_other
    a_claim_keeps_others_out_until_it_lapses
    one_of_many_claims_each_delivery
    a_postponed_delivery_waits
    a_lapsed_claim_postpones_nothing
    a_lapsed_claim_delivers
    the_next_due_time_is_told
    subscribers_do_not_wait_for_each_other
    what_is_too_old_is_dropped
    what_is_too_much_is_dropped
    claimed_events_are_not_dropped
    gaps_are_joined
    others_are_forgotten
    recent_events_are_read
    told_values_at_the_limits
}
