//! Trusted proxies: they log callers in themselves and name them in a header.

use bits_core::Principal;
use http::HeaderName;

use super::{Attempt, Verdict};

/// The user whom a trusted proxy names. What anybody else writes into the header is not looked at.
pub(super) fn examine(attempt: &Attempt<'_>, header: &HeaderName) -> Verdict {
    if !attempt.peer.trusted_proxy {
        return Verdict::Absent;
    }
    let mut values = attempt.head.headers.get_all(header).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        // Two may be the proxy's and the caller's own.
        return Verdict::Absent;
    };
    let user = std::str::from_utf8(value.as_bytes()).ok().filter(|user| !user.is_empty());
    match user.map(Principal::parse) {
        Some(Ok(principal)) => Verdict::Proved(principal, None),
        Some(Err(reason)) => {
            tracing::warn!(%reason, "a trusted proxy names a user who cannot be");
            Verdict::Absent
        }
        None => Verdict::Absent,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, request::Parts};

    use super::*;
    use crate::{auth::throttle::Throttle, peer::Peer};

    const USER: HeaderName = HeaderName::from_static("x-remote-user");

    fn head(users: &[&str]) -> Parts {
        let mut request = Request::builder();
        for user in users {
            request = request.header(USER, user.as_bytes());
        }
        request.body(()).unwrap().into_parts().0
    }

    fn user(users: &[&str], trusted_proxy: bool) -> Option<String> {
        let peer = Peer { trusted_proxy, ..Peer::plain("192.0.2.1:1".parse().unwrap()) };
        let (head, throttle) = (head(users), Arc::new(Throttle::default()));
        match examine(&Attempt { head: &head, peer: &peer, throttle: &throttle }, &USER) {
            Verdict::Proved(principal, None) => Some(principal.as_str().to_owned()),
            Verdict::Absent => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_trusted_proxy_names_a_user() {
        assert_eq!(user(&["Jo@Corp"], true).as_deref(), Some("jo@corp"));
        assert_eq!(user(&["jörg"], true).as_deref(), Some("jörg"));
        assert_eq!(user(&["Jo@Corp"], false), None);
        for users in [&[][..], &[""], &["jo", "ann"], &["anonymous"], &["jo\tx"], &["\u{212a}im"]] {
            assert_eq!(user(users, true), None, "{users:?}");
        }
    }
}
