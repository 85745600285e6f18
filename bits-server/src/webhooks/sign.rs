//! Signatures by the Standard Webhooks specification (<https://www.standardwebhooks.com>):
//! HMAC-SHA256 over id, timestamp and body, for which receivers find libraries.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Before a secret that is written in base64.
const ENCODED: &str = "whsec_";
/// Secrets with fewer bytes could be guessed.
const SHORTEST: usize = 16;

/// Signs deliveries with a secret that it does not show.
#[derive(Clone)]
pub struct Signer(Hmac<Sha256>);

impl Signer {
    /// Signs with the bytes of `secret`; after `whsec_` they are written in base64. The error says
    /// what is wrong with it.
    pub fn new(secret: &str) -> Result<Self, String> {
        let key = match secret.strip_prefix(ENCODED) {
            Some(encoded) => BASE64_STANDARD
                .decode(encoded)
                .map_err(|_| format!("is no base64 after {ENCODED}; write it as it was given, or without {ENCODED}"))?,
            None => secret.as_bytes().to_vec(),
        };
        if key.len() < SHORTEST {
            return Err(format!(
                "is {} bytes long and could be guessed; write at least {SHORTEST}, such as `openssl rand -hex 32` prints",
                key.len()
            ));
        }
        Hmac::new_from_slice(&key).map(Self).map_err(|_| "cannot be used as a key".to_owned())
    }

    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut hmac = self.0.clone();
        hmac.update(format!("{id}.{timestamp}.").as_bytes());
        hmac.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(hmac.finalize().into_bytes()))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(<hidden>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's own libraries.
    #[test]
    fn the_specifications_example() {
        let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_its_bytes_unless_it_is_encoded() {
        let plain = "0123456789abcdef";
        let encoded = format!("whsec_{}", BASE64_STANDARD.encode(plain));
        let sign = |secret: &str| Signer::new(secret).unwrap().sign("id", 1, b"body");
        assert_eq!(sign(plain), sign(&encoded));
        assert_ne!(sign(plain), sign("0123456789abcdeg"));
    }

    #[test]
    fn everything_is_signed() {
        let signer = Signer::new("0123456789abcdef").unwrap();
        let signature = signer.sign("id", 12, b"body");
        for other in [signer.sign("ie", 12, b"body"), signer.sign("id", 13, b"body"), signer.sign("id", 12, b"bodz")] {
            assert_ne!(other, signature);
        }
        assert_eq!(signer.sign("id", 12, b"body"), signature);
    }

    #[test]
    fn bad_secrets_are_refused_without_showing_them() {
        for secret in ["", "0123456789abcde", "whsec_MDEyMzQ1Njc4OWFiY2Rl", "whsec_!!!!planted!!!!planted!!!!"] {
            let message = Signer::new(secret).unwrap_err();
            assert!(secret.is_empty() || !message.contains(secret), "{message}");
            assert!(!message.contains("planted"), "{message}");
        }
    }

    #[test]
    fn nothing_shows_a_signer() {
        assert_eq!(format!("{:?}", Signer::new("planted-planted-planted")), "Ok(Signer(<hidden>))");
    }
}
