//! Answers to GET and HEAD (section 3.5): an opened file, whole or in ranges, under conditions.

mod body;
mod condition;
mod range;

use std::time::{SystemTime, UNIX_EPOCH};

use bits_core::{ObjectInfo, Opened, Refusal};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts};
use http_body_util::{Either, Full};
use httpdate::fmt_http_date;
use uuid::Uuid;

pub(crate) use body::DownloadBody;
use body::Piece;
use condition::{Outcome, Validators};
use range::Selection;

/// Whatever a file holds, it is bytes to be stored, never a page to be shown.
const CONTENT_TYPE: &str = "application/octet-stream";
/// The last second that an HTTP date can name.
const LAST_SECOND: u64 = 253_402_300_799;

/// The body of any answer.
pub(crate) type AnswerBody = Either<Full<Bytes>, DownloadBody>;

/// The answer to a GET or HEAD whose head is `head`, for what was opened.
pub(crate) fn serve(opened: Box<dyn Opened>, head: &Parts) -> Response<AnswerBody> {
    let info = opened.info().clone();
    let validators = validators(&info, SystemTime::now());
    let mut response = match validators.evaluate(&head.headers) {
        Outcome::Failed => empty(StatusCode::PRECONDITION_FAILED),
        Outcome::NotModified => without_length(StatusCode::NOT_MODIFIED),
        Outcome::Proceed => select(opened, &info, &validators, head),
    };
    let headers = response.headers_mut();
    // The same moment that dates were compared by.
    headers.insert(header::DATE, text(http_date(validators.now)));
    headers.insert(header::ETAG, text(validators.etag));
    headers.insert(header::LAST_MODIFIED, text(http_date(validators.modified)));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What stands here may be another file at any time, and may not be for everyone.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The answer where there is nothing to be sent.
pub(crate) fn refused(refusal: &Refusal) -> Response<AnswerBody> {
    let status = refusal.status();
    let mut response = empty(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, Refusal::RETRY_AFTER.as_secs().into());
    }
    response
}

fn select(opened: Box<dyn Opened>, info: &ObjectInfo, validators: &Validators, head: &Parts) -> Response<AnswerBody> {
    let size = info.size;
    match selection(validators, head, size) {
        Selection::Whole => {
            let mut response = body(opened, head, StatusCode::OK, vec![Piece::File(0..size)]);
            describe(response.headers_mut(), CONTENT_TYPE);
            response
        }
        Selection::Ranges(ranges) => match ranges.as_slice() {
            [range] => {
                let mut response = body(opened, head, StatusCode::PARTIAL_CONTENT, vec![Piece::File(range.clone())]);
                describe(response.headers_mut(), CONTENT_TYPE);
                response.headers_mut().insert(header::CONTENT_RANGE, text(content_range(range, size)));
                response
            }
            ranges => {
                let boundary = Uuid::new_v4().simple().to_string();
                let mut response = body(opened, head, StatusCode::PARTIAL_CONTENT, multipart(ranges, size, &boundary));
                describe(response.headers_mut(), &format!("multipart/byteranges; boundary={boundary}"));
                response
            }
        },
        Selection::Unsatisfiable => {
            let mut response = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            response.headers_mut().insert(header::CONTENT_RANGE, text(format!("bytes */{size}")));
            response
        }
    }
}

/// Ranges are for GET alone (RFC 9110, section 14.2).
fn selection(validators: &Validators, head: &Parts, size: u64) -> Selection {
    let mut values = head.headers.get_all(header::RANGE).iter();
    let one = values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok());
    match one {
        Some(value) if head.method == Method::GET && validators.permits_range(&head.headers) => {
            Selection::parse(value, size)
        }
        _ => Selection::Whole,
    }
}

/// The parts of `multipart/byteranges`: no line before the first boundary, and besides
/// `Content-Range` and `Content-Type` no more than the boundary of 36 bytes and line ends.
fn multipart(ranges: &[std::ops::Range<u64>], size: u64, boundary: &str) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(ranges.len() * 2 + 1);
    for (at, range) in ranges.iter().enumerate() {
        let line_end = if at == 0 { "" } else { "\r\n" };
        let range_header = content_range(range, size);
        let head =
            format!("{line_end}--{boundary}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Range: {range_header}\r\n\r\n");
        pieces.push(Piece::Text(head.into()));
        pieces.push(Piece::File(range.clone()));
    }
    pieces.push(Piece::Text(format!("\r\n--{boundary}--\r\n").into()));
    pieces
}

fn body(opened: Box<dyn Opened>, head: &Parts, status: StatusCode, pieces: Vec<Piece>) -> Response<AnswerBody> {
    let length: u64 = pieces.iter().map(Piece::len).sum();
    let body = match head.method {
        Method::HEAD => Either::Left(Full::default()),
        _ => Either::Right(DownloadBody::new(opened, pieces, head.extensions.get().cloned())),
    };
    with_length(status, length, body)
}

fn describe(headers: &mut HeaderMap, content_type: &str) {
    headers.insert(header::CONTENT_TYPE, text(content_type.to_owned()));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
}

fn empty(status: StatusCode) -> Response<AnswerBody> {
    with_length(status, 0, Either::Left(Full::default()))
}

fn with_length(status: StatusCode, length: u64, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// 304 has no length of its own: it would be taken for the file's.
fn without_length(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = status;
    response
}

fn content_range(range: &std::ops::Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

/// A file from the future is as old as the answer (RFC 9110, section 8.8.2.1).
fn validators(info: &ObjectInfo, now: SystemTime) -> Validators {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let modified = u64::try_from(info.modified.as_millis()).unwrap_or(0) / 1000;
    Validators {
        etag: format!("\"{}\"", info.tag),
        modified: modified.min(now).min(LAST_SECOND),
        now,
        strong_date: info.strong_date,
    }
}

fn http_date(seconds: u64) -> String {
    fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

/// Text of ours: digits, dates, tags of visible ASCII.
fn text(value: String) -> HeaderValue {
    HeaderValue::try_from(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
