//! Bounds a text before a recursive parser sees it.
//!
//! Parsers of expressions recurse for brackets, and for chains as `a.b.c` or `1+1+1` they build trees
//! that are as deep as the chain is long. A text that would exhaust the stack is refused here, by
//! counting tokens: no parser, no recursion.

/// How deep brackets may be nested.
pub(crate) const DEPTH_MAX: usize = 32;
/// How many tokens may follow each other in one chain, those around open brackets included. A comma ends
/// a chain.
const CHAIN_MAX: usize = 400;

/// What ends a chain beside commas.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// `&&` and `||` are balanced by the parser, and so end a chain.
    Cel,
    Jinja,
}

/// # Errors
/// The byte and what is wrong there.
pub(crate) fn check(text: &str, language: Language) -> Result<(), (usize, String)> {
    let mut levels = vec![0usize];
    let mut open = 0usize;
    let mut quote: Option<char> = None;
    let mut escaped = false;
    let mut former = ' ';
    for (byte, char) in text.char_indices() {
        if let Some(end) = quote {
            match char {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                char if char == end => quote = None,
                _ => {}
            }
            former = char;
            continue;
        }
        let word = |char: char| char.is_alphanumeric() || char == '_';
        let mut tokens = 1;
        let mut ends = char == ',';
        match char {
            '\'' | '"' | '`' => quote = Some(char),
            '(' | '[' | '{' => {
                if levels.len() > DEPTH_MAX {
                    return Err((byte, format!("brackets are nested deeper than {DEPTH_MAX}")));
                }
                levels.push(0);
            }
            ')' | ']' | '}' if levels.len() > 1 => open -= levels.pop().unwrap_or_default(),
            '&' | '|' if language == Language::Cel => {
                tokens = 0;
                ends = former == char;
            }
            // The second character of `==`, `!=`, `<=`, `>=`.
            '=' if matches!(former, '=' | '!' | '<' | '>') => tokens = 0,
            char if char.is_whitespace() => tokens = 0,
            char if word(char) && word(former) => tokens = 0,
            _ => {}
        }
        former = char;
        if let Some(level) = levels.last_mut() {
            if ends {
                open -= *level;
                *level = 0;
            } else {
                *level += tokens;
                open += tokens;
            }
        }
        if open > CHAIN_MAX {
            return Err((
                byte,
                format!(
                    "more than {CHAIN_MAX} names and operators follow each other without a comma"
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_brackets_are_bounded_and_commas_end_a_chain() {
        let fits = |text: &str| check(text, Language::Cel).is_ok();
        assert!(fits(&"event.status == 'a' || ".repeat(500)));
        assert!(fits(&format!("[{}]", "event.a + 1, ".repeat(2_000))));
        assert!(fits(&format!("'{}'", "((.".repeat(1_000))));
        assert!(!fits(&format!("a{}", ".b".repeat(250))));
        assert!(!fits(&format!("a{}", ".b(1, 2)".repeat(250))));
        assert!(!fits(&"-".repeat(401)));
        assert!(fits(&format!("{}1{}", "(".repeat(32), ")".repeat(32))));
        assert!(!fits(&format!("{}1{}", "(".repeat(33), ")".repeat(33))));
        assert!(check(&"not a and ".repeat(200), Language::Jinja).is_err());
    }
}
