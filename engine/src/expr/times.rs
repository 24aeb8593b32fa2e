//! Timestamps and durations.
//!
//! Times are UTC or at a fixed offset: named time zones would need a database, whose versions differ
//! between machines, and the same event has to give the same value everywhere.

use super::evaluate::Run;
use super::functions::{text, wrong};
use super::value::{Failure, Val};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

/// A timestamp of an RFC 3339 text, or of an int of seconds.
pub(super) fn timestamp(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    match value {
        Val::Timestamp(timestamp) => Ok(Val::Timestamp(*timestamp)),
        Val::Text(text) => text
            .parse()
            .map(Val::Timestamp)
            .map_err(|_| "the text is no RFC 3339 time, as 2026-11-23T10:00:00Z is".into()),
        Val::Int(seconds) => Timestamp::from_second(*seconds)
            .map(Val::Timestamp)
            .map_err(|_| "the number of seconds is beyond the years 1 to 9999".into()),
        other => Err(wrong("a string or an int of seconds", other)),
    }
}

/// A timestamp of an int of milliseconds.
pub(super) fn timestamp_millis(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    match value {
        Val::Int(milliseconds) => Timestamp::from_millisecond(*milliseconds)
            .map(Val::Timestamp)
            .map_err(|_| "the number of milliseconds is beyond the years 1 to 9999".into()),
        other => Err(wrong("an int of milliseconds", other)),
    }
}

/// A duration of a text as `1h30m`, `90s`, `1.5s`.
pub(super) fn duration(value: &Val<'_>) -> Result<Val<'static>, Failure> {
    match value {
        Val::Duration(duration) => Ok(Val::Duration(*duration)),
        Val::Text(text) => parse_duration(text)
            .map(Val::Duration)
            .ok_or("the text is no duration, as 1h30m or 90s is".into()),
        other => Err(wrong("a string", other)),
    }
}

fn parse_duration(text: &str) -> Option<SignedDuration> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("h", 3_600.0),
        ("m", 60.0),
        ("s", 1.0),
    ];
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = SignedDuration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, seconds) = UNITS
            .into_iter()
            .find(|(unit, _)| after.starts_with(unit))?;
        let amount: f64 = number.parse().ok()?;
        sum = sum.checked_add(SignedDuration::try_from_secs_f64(amount * seconds).ok()?)?;
        rest = &after[unit.len()..];
    }
    if negative {
        sum.checked_neg()
    } else {
        Some(sum)
    }
}

/// The time at the offset of the second argument, else in UTC.
fn zoned(arguments: &[Val<'_>]) -> Result<Zoned, Failure> {
    let Val::Timestamp(timestamp) = &arguments[0] else {
        return Err(wrong("a timestamp", &arguments[0]));
    };
    let zone = match arguments.get(1) {
        None => TimeZone::UTC,
        Some(zone) => offset(text(zone)?)
            .ok_or("time zones are UTC or an offset as +02:00; names are not known")?,
    };
    Ok(timestamp.to_zoned(zone))
}

fn offset(text: &str) -> Option<TimeZone> {
    if text == "UTC" || text == "Z" {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if !(0..=23).contains(&hours) || !(0..=59).contains(&minutes) {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3_600 + minutes * 60))
        .ok()
        .map(TimeZone::fixed)
}

/// A part of a timestamp, or a whole duration in a unit of so many milliseconds.
fn part<'a>(
    arguments: &[Val<'a>],
    milliseconds: Option<i128>,
    part: fn(&Zoned) -> i64,
) -> Result<Val<'a>, Failure> {
    match (&arguments[0], milliseconds) {
        (Val::Duration(duration), Some(unit)) if arguments.len() == 1 => Ok(Val::Int(
            i64::try_from(duration.as_millis() / unit).map_err(|_| "a number overflows")?,
        )),
        _ => Ok(Val::Int(part(&zoned(arguments)?))),
    }
}

macro_rules! parts {
    ($($name:ident, $unit:expr, $part:expr;)*) => {$(
        pub(super) fn $name<'a>(_: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
            part(&arguments, $unit, $part)
        }
    )*};
}

// CEL counts months, days of the month and days of the year from 0, days of the week from Sunday.
parts! {
    year, None, |zoned| zoned.year().into();
    month, None, |zoned| i64::from(zoned.month()) - 1;
    date, None, |zoned| zoned.day().into();
    day_of_month, None, |zoned| i64::from(zoned.day()) - 1;
    day_of_week, None, |zoned| zoned.weekday().to_sunday_zero_offset().into();
    day_of_year, None, |zoned| i64::from(zoned.day_of_year()) - 1;
    hours, Some(3_600_000), |zoned| zoned.hour().into();
    minutes, Some(60_000), |zoned| zoned.minute().into();
    seconds, Some(1_000), |zoned| zoned.second().into();
}

/// The milliseconds within the second, of a timestamp or a duration.
pub(super) fn milliseconds<'a>(
    _: &mut Run<'a>,
    arguments: Vec<Val<'a>>,
) -> Result<Val<'a>, Failure> {
    match &arguments[0] {
        Val::Duration(duration) => Ok(Val::Int(duration.subsec_millis().into())),
        _ => part(&arguments, None, |zoned| zoned.millisecond().into()),
    }
}
