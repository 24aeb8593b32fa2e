//! What is wrong with a configuration, said at its exact place.
//!
//! Compiling never stops at the first problem: a user mends them all at once.

use std::fmt;

/// One thing that cannot work, with the field that says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Field path as users write it: `spec.from[name=schedule].filter`.
    pub path: String,
    /// What is wrong, where in the text, and what to do.
    pub message: String,
    /// CamelCase, from a closed list: the reason of a condition.
    pub reason: &'static str,
}

/// Reasons of [`Problem`]s.
pub mod reason {
    pub const INVALID_EXPRESSION: &str = "InvalidExpression";
    pub const INVALID_TEMPLATE: &str = "InvalidTemplate";
    pub const INVALID_SCHEMA: &str = "InvalidSchema";
    pub const REFERENCE_NOT_FOUND: &str = "ReferenceNotFound";
    pub const INVALID_SPEC: &str = "InvalidSpec";
    pub const NOT_SUPPORTED: &str = "NotSupported";
}

/// Everything that is wrong with one configuration; never empty when it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompileError {
    pub problems: Vec<Problem>,
}

impl CompileError {
    pub fn one(path: impl Into<String>, reason: &'static str, message: impl fmt::Display) -> Self {
        let mut error = Self::default();
        error.add(path, reason, message);
        error
    }

    pub fn add(
        &mut self,
        path: impl Into<String>,
        reason: &'static str,
        message: impl fmt::Display,
    ) {
        self.problems.push(Problem {
            path: path.into(),
            message: message.to_string(),
            reason,
        });
    }

    /// Takes the value, or keeps the error as a problem of `path` and gives `None`.
    pub fn take<T, E: fmt::Display>(
        &mut self,
        path: impl Into<String>,
        reason: &'static str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(path, reason, error);
                None
            }
        }
    }

    /// Takes the value, or adds the other's problems to these.
    pub fn merge<T>(&mut self, result: Result<T, Self>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.extend(error.problems);
                None
            }
        }
    }

    /// `Ok` if there is no problem.
    ///
    /// # Errors
    /// The problems, if there are any.
    pub fn finish(self) -> Result<(), Self> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(self)
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", problem.path, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for CompileError {}

/// The candidate nearest to a mistyped name, if one is near enough to be meant.
pub fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let allowed = match name.chars().count() {
        0..=2 => 1,
        3..=6 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance <= allowed && *distance < candidate.chars().count()
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edits between two words, a swap of neighbours being one (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().take(64).collect();
    let right: Vec<char> = right.to_lowercase().chars().take(64).collect();
    let width = right.len() + 1;
    let mut table = vec![0usize; (left.len() + 1) * width];
    for (column, edits) in table.iter_mut().take(width).enumerate() {
        *edits = column;
    }
    for row in 1..=left.len() {
        table[row * width] = row;
        for column in 1..width {
            let same = left[row - 1] == right[column - 1];
            let mut best = (table[(row - 1) * width + column] + 1)
                .min(table[row * width + column - 1] + 1)
                .min(table[(row - 1) * width + column - 1] + usize::from(!same));
            let swapped = row > 1
                && column > 1
                && left[row - 1] == right[column - 2]
                && left[row - 2] == right[column - 1];
            if swapped {
                best = best.min(table[(row - 2) * width + column - 2] + 1);
            }
            table[row * width + column] = best;
        }
    }
    table[left.len() * width + right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_near_names_only() {
        let names = ["flight_id", "status", "gate"];
        assert_eq!(did_you_mean("flihgt_id", names), Some("flight_id"));
        assert_eq!(did_you_mean("Status", names), Some("status"));
        assert_eq!(did_you_mean("customer", names), None);
        assert_eq!(did_you_mean("x", names), None);
    }
}
