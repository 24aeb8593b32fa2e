//! A prompt over its budget gives way (semantics 15): the slots, lowest priority first and among
//! equals in the order of their names, each from its end and never a required one; then the oldest
//! turns; then the run fails. Turns give way several at once, so that the runs to come begin with the same ones: that
//! leaves less of the budget used, and most of a server's prompt cache.
//!
//! How much goes is found by bisection over the rows or turns kept, so that a slot of a thousand rows
//! takes ten renderings. Invariant: what is returned fits.

use super::{Draft, Prompt, Rendered};
use crate::fault::{Fault, Reason};

/// Renders the draft, cut as far as the budget asks.
///
/// # Errors
/// `OverBudget`, with by how much and what is left; `TemplateFailed`.
pub fn fit(prompt: &Prompt, draft: &mut Draft) -> Result<Rendered, Fault> {
    let rendered = render(prompt, draft)?;
    let Some(budget) = prompt.budget else {
        return Ok(rendered);
    };
    let mut least = rendered;
    for slot in draft.giving_way() {
        if least.tokens <= budget {
            return Ok(least);
        }
        let all = draft.slots()[slot].kept();
        least = give_way(prompt, draft, budget, all, |draft, kept| {
            draft.show_rows(slot, kept);
        })?;
    }
    if least.tokens > budget {
        let all = draft.turns().len();
        least = give_way(prompt, draft, budget, all, Draft::show_turns)?;
        least = steady(prompt, draft, budget, least)?;
    }
    if least.tokens <= budget {
        return Ok(least);
    }
    Err(Fault::new(
        Reason::OverBudget,
        format!(
            "the prompt has {} tokens, {} more than its budget of {budget}, with {} and no turns of the conversation. Raise prompt.budgetTokens, shorten the templates, or give required slots a limit or budgetTokens",
            least.tokens,
            least.tokens - budget,
            kept(draft),
        ),
    ))
}

/// Shows as many of `all` as fit, found by bisection; none if even that does not fit.
fn give_way(
    prompt: &Prompt,
    draft: &mut Draft,
    budget: usize,
    all: usize,
    show: impl Fn(&mut Draft, usize),
) -> Result<Rendered, Fault> {
    show(draft, 0);
    let mut best = render(prompt, draft)?;
    if best.tokens > budget {
        return Ok(best);
    }
    let (mut fits, mut exceeds) = (0, all);
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        show(draft, middle);
        let rendered = render(prompt, draft)?;
        if rendered.tokens <= budget {
            (fits, best) = (middle, rendered);
        } else {
            exceeds = middle;
        }
    }
    show(draft, fits);
    Ok(best)
}

/// Shows as many turns as stay for some runs to come, where that fits as `best` does.
fn steady(
    prompt: &Prompt,
    draft: &mut Draft,
    budget: usize,
    best: Rendered,
) -> Result<Rendered, Fault> {
    let (shown, steady) = (draft.turns().len(), draft.steady_turns());
    if steady == shown {
        return Ok(best);
    }
    draft.show_turns(steady);
    let rendered = render(prompt, draft)?;
    if rendered.tokens <= budget {
        return Ok(rendered);
    }
    // A template may say more where there are fewer turns.
    draft.show_turns(shown);
    Ok(best)
}

fn render(prompt: &Prompt, draft: &Draft) -> Result<Rendered, Fault> {
    prompt.render(draft.input(), draft.turn_tokens())
}

fn kept(draft: &Draft) -> String {
    let kept: Vec<String> = draft
        .slots()
        .iter()
        .filter(|slot| slot.kept() > 0)
        .map(|slot| {
            format!(
                "{} row(s) of the required slot '{}'",
                slot.kept(),
                slot.name()
            )
        })
        .collect();
    if kept.is_empty() {
        "no slot shown".to_owned()
    } else {
        kept.join(", ")
    }
}
