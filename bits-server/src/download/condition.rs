//! Conditional requests (RFC 9110, section 13): whether what the client knows is still so.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use httpdate::parse_http_date;

/// What a client can compare its copy by.
#[derive(Clone, Debug)]
pub(super) struct Validators {
    /// The entity tag with its quotes; strong.
    pub(super) etag: String,
    /// Whole seconds since the Unix epoch; what `Last-Modified` says.
    pub(super) modified: u64,
    /// The same of the answer; what `Date` says.
    pub(super) now: u64,
    /// Whether other content has another date, once its second is over.
    pub(super) strong_date: bool,
}

/// What the preconditions of a GET or HEAD come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The request is carried out.
    Proceed,
    /// 304: the client has this already.
    NotModified,
    /// 412: this is not what the client wants.
    Failed,
}

impl Validators {
    /// Evaluates the preconditions in the order of RFC 9110, section 13.2.2. A date that is none
    /// is ignored.
    pub(super) fn evaluate(&self, headers: &HeaderMap) -> Outcome {
        let passes = match tags(headers, &header::IF_MATCH) {
            Some(tags) => tags.any(|tag| tag == self.etag),
            None => date(headers, &header::IF_UNMODIFIED_SINCE).is_none_or(|date| self.modified <= date),
        };
        if !passes {
            return Outcome::Failed;
        }
        let has_it = match tags(headers, &header::IF_NONE_MATCH) {
            Some(tags) => tags.any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == self.etag),
            None => date(headers, &header::IF_MODIFIED_SINCE).is_some_and(|date| self.modified <= date),
        };
        if has_it { Outcome::NotModified } else { Outcome::Proceed }
    }

    /// Whether the client's other ranges are of this content, as far as `If-Range` says (RFC 9110,
    /// section 13.1.5): by the same tag, or by exactly the same date. Of a second that is not over
    /// a date says nothing for certain (section 8.8.2.2): the file may change once more within it.
    pub(super) fn permits_range(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::IF_RANGE).iter();
        match (values.next(), values.next()) {
            (None, _) => true,
            (Some(value), None) => {
                let is_strong = self.strong_date && self.modified < self.now;
                value.as_bytes() == self.etag.as_bytes()
                    || (is_strong && seconds(value).is_some_and(|date| date == self.modified))
            }
            (Some(_), Some(_)) => false,
        }
    }
}

/// The value of `If-Match` or `If-None-Match`.
enum Tags {
    /// `*`: whatever there is.
    Any,
    Listed(Vec<String>),
}

impl Tags {
    fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(tags) => tags.iter().any(|tag| matches(tag)),
        }
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Option<Tags> {
    let mut listed = None;
    for value in headers.get_all(name) {
        let text = String::from_utf8_lossy(value.as_bytes());
        if text.trim_ascii() == "*" {
            return Some(Tags::Any);
        }
        list(&text, listed.get_or_insert_default());
    }
    listed.map(Tags::Listed)
}

/// Adds the entity tags of a list, up to where its syntax is broken. A tag may hold commas.
fn list(text: &str, tags: &mut Vec<String>) {
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let opaque = rest.strip_prefix("W/").unwrap_or(rest);
        let Some(length) = opaque.strip_prefix('"').and_then(|inner| inner.find('"')) else { return };
        let (tag, after) = rest.split_at(rest.len() - opaque.len() + length + 2);
        tags.push(tag.to_owned());
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            return;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    seconds(value)
}

