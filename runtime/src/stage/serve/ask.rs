//! What a request asks for, from its path and query.

use axum::extract::Query;
use axum::http::{StatusCode, Uri};

/// The longest key that can be asked for.
pub const KEY_BYTES_MAX: usize = 4_096;
/// The most rows of one answer.
pub const INDEX_ROWS_MAX: u32 = 1_000;
/// Rows of an answer where no limit is asked for.
const ROWS: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Key(String),
    Index {
        index: String,
        key: String,
        limit: usize,
    },
}

/// Why there is no answer, and what to ask instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) detail: String,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
        }
    }

    pub(super) fn bad(detail: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "send a valid token: Authorization: Bearer TOKEN",
        )
    }

    pub(super) fn unavailable(detail: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "rows are read with GET")
    }

    pub(super) fn no_key() -> Self {
        Self::new(StatusCode::NOT_FOUND, "the view has no such key")
    }

    pub(super) fn no_index<'a>(indexes: impl Iterator<Item = &'a String>) -> Self {
        let indexes: Vec<&str> = indexes.map(String::as_str).collect();
        Self::bad(&match indexes.as_slice() {
            [] => "the view has no index".to_owned(),
            indexes => format!("the view has no such index; it has {}", indexes.join(", ")),
        })
    }
}

impl Ask {
    /// `path` is where the rows are, without a slash at its end.
    ///
    /// # Errors
    /// 404 for another path; 400, saying what can be asked, for what is none of it.
    pub(super) fn of<'a>(
        uri: &Uri,
        path: &str,
        indexes: impl Iterator<Item = &'a String>,
    ) -> Result<Self, Refusal> {
        let elsewhere = || {
            let detail = format!("rows are at {path}/KEY");
            Refusal::new(StatusCode::NOT_FOUND, detail)
        };
        let rest = uri.path().strip_prefix(path).ok_or_else(elsewhere)?;
        if rest.is_empty() || rest == "/" {
            return Self::by_index(uri, path, indexes);
        }
        let key = rest.strip_prefix('/').ok_or_else(elsewhere)?;
        if key.contains('/') {
            return Err(Refusal::bad("a slash in a key is written %2F"));
        }
        if uri.query().is_some_and(|query| !query.is_empty()) {
            return Err(Refusal::bad("a row by its key takes no query"));
        }
        checked(decoded(key)?).map(Self::Key)
    }

    fn by_index<'a>(
        uri: &Uri,
        path: &str,
        indexes: impl Iterator<Item = &'a String>,
    ) -> Result<Self, Refusal> {
        let indexes: Vec<&str> = indexes.map(String::as_str).collect();
        let ask_for = || {
            let mut detail = format!("ask for one row: {path}/KEY");
            if !indexes.is_empty() {
                let indexes = indexes.join(", ");
                detail.push_str(&format!(
                    ", or for rows by an index: {path}?index=INDEX&key=KEY&limit=N; indexes: {indexes}"
                ));
            }
            Refusal::bad(&detail)
        };
        let Query(pairs) =
            Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_| ask_for())?;
        let (mut index, mut key, mut limit) = (None, None, ROWS);
        for (name, value) in pairs {
            match name.as_str() {
                "index" if index.is_none() => index = Some(value),
                "key" if key.is_none() => key = Some(value),
                "limit" => {
                    limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=INDEX_ROWS_MAX as usize).contains(limit))
                        .ok_or_else(|| {
                            Refusal::bad(&format!("limit is a number from 1 to {INDEX_ROWS_MAX}"))
                        })?;
                }
                _ => return Err(ask_for()),
            }
        }
        match (index, key) {
            (Some(index), Some(key)) if indexes.contains(&index.as_str()) => Ok(Self::Index {
                index,
                key: checked(key)?,
                limit,
            }),
            (Some(_), Some(_)) => Err(ask_for()),
            _ => Err(ask_for()),
        }
    }
}

fn checked(key: String) -> Result<String, Refusal> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::bad(&format!(
            "a key is asked for in at most {KEY_BYTES_MAX} bytes"
        )));
    }
    Ok(key)
}

/// RFC 3986's percent encoding taken away.
fn decoded(text: &str) -> Result<String, Refusal> {
    let bad = || Refusal::bad("the key is not UTF-8, percent-encoded");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(bad()),
        }
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(uri: &str) -> Result<Ask, (u16, String)> {
        let indexes = ["byGate".to_owned()];
        Ask::of(&uri.parse().unwrap(), "/flights", indexes.iter())
            .map_err(|refusal| (refusal.status.as_u16(), refusal.detail))
    }

    #[test]
    fn keys_are_percent_decoded_and_one_segment() {
        let key = |uri| match ask(uri) {
            Ok(Ask::Key(key)) => key,
            other => panic!("{other:?}"),
        };
        assert_eq!(key("/flights/LK103-2026"), "LK103-2026");
        assert_eq!(key("/flights/a%2Fb%20c+d"), "a/b c+d");
        assert_eq!(
            key("/flights/%5B%22a%22%2C%22%E6%9D%B1%22%5D"),
            "[\"a\",\"東\"]"
        );
        assert_eq!(ask("/flights/a/b").unwrap_err().0, 400);
        assert_eq!(ask("/flights/a?x=1").unwrap_err().0, 400);
        for bad in [
            "/flights/%ff",
            "/flights/%4",
            "/flights/%zz",
            "/flights/%+1",
        ] {
            assert_eq!(ask(bad).unwrap_err().0, 400, "{bad}");
        }
        let long = format!("/flights/{}", "a".repeat(KEY_BYTES_MAX + 1));
        assert_eq!(ask(&long).unwrap_err().0, 400);
    }

    #[test]
    fn other_paths_are_not_found() {
        for path in ["/", "/status", "/flight", "/flightsX", "/metrics"] {
            assert_eq!(ask(path).unwrap_err().0, 404, "{path}");
        }
    }

    #[test]
    fn an_index_needs_a_key_and_what_can_be_asked_is_said() {
        let index = |key: &str, limit| Ask::Index {
            index: "byGate".to_owned(),
            key: key.to_owned(),
            limit,
        };
        assert_eq!(
            ask("/flights?index=byGate&key=C%2061"),
            Ok(index("C 61", 20))
        );
        assert_eq!(
            ask("/flights/?key=x&index=byGate&limit=3"),
            Ok(index("x", 3))
        );
        for bad in [
            "/flights",
            "/flights?index=byGate",
            "/flights?key=x",
            "/flights?index=other&key=x",
            "/flights?query=x",
        ] {
            let (status, detail) = ask(bad).unwrap_err();
            assert_eq!(status, 400, "{bad}");
            assert_eq!(
                detail,
                "ask for one row: /flights/KEY, or for rows by an index: /flights?index=INDEX&key=KEY&limit=N; indexes: byGate"
            );
        }
        for limit in ["0", "1001", "-1", "x"] {
            let uri = format!("/flights?index=byGate&key=x&limit={limit}");
            assert_eq!(ask(&uri).unwrap_err().1, "limit is a number from 1 to 1000");
        }
    }
}
