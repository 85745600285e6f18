//! Who may use the page and the API: by the listener's address, the `Host` header, login and origin.
//!
//! A page of another host can make a browser send requests here. It cannot read answers, nor send
//! headers of its own; a name of its own that it has pointed at this machine is not taken where
//! nobody logs in.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, Method, StatusCode, header, request::Parts, uri::Authority};

use crate::{
    auth::{Authentication, Denial, Proof},
    forwarded::TrustedProxies,
    peer::Peer,
};

/// Sent with requests that change something, by whoever is no browser's form: a page of another
/// host cannot send it.
const OWN_HEADER: HeaderName = HeaderName::from_static("x-bits-request");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Lets requests in.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub(super) proxies: TrustedProxies,
    /// The listener's own address.
    pub(super) address: IpAddr,
}

/// Why a request is not let in.
#[derive(Debug)]
pub(super) enum Refused {
    /// The caller is to log in, or may not.
    Login(Denial),
    /// The reason, for people.
    Forbidden(&'static str),
}

impl Refused {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Login(denial) => denial.refusal.status(),
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
        }
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Self::Login(denial) => denial.refusal.to_string(),
            Self::Forbidden(reason) => (*reason).to_owned(),
        }
    }
}

impl Gate {
    /// Who sends a request, if it is let in.
    pub(super) async fn admit(
        &self,
        authentication: &Authentication,
        head: &Parts,
        peer: Peer,
    ) -> Result<Proof, Refused> {
        let proof = if authentication.asks_admins() {
            let peer = self.proxies.of_request(peer, &head.headers);
            authentication.identify_admin(head, &peer).await.map_err(Refused::Login)?
        } else {
            self.admit_unknown(head).map_err(Refused::Forbidden)?;
            Proof::anonymous()
        };
        match head.method {
            Method::GET | Method::HEAD => Ok(proof),
            _ if is_own(&head.headers) => Ok(proof),
            _ => Err(Refused::Forbidden(
                "this request may come from a page of another host: send the header X-Bits-Request: 1 with it",
            )),
        }
    }

    fn admit_unknown(&self, head: &Parts) -> Result<(), &'static str> {
        if !self.address.to_canonical().is_loopback() {
            return Err("beyond loopback this needs a login: set admin.authentication; \
                 without it there are /healthz, /readyz and /metrics");
        }
        let sent = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
        let hosts = [head.uri.authority(), sent.as_ref()];
        let local = sent.is_some() && hosts.into_iter().flatten().all(|host| is_loopback(host.host()));
        if local {
            Ok(())
        } else {
            Err("without a login this is for localhost and 127.0.0.1 only, also as the URL says it: \
             set admin.authentication to use another name")
        }
    }
}

/// A name that nobody outside can point here.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let name = host.strip_suffix('.').unwrap_or(&host);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether a request that changes something comes from the page itself or from no page at all.
fn is_own(headers: &HeaderMap) -> bool {
    if headers.contains_key(OWN_HEADER) {
        return true;
    }
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text(&FETCH_SITE) {
        return site == "same-origin";
    }
    let origin = text(&header::ORIGIN).and_then(|origin| origin.split_once("://"));
    matches!((origin, text(&header::HOST)), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    async fn admit(address: &str, head: &Parts) -> Result<(), String> {
        let gate = Gate { proxies: TrustedProxies::default(), address: address.parse().unwrap() };
        let peer = Peer::plain("127.0.0.1:1".parse().unwrap());
        gate.admit(&Authentication::default(), head, peer).await.map(drop).map_err(|refused| refused.reason())
    }

    #[tokio::test]
    async fn only_names_of_loopback_reach_it_without_a_login() {
        for host in [
            "localhost",
            "LocalHost.",
            "localhost:8081",
            "127.0.0.1:8081",
            "127.9.9.9",
            "[::1]:8081",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(admit("127.0.0.1", &head("GET", "/", &[("host", host)])).await, Ok(()), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1", "", "[::2]", "::1", "a b"]
        {
            let refused = admit("127.0.0.1", &head("GET", "/", &[("host", host)])).await;
            assert!(refused.is_err_and(|reason| reason.contains("localhost")), "{host}");
        }
        assert!(admit("127.0.0.1", &head("GET", "/", &[])).await.is_err(), "no Host");
        let absolute = head("GET", "http://evil.example/", &[("host", "localhost")]);
        assert!(admit("127.0.0.1", &absolute).await.is_err());
    }

    #[tokio::test]
    async fn beyond_loopback_it_needs_a_login() {
        for address in ["0.0.0.0", "192.0.2.1", "::", "2001:db8::1"] {
            let refused = admit(address, &head("GET", "/", &[("host", "localhost")])).await;
            assert!(refused.is_err_and(|reason| reason.contains("admin.authentication")), "{address}");
        }
    }

    #[tokio::test]
    async fn pages_of_other_hosts_change_nothing() {
        let refused: [&[(&str, &str)]; 6] = [
            &[],
            &[("origin", "http://evil.example")],
            &[("origin", "http://localhost:8081.evil.example")],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site"), ("origin", "http://localhost:8081")],
            &[("sec-fetch-site", "none")],
        ];
        let taken: [&[(&str, &str)]; 3] = [
            &[("x-bits-request", "1")],
            &[("origin", "http://localhost:8081")],
            &[("sec-fetch-site", "same-origin"), ("origin", "null")],
        ];
        for (headers, expected) in refused.map(|one| (one, false)).into_iter().chain(taken.map(|one| (one, true))) {
            for method in ["POST", "DELETE", "PUT"] {
                let headers = [&[("host", "localhost:8081")], headers].concat();
                let admitted = admit("127.0.0.1", &head(method, "/", &headers)).await.is_ok();
                assert_eq!(admitted, expected, "{method} {headers:?}");
            }
        }
    }
}
