//! One transcript for each rule of the protocol, in `transcripts/`; the syntax is explained in
//! `src/transcript.rs`.

macro_rules! transcripts {
    ($($name:ident: $file:literal,)*) => {
        const LISTED: &[&str] = &[$($file),*];
        $(
            #[test]
            fn $name() {
                tests::play($file, include_str!(concat!("../transcripts/", $file, ".txt")));
            }
        )*
    };
}

transcripts! {
    section_2_2_1_body_where_none_belongs: "2.2.1-body-where-none-belongs",
    section_2_2_1_header_names: "2.2.1-header-names",
    section_2_2_1_http_version: "2.2.1-http-version",
    section_2_2_1_long_header: "2.2.1-long-header",
    section_2_2_1_1_content_length_missing: "2.2.1.1-content-length-missing",
    section_2_2_1_1_content_name: "2.2.1.1-content-name",
    section_2_2_1_2_disk_full_total: "2.2.1.2-disk-full-total",
    section_2_2_1_2_packet_type: "2.2.1.2-packet-type",
    section_2_2_1_2_quota: "2.2.1.2-quota",
    section_2_2_1_2_quota_freed: "2.2.1.2-quota-freed",
    section_2_2_1_2_session_id: "2.2.1.2-session-id",
    section_2_2_1_2_session_not_found: "2.2.1.2-session-not-found",
    section_2_2_2_create_session: "2.2.2-create-session",
    section_2_2_2_2_supported_protocols: "2.2.2.2-supported-protocols",
    section_2_2_3_2_host_id: "2.2.3.2-host-id",
    section_2_2_3_2_host_id_default_timeout: "2.2.3.2-host-id-default-timeout",
    section_2_2_4_ping: "2.2.4-ping",
    section_2_2_6_1_content_encoding: "2.2.6.1-content-encoding",
    section_2_2_6_1_content_length_and_range: "2.2.6.1-content-length-and-range",
    section_2_2_6_1_content_range: "2.2.6.1-content-range",
    section_3_2_1_1_longest_url_path: "3.2.1.1-longest-url-path",
    section_3_2_4_2_uploads_disabled: "3.2.4.2-uploads-disabled",
    section_3_2_5_2_3_other_path: "3.2.5.2.3-other-path",
    section_3_2_5_2_3_same_path_otherwise_spelled: "3.2.5.2.3-same-path-otherwise-spelled",
    section_3_2_5_2_4_conflict_status: "3.2.5.2.4-conflict-status",
    section_3_2_5_2_4_destination_exists: "3.2.5.2.4-destination-exists",
    section_3_2_5_2_4_destination_is_folder: "3.2.5.2.4-destination-is-folder",
    section_3_2_5_2_4_first_to_finish_wins: "3.2.5.2.4-first-to-finish-wins",
    section_3_2_5_2_4_folder_appears: "3.2.5.2.4-folder-appears",
    section_3_2_5_2_4_folders_created: "3.2.5.2.4-folders-created",
    section_3_2_5_2_4_outside_directories: "3.2.5.2.4-outside-directories",
    section_3_2_5_2_4_overwrite: "3.2.5.2.4-overwrite",
    section_3_2_5_2_4_parent_is_file: "3.2.5.2.4-parent-is-file",
    section_3_2_5_2_4_parent_missing: "3.2.5.2.4-parent-missing",
    section_3_2_5_2_6_after_completion: "3.2.5.2.6-after-completion",
    section_3_2_5_2_6_destination_appears: "3.2.5.2.6-destination-appears",
    section_3_2_5_2_6_fragment_too_large: "3.2.5.2.6-fragment-too-large",
    section_3_2_5_2_6_gap: "3.2.5.2.6-gap",
    section_3_2_5_2_6_held: "3.2.5.2.6-held",
    section_3_2_5_2_6_in_order: "3.2.5.2.6-in-order",
    section_3_2_5_2_6_large: "3.2.5.2.6-large",
    section_3_2_5_2_6_overlap: "3.2.5.2.6-overlap",
    section_3_2_5_2_6_total_changed: "3.2.5.2.6-total-changed",
    section_3_2_5_2_6_total_not_fixed_by_refusal: "3.2.5.2.6-total-not-fixed-by-refusal",
    section_3_2_5_2_6_total_too_large: "3.2.5.2.6-total-too-large",
    section_3_2_5_2_7_close: "3.2.5.2.7-close",
    section_3_2_5_2_7_close_before_completion: "3.2.5.2.7-close-before-completion",
    section_3_2_5_2_7_close_twice: "3.2.5.2.7-close-twice",
    section_3_2_5_2_7_file_moved_away: "3.2.5.2.7-file-moved-away",
    section_3_2_5_2_7_fragment_after_close: "3.2.5.2.7-fragment-after-close",
    section_3_2_5_2_7_publish_at_close: "3.2.5.2.7-publish-at-close",
    section_3_2_5_2_7_publish_at_close_cancel: "3.2.5.2.7-publish-at-close-cancel",
    section_3_2_5_2_7_publish_at_close_conflict: "3.2.5.2.7-publish-at-close-conflict",
    section_3_2_5_2_8_cancel: "3.2.5.2.8-cancel",
    section_3_2_5_2_8_cancel_after_publishing: "3.2.5.2.8-cancel-after-publishing",
    section_3_2_5_2_8_cancel_without_fragment: "3.2.5.2.8-cancel-without-fragment",
    section_4_1_real_client: "4.1-real-client",
    section_4_2_real_client_host_id: "4.2-real-client-host-id",
    config_store_as_session: "config-store-as-session",
    decision_10_chunked_native: "decision-10-chunked-native",
    decision_10_chunked_override: "decision-10-chunked-override",
    decision_10_chunked_wrong_length: "decision-10-chunked-wrong-length",
    decision_12_cancel_remembered: "decision-12-cancel-remembered",
    decision_13_case: "decision-13-case",
    decision_8_empty_native: "decision-8-empty-native",
    decision_8_empty_override: "decision-8-empty-override",
    decision_8_empty_override_malformed: "decision-8-empty-override-malformed",
    decision_8_empty_override_named: "decision-8-empty-override-named",
    decision_8_empty_range: "decision-8-empty-range",
    decision_8_empty_range_at_close: "decision-8-empty-range-at-close",
    other_methods: "other-methods",
    pipelined: "pipelined",
}

#[test]
fn every_transcript_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/transcripts");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let missing: Vec<String> =
        files.filter(|file| !LISTED.contains(&file.strip_suffix(".txt").unwrap_or_default())).collect();
    assert!(missing.is_empty(), "not played: {missing:?}");
}
