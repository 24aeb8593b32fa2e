//! Who may read: whoever sends one of the tokens in a mounted file, one a line.
//!
//! The file is read anew at most once a second, so that a rotated token counts, and an old one no longer does, without a
//! restart. How long a comparison takes says nothing of how much of a token was right.

use crate::secret::Secret;
use axum::http::{HeaderMap, header};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const REREAD: Duration = Duration::from_secs(1);

pub(super) struct Tokens {
    file: String,
    read: Mutex<Option<(Instant, Secret)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Granted,
    Refused,
    /// The file cannot be read: nobody may.
    Broken,
}

impl Tokens {
    pub(super) fn new(file: String) -> Self {
        Self {
            file,
            read: Mutex::new(None),
        }
    }

    pub(super) fn check(&self, headers: &HeaderMap) -> Access {
        self.check_at(headers, Instant::now())
    }

    fn check_at(&self, headers: &HeaderMap, now: Instant) -> Access {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .unwrap_or_default();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let old = |(at, _): &(Instant, Secret)| now.saturating_duration_since(*at) >= REREAD;
        if read.as_ref().is_none_or(old) {
            *read = match Secret::read(&self.file) {
                Ok(secret) => Some((now, secret)),
                Err(error) => {
                    tracing::error!(%error, "nobody may read rows");
                    None
                }
            };
        }
        let Some((_, secret)) = &*read else {
            return Access::Broken;
        };
        let tokens = secret.expose().lines().map(str::trim);
        let mut granted = false;
        // All of them, so that the time does not tell which one it was.
        for token in tokens.filter(|token| !token.is_empty()) {
            granted |= equal(given.as_bytes(), token.as_bytes());
        }
        if granted {
            Access::Granted
        } else {
            Access::Refused
        }
    }
}

/// In a time that depends on what was given only.
fn equal(given: &[u8], wanted: &[u8]) -> bool {
    let mut different = u8::from(given.len() != wanted.len());
    for (place, byte) in given.iter().enumerate() {
        different |= byte ^ wanted.get(place).copied().unwrap_or(!byte);
    }
    different == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(value).unwrap();
        headers.insert(header::AUTHORIZATION, value);
        headers
    }

    #[test]
    fn any_line_is_a_token_and_a_rotation_counts() {
        let path = std::env::temp_dir().join(format!("headwater-tokens-{}", std::process::id()));
        std::fs::write(&path, "first\nsecond\n\n").unwrap();
        let tokens = Tokens::new(path.to_str().unwrap().to_owned());
        let begun = Instant::now();
        let check = |value: &str, after: u64| {
            tokens.check_at(&headers(value), begun + Duration::from_millis(after))
        };
        assert_eq!(check("Bearer first", 0), Access::Granted);
        assert_eq!(check("bearer second", 0), Access::Granted);
        for wrong in [
            "Bearer ",
            "Bearer firs",
            "Bearer firsts",
            "Basic first",
            "first",
            "Bearer third",
        ] {
            assert_eq!(check(wrong, 0), Access::Refused, "{wrong}");
        }
        assert_eq!(tokens.check_at(&HeaderMap::new(), begun), Access::Refused);
        std::fs::write(&path, "third\n").unwrap();
        assert_eq!(check("Bearer third", 1_001), Access::Granted);
        assert_eq!(check("Bearer first", 1_001), Access::Refused);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(check("Bearer third", 2_100), Access::Broken);
    }
}
