//! Numbers and times in words.

/// `1,204`
pub(crate) fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 event`, `12 events`
pub(crate) fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// `312 B`, `4.2 KiB`, `310 KiB`, `1.5 GiB`
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1_024 {
        return format!("{number} B");
    }
    let mut size = number as f64;
    let mut unit = "B";
    for larger in UNITS {
        if size < 1_024.0 {
            break;
        }
        size /= 1_024.0;
        unit = larger;
    }
    if size < 10.0 {
        format!("{size:.1} {unit}")
    } else {
        format!("{size:.0} {unit}")
    }
}

/// `0 s`, `59 s`, `12 min`, `5 h`, `3 d`: how old something is, at a glance.
pub(crate) fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `0.4 s` or `12 ms`
pub(crate) fn duration(milliseconds: u64) -> String {
    match milliseconds {
        ..1_000 => format!("{milliseconds} ms"),
        _ => format!("{}.{} s", milliseconds / 1_000, milliseconds % 1_000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(
            [count(0), count(999), count(1_204), count(1_234_567)],
            ["0", "999", "1,204", "1,234,567"]
        );
        assert_eq!(
            [age(0), age(119), age(120), age(7_200), age(200_000)],
            ["0 s", "119 s", "2 min", "2 h", "2 d"]
        );
        assert_eq!(
            [
                bytes(0),
                bytes(1_023),
                bytes(4_300),
                bytes(310 << 10),
                bytes(3 << 29)
            ],
            ["0 B", "1023 B", "4.2 KiB", "310 KiB", "1.5 GiB"]
        );
        assert_eq!([duration(12), duration(1_250)], ["12 ms", "1.2 s"]);
        assert_eq!([counted(1, "row"), counted(0, "row")], ["1 row", "0 rows"]);
    }
}
