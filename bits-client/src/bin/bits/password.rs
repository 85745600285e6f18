//! The password of the user whom a URL names: never on the command line, never in a job.

use std::{
    env,
    io::{self, IsTerminal},
    path::PathBuf,
};

use url::{Host, Url};

/// The password itself.
const VARIABLE: &str = "BITS_PASSWORD";
/// The name of a file whose first line it is.
const FILE_VARIABLE: &str = "BITS_PASSWORD_FILE";

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("{VARIABLE} is no text; write it in UTF-8")]
    NotUtf8,
    #[error("the password cannot be read from {}, which {FILE_VARIABLE} names: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error("the password cannot be read from the terminal: {0}")]
    Terminal(io::Error),
    #[error("everyone on the way to {0} could read the password; use https")]
    Plain(String),
    #[error("the user name cannot be part of a URL; it has no colon, and is not empty")]
    User,
}

/// Names the user in the URL, in the place of the one whom it names.
pub(crate) fn log_in_as(url: &mut Url, user: &str) -> Result<(), PasswordError> {
    if user.is_empty() || user.contains(':') {
        return Err(PasswordError::User);
    }
    url.set_username(user).and_then(|()| url.set_password(None)).map_err(|()| PasswordError::User)
}

/// The password for a URL that names a user without one: from the environment, from a file, or
/// from the terminal, if there is one. None where the URL says all, or there is nobody to ask.
pub(crate) fn wanted_by(url: &Url) -> Result<Option<String>, PasswordError> {
    if url.username().is_empty() || url.password().is_some() {
        return Ok(None);
    }
    if url.scheme() != "https" && !is_local(url) {
        return Err(PasswordError::Plain(url.host_str().unwrap_or_default().to_owned()));
    }
    if let Some(password) = env::var_os(VARIABLE).filter(|password| !password.is_empty()) {
        return password.into_string().map(Some).map_err(|_| PasswordError::NotUtf8);
    }
    if let Some(path) = env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from) {
        let text = std::fs::read_to_string(&path).map_err(|cause| PasswordError::File { path, cause })?;
        return Ok(Some(text.lines().next().unwrap_or_default().to_owned()));
    }
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let prompt = format!("Password of {} at {}: ", url.username(), url.host_str().unwrap_or_default());
    rpassword::prompt_password(prompt).map(Some).map_err(PasswordError::Terminal)
}

/// Whether the URL leads to this machine.
fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_user_takes_the_place_of_the_urls_own() {
        let mut to = url("https://me:secret@server/up/f");
        log_in_as(&mut to, "jo@corp.example").unwrap();
        assert_eq!(to.as_str(), "https://jo%40corp.example@server/up/f");
        for user in ["", "a:b"] {
            assert!(matches!(log_in_as(&mut to, user), Err(PasswordError::User)));
        }
    }

    #[test]
    fn no_password_goes_over_plain_http_beyond_this_machine() {
        for plain in ["http://jo@server/f", "http://jo@192.0.2.1/f"] {
            assert!(matches!(wanted_by(&url(plain)), Err(PasswordError::Plain(_))), "{plain}");
        }
        for own in ["http://server/f", "http://jo:pw@server/f", "https://server/f"] {
            assert!(matches!(wanted_by(&url(own)), Ok(None)), "{own}");
        }
        for local in ["http://127.0.0.1:80/f", "http://[::1]/f", "http://localhost/f"] {
            assert!(is_local(&url(local)), "{local}");
        }
    }
}
