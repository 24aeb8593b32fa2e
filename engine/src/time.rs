//! Times as text: RFC 3339 in UTC. There is no clock here; every time comes from a record or a caller.

use jiff::Timestamp;

/// `2026-11-23T10:00:00Z`, with milliseconds where there are any. A time that a calendar does not
/// hold prints as its number of milliseconds.
pub fn rfc3339(milliseconds: i64) -> String {
    match Timestamp::from_millisecond(milliseconds) {
        Ok(timestamp) => timestamp.to_string(),
        Err(_) => milliseconds.to_string(),
    }
}

/// Milliseconds since the epoch of an RFC 3339 text.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    text.parse::<Timestamp>()
        .ok()
        .map(|timestamp| timestamp.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_print_and_parse() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_500), "1970-01-01T00:00:01.5Z");
        assert_eq!(
            parse_rfc3339("2026-11-23T10:00:00+01:00"),
            Some(1_795_424_400_000)
        );
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