fn seconds(value: &HeaderValue) -> Option<u64> {
    let time = parse_http_date(value.to_str().ok()?).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "Sat, 29 Oct 1994 19:43:30 GMT";
    const EXACT: &str = "Sat, 29 Oct 1994 19:43:31 GMT";
    const AFTER: &str = "Sat, 29 Oct 1994 19:43:32 GMT";

    fn validators() -> Validators {
        Validators { etag: "\"a,b\"".to_owned(), modified: 783_459_811, now: 783_459_812, strong_date: true }
    }

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        headers.iter().map(pair).fold(HeaderMap::new(), |mut map, (name, value)| {
            map.append(name, value);
            map
        })
    }

    #[track_caller]
    fn check(headers: &[(&'static str, &str)], expected: Outcome) {
        assert_eq!(validators().evaluate(&map(headers)), expected, "{headers:?}");
    }

    #[test]
    fn single_conditions() {
        use Outcome::{Failed, NotModified, Proceed};
        for (name, value, expected) in [
            ("if-match", "\"a,b\"", Proceed),
            ("if-match", "\"x\", \"a,b\"", Proceed),
            ("if-match", "*", Proceed),
            ("if-match", "\"x\"", Failed),
            ("if-match", "W/\"a,b\"", Failed),
            ("if-match", "\"a\"", Failed),
            ("if-match", "a,b", Failed),
            ("if-match", "", Failed),
            ("if-match", "\"x\" \"a,b\"", Failed),
            ("if-match", ", ,\"a,b\"", Proceed),
            ("if-unmodified-since", EXACT, Proceed),
            ("if-unmodified-since", AFTER, Proceed),
            ("if-unmodified-since", BEFORE, Failed),
            ("if-unmodified-since", "yesterday", Proceed),
            ("if-unmodified-since", "Saturday, 29-Oct-94 19:43:31 GMT", Proceed),
            ("if-unmodified-since", "Sat Oct 29 19:43:30 1994", Failed),
            ("if-none-match", "\"a,b\"", NotModified),
            ("if-none-match", "W/\"a,b\"", NotModified),
            ("if-none-match", "*", NotModified),
            ("if-none-match", "\"x\"", Proceed),
            ("if-none-match", "\"x\",W/\"a,b\"", NotModified),
            ("if-none-match", "w/\"a,b\"", Proceed),
            ("if-modified-since", EXACT, NotModified),
            ("if-modified-since", AFTER, NotModified),
            ("if-modified-since", BEFORE, Proceed),
            ("if-modified-since", "today", Proceed),
        ] {
            check(&[(name, value)], expected);
        }
    }

    #[test]
    fn which_condition_counts() {
        use Outcome::{Failed, NotModified, Proceed};
        // A tag is better than a date.
        check(&[("if-match", "\"a,b\""), ("if-unmodified-since", BEFORE)], Proceed);
        check(&[("if-match", "\"x\""), ("if-unmodified-since", AFTER)], Failed);
        check(&[("if-none-match", "\"x\""), ("if-modified-since", AFTER)], Proceed);
        check(&[("if-none-match", "\"a,b\""), ("if-modified-since", BEFORE)], NotModified);
        // What must be so comes before what may not.
        check(&[("if-match", "\"x\""), ("if-none-match", "\"a,b\"")], Failed);
        check(&[("if-match", "\"a,b\""), ("if-none-match", "\"a,b\"")], NotModified);
        check(&[("if-unmodified-since", BEFORE), ("if-modified-since", EXACT)], Failed);
        check(&[("if-unmodified-since", EXACT), ("if-modified-since", EXACT)], NotModified);
        // A list may be spread over several lines, a date may not.
        check(&[("if-match", "\"x\""), ("if-match", "\"a,b\"")], Proceed);
        check(&[("if-modified-since", EXACT), ("if-modified-since", EXACT)], Proceed);
    }

    #[test]
    fn conditions_of_ranges() {
        for (headers, permitted) in [
            (&[][..], true),
            (&[("if-range", "\"a,b\"")], true),
            (&[("if-range", "W/\"a,b\"")], false),
            (&[("if-range", "\"x\"")], false),
            (&[("if-range", "*")], false),
            (&[("if-range", EXACT)], true),
            (&[("if-range", BEFORE)], false),
            (&[("if-range", AFTER)], false),
            (&[("if-range", "nonsense")], false),
            (&[("if-range", "\"a,b\""), ("if-range", "\"a,b\"")], false),
        ] {
            assert_eq!(validators().permits_range(&map(headers)), permitted, "{headers:?}");
        }
        let fresh = Validators { now: validators().modified, ..validators() };
        assert!(!fresh.permits_range(&map(&[("if-range", EXACT)])), "its second is not over");
        let weak = Validators { strong_date: false, ..validators() };
        assert!(!weak.permits_range(&map(&[("if-range", EXACT)])), "others may have the same");
        assert!(weak.permits_range(&map(&[("if-range", "\"a,b\"")])));
        assert!(fresh.permits_range(&map(&[("if-range", "\"a,b\"")])));
    }
}
