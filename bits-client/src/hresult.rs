//! What the error codes of servers mean, in words.

use bits_core::Hresult;

/// An error code in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Its symbolic name.
    pub name: &'static str,
    /// What was wrong.
    pub words: &'static str,
    /// What to do.
    pub advice: &'static str,
}

impl Meaning {
    /// The meaning of a code; none for codes that the protocol does not use.
    pub fn of(code: Hresult) -> Option<Self> {
        TABLE.iter().find(|(known, _)| *known == code).map(|(_, meaning)| *meaning)
    }
}

const fn row(code: Hresult, name: &'static str, words: &'static str, advice: &'static str) -> (Hresult, Meaning) {
    (code, Meaning { name, words, advice })
}

const TABLE: &[(Hresult, Meaning)] = &[
    row(
        Hresult::BG_E_SESSION_NOT_FOUND,
        "BG_E_SESSION_NOT_FOUND",
        "the server does not know the upload session",
        "upload again",
    ),
    row(
        Hresult::BG_E_TOO_LARGE,
        "BG_E_TOO_LARGE",
        "the file is larger than the server takes",
        "upload a smaller file, or have the server's maximum upload size raised",
    ),
    row(
        Hresult::E_ACCESSDENIED,
        "E_ACCESSDENIED",
        "access denied, or the destination exists and may not be overwritten",
        "pick another name, check user and password, or ask the server's operator for access",
    ),
    row(
        Hresult::E_INVALIDARG,
        "E_INVALIDARG",
        "the server finds the request malformed, or the destination is a folder",
        "check the URL; a proxy on the way may have changed the request",
    ),
    row(Hresult::ERROR_FILE_NOT_FOUND, "ERROR_FILE_NOT_FOUND", "the server has lost the uploaded data", "upload again"),
    row(
        Hresult::ERROR_PATH_NOT_FOUND,
        "ERROR_PATH_NOT_FOUND",
        "the server takes no uploads at this URL, or its folder does not exist",
        "check the URL",
    ),
    row(
        Hresult::ERROR_INVALID_NAME,
        "ERROR_INVALID_NAME",
        "the server cannot use the file's name",
        "give the upload another name at the end of the URL",
    ),
    row(
        Hresult::ERROR_DISK_FULL,
        "ERROR_DISK_FULL",
        "the server has no space left, or a quota is used up",
        "free space on the server, or raise the quota, and resume",
    ),
    row(Hresult::ERROR_RETRY, "ERROR_RETRY", "the server cannot reach its storage, or is too busy", "resume later"),
    row(
        Hresult::BG_E_HTTP_ERROR_503,
        "BG_E_HTTP_ERROR_503",
        "you have as many unfinished uploads as the server allows, or it is too busy",
        "finish or cancel other uploads, and resume",
    ),
    row(
        Hresult(0x8019_01F6),
        "BG_E_HTTP_ERROR_502",
        "the application behind the server cannot be reached",
        "resume later",
    ),
    row(
        Hresult(0x8007_2EE2),
        "ERROR_INTERNET_TIMEOUT",
        "the application behind the server did not answer in time",
        "resume later",
    ),
    row(Hresult::E_FAIL, "E_FAIL", "the server failed", "resume later, or look into the server's log"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_once_and_says_something() {
        for (index, (code, meaning)) in TABLE.iter().enumerate() {
            assert_eq!(Meaning::of(*code), Some(*meaning));
            assert!(TABLE[..index].iter().all(|(other, _)| other != code), "{code}");
            assert!(![meaning.name, meaning.words, meaning.advice].contains(&""), "{code}");
        }
        assert_eq!(Meaning::of(Hresult(1)), None);
    }
}
