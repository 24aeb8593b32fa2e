//! Hints for names that do not exist: the nearest that does, or the list of those that do.

use headwater_engine::problem::did_you_mean;

/// Most names that a message lists.
const LISTED: usize = 8;

/// `; did you mean 'flights'?`, or what there is, or that there is nothing; to be appended to
/// "... not found".
pub(crate) fn instead<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    if let Some(near) = did_you_mean(wanted, known.iter().copied()) {
        return format!("; did you mean '{near}'?");
    }
    match known.len() {
        0 => "; there is none".to_owned(),
        1 => format!("; there is only '{}'", known[0]),
        count => {
            let listed: Vec<String> = known
                .iter()
                .take(LISTED)
                .map(|name| format!("'{name}'"))
                .collect();
            let more = if count > LISTED {
                format!(" and {} more", count - LISTED)
            } else {
                String::new()
            };
            format!("; there are {}{more}", listed.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_offered() {
        assert_eq!(
            instead("flihgts", ["bookings", "flights"]),
            "; did you mean 'flights'?"
        );
    }

    #[test]
    fn a_far_name_gets_the_list() {
        assert_eq!(
            instead("customers", ["flights", "bookings"]),
            "; there are 'bookings', 'flights'"
        );
        assert_eq!(
            instead("customers", ["flights"]),
            "; there is only 'flights'"
        );
        assert_eq!(instead("customers", []), "; there is none");
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..10).map(|i| format!("view-number-{i}")).collect();
        let hint = instead("elsewhere", names.iter().map(String::as_str));
        assert!(hint.ends_with("'view-number-7' and 2 more"), "{hint}");
    }
}
