//! The table of failures: what stands on the wire comes from `bits-core`, what Windows makes of it
//! from Microsoft's pages.

use std::fmt::Write;

use bits_core::{Hresult, InvalidPath, Refusal};
use http::StatusCode;

/// What a job of Windows does with an answer.
enum Job {
    /// `BG_JOB_STATE_ERROR`.
    Ends,
    /// `BG_JOB_STATE_TRANSIENT_ERROR`.
    Waits,
    /// It goes on at once.
    GoesOn(&'static str),
}

struct Row {
    failure: &'static str,
    refusal: Refusal,
    job: Job,
    remedy: &'static str,
}

fn rows() -> Vec<Row> {
    let row = |failure, refusal, job, remedy| Row { failure, refusal, job, remedy };
    let exists = |status| Refusal::DestinationExists { status };
    let application = |status, code| Refusal::Application { status, code };
    vec![
        row(
            "nobody is logged in, or the password is wrong",
            Refusal::Unauthenticated,
            Job::GoesOn("with the job's credentials, if it has some that were not tried; else it ends with 0x80190191"),
            "set credentials on the job; the log has a line for each failed login",
        ),
        row(
            "30 logins failed from this address within a minute",
            Refusal::TooManyLogins,
            Job::Ends,
            "correct the credentials, wait a minute, resume; `limits.failed_logins_per_minute`",
        ),
        row(
            "the user may not upload here; the storage denies the server access",
            Refusal::AccessDenied,
            Job::Ends,
            "`allow_users`; permissions of the storage's folder, for which the log says which",
        ),
        row(
            "a file stands at the destination",
            exists(StatusCode::FORBIDDEN),
            Job::Ends,
            "another name, or `allow_overwrites = true`",
        ),
        row(
            "the same with `conflict_status = 409`",
            exists(StatusCode::CONFLICT),
            Job::Ends,
            "the same: the code ends the job although 409 alone would be tried again",
        ),
        row("`upload_enabled = false`", Refusal::UploadsDisabled, Job::Ends, "`upload_enabled = true`"),
        row(
            "no directory's `url_path` begins the URL's path",
            Refusal::PathNotFound,
            Job::Ends,
            "the URL, or `url_path`; a proxy that strips a prefix",
        ),
        row(
            "the destination's folder is missing",
            Refusal::ParentMissing,
            Job::Ends,
            "make the folder, or `create_directories = true`",
        ),
        row(
            "a packet breaks a rule of the protocol",
            Refusal::Malformed("any"),
            Job::Ends,
            "look for a proxy that changes requests; the log at `debug` says which rule",
        ),
        row("the destination is a folder", Refusal::DestinationIsFolder, Job::Ends, "a name behind the last slash"),
        row(
            "a name that Windows or the storage cannot have",
            Refusal::InvalidName(InvalidPath::Reserved),
            Job::Ends,
            "another name",
        ),
        row(
            "the session has expired, was cancelled, or is another user's",
            Refusal::SessionNotFound,
            Job::GoesOn("from the first byte, in a new session"),
            "none is needed; if it happens often, raise `session_timeout`",
        ),
        row(
            "the server wants older bytes: after a power loss, a failed disk or a restored backup",
            Refusal::Gap { next: 0 },
            Job::GoesOn("at the offset that the answer names"),
            "none is needed",
        ),
        row(
            "larger than `maximum_upload_size`",
            Refusal::TooLarge,
            Job::Ends,
            "a smaller file, or a larger `maximum_upload_size`",
        ),
        row(
            "a fragment larger than `maximum_fragment_size`, or than a proxy lets through",
            Refusal::FragmentTooLarge,
            Job::GoesOn("with smaller fragments, down to 5 KiB; if that is too large too, it ends"),
            "the limit of the proxy (`client_max_body_size`, `LimitRequestBody`)",
        ),
        row(
            "the disk is full, or below `reserve_free`",
            Refusal::DiskFull,
            Job::Waits,
            "free space; jobs go on by themselves",
        ),
        row(
            "`unfinished_bytes` or `unfinished_bytes_per_user` is used up",
            Refusal::OverQuota,
            Job::Waits,
            "let other uploads finish, cancel some (`bits-server sessions list`, `cancel`), or raise the quota",
        ),
        row(
            "`session_limit_per_user` is reached",
            Refusal::SessionLimit,
            Job::Waits,
            "the same; `Retry-After` says 30 s",
        ),
        row(
            "a store does not answer, or `limits.connections` are open",
            Refusal::Unavailable,
            Job::Waits,
            "`/readyz` and the log say which store; `limits`",
        ),
        row(
            "what was uploaded has vanished from the storage",
            Refusal::StagedDataVanished,
            Job::Ends,
            "find out who deletes below `BITS-Sessions`; upload again",
        ),
        row("a fault of the server", Refusal::Internal, Job::Waits, "the log has the cause"),
        row(
            "the server application said no",
            application(StatusCode::FORBIDDEN, Hresult::E_ACCESSDENIED),
            Job::Ends,
            "the application's log; it is not asked again for this upload",
        ),
        row(
            "the server application answered 500, and no code",
            application(StatusCode::INTERNAL_SERVER_ERROR, Hresult(0x8019_01F4)),
            Job::Waits,
            "the application's log; it is told again when the job comes back",
        ),
        row(
            "the server application cannot be reached",
            Refusal::ApplicationUnreachable,
            Job::Waits,
            "`notification_url`; start the application",
        ),
        row(
            "the server application took longer than `notification_timeout`",
            Refusal::ApplicationTimeout,
            Job::Waits,
            "a faster application: let it answer first and work afterwards",
        ),
        row(
            "the server application's reply URL is not absolute, or too long",
            Refusal::ReplyUrl,
            Job::Ends,
            "correct `BITS-Static-Response-URL`",
        ),
    ]
}

/// The table as Markdown.
pub(crate) fn table() -> String {
    let mut text = "| failure | HTTP | HRESULT | context | job | retried | event | remedy |\n\
        | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for Row { failure, refusal, job, remedy } in rows() {
        let code = refusal.hresult().map_or_else(|| "none".to_owned(), |code| format!("`{code}`"));
        let context = refusal.context().unwrap_or("none");
        let (state, retried, event) = job.columns();
        let status = refusal.status().as_u16();
        let _ =
            writeln!(text, "| {failure} | {status} | {code} | {context} | {state} | {retried} | {event} | {remedy} |");
    }
    text
}

impl Job {
    fn columns(&self) -> (&'static str, String, &'static str) {
        match self {
            Self::Ends => ("`ERROR`", "no: `Resume-BitsTransfer` after the remedy".to_owned(), "61"),
            Self::Waits => ("`TRANSIENT_ERROR`", "after the retry delay, 10 minutes".to_owned(), "61, then 59"),
            Self::GoesOn(how) => ("`TRANSFERRING`", format!("at once: {how}"), "none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_job_is_what_microsoft_says_ends_it() {
        for Row { failure, refusal, job, .. } in rows() {
            let final_code = [Hresult::E_ACCESSDENIED, Hresult::E_INVALIDARG, Hresult::BG_E_TOO_LARGE]
                .iter()
                .any(|code| refusal.hresult() == Some(*code));
            let status = refusal.status().as_u16();
            let final_status = match status {
                400..500 => !matches!(status, 408 | 409),
                500..600 => matches!(status, 501 | 505),
                _ => false,
            };
            match job {
                Job::Ends => assert!(final_code || final_status, "{failure}"),
                Job::Waits => assert!(!final_code && !final_status, "{failure}"),
                Job::GoesOn(_) => assert!(matches!(status, 401 | 413 | 416 | 500), "{failure}"),
            }
        }
    }
}
