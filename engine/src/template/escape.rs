//! Values inside a prompt stay inside their place.
//!
//! Whatever an event holds, it must not look like the end of a message, like another role's message, or
//! like the closing of a tag or a fence that the template's author put around it. Such markers get a
//! backslash after their first character. This bounds the structure of a prompt; it cannot keep a text
//! from persuading a model.

use std::borrow::Cow;

/// Markers of chat formats: ChatML and Llama 3 (`<|`), DeepSeek, Llama 2 and Mistral, Gemma.
const MARKERS: [&str; 12] = [
    "<|",
    "<\u{ff5c}",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<</SYS>>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<s>",
    "</s>",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
];
const FENCES: [&str; 2] = ["```", "~~~"];

/// What is escaped in values of one template.
#[derive(Debug)]
pub(super) struct Escape {
    /// Longest first; compared without case where they are letters.
    markers: Vec<String>,
}

impl Escape {
    /// The chat markers, and the tags and fences that the template's own text holds.
    pub(super) fn of(template: &str) -> Self {
        let mut markers: Vec<String> = MARKERS.iter().map(|marker| (*marker).to_owned()).collect();
        for fence in FENCES {
            if template.contains(fence) {
                markers.push(fence.to_owned());
            }
        }
        let mut rest = template;
        while let Some(start) = rest.find("</") {
            rest = &rest[start + 2..];
            let end = rest
                .find(|char: char| {
                    !(char.is_alphanumeric() || matches!(char, '_' | '-' | '.' | ':'))
                })
                .unwrap_or(rest.len());
            if end > 0 {
                markers.push(format!("</{}", &rest[..end]));
                markers.push(format!("<{}", &rest[..end]));
            }
        }
        markers.sort_by(|left, right| right.len().cmp(&left.len()).then_with(|| left.cmp(right)));
        markers.dedup();
        Self { markers }
    }

    pub(super) fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut output = String::new();
        let mut copied = 0;
        let bytes = text.as_bytes();
        let mut index = 0;
        while index < bytes.len() {
            if !matches!(bytes[index], b'<' | b'[' | b'`' | b'~') {
                index += 1;
                continue;
            }
            let Some(marker) = self.markers.iter().find(|marker| {
                bytes
                    .get(index..index + marker.len())
                    .is_some_and(|part| part.eq_ignore_ascii_case(marker.as_bytes()))
            }) else {
                index += 1;
                continue;
            };
            output.push_str(&text[copied..=index]);
            output.push('\\');
            copied = index + 1;
            // Of a fence every character counts: two of them and one of the template's make three.
            index += if FENCES.contains(&marker.as_str()) {
                1
            } else {
                marker.len()
            };
        }
        if copied == 0 {
            return Cow::Borrowed(text);
        }
        output.push_str(&text[copied..]);
        Cow::Owned(output)
    }
}
