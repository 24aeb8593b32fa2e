//! Functions over lists: CEL's and Kubernetes'.

use super::evaluate::Run;
use super::functions::{count, int_of, wrong};
use super::value::{Failure, Items, Val};
use std::cmp::Ordering;

fn items<'a>(value: &Val<'a>) -> Result<Items<'a>, Failure> {
    value.items().ok_or_else(|| wrong("a list", value))
}

/// Sorts by keys, in place and stably.
pub(super) fn sort<'a>(run: &mut Run<'a>, keyed: &mut [(Val<'a>, Val<'a>)]) -> Result<(), Failure> {
    run.spend(
        keyed
            .len()
            .saturating_mul(keyed.len().max(2).ilog2() as usize),
    )?;
    let mut failure = None;
    keyed.sort_by(|(left, _), (right, _)| {
        left.compare(right).unwrap_or_else(|error| {
            failure = Some(error);
            Ordering::Equal
        })
    });
    failure.map_or(Ok(()), Err)
}

pub(super) fn sorted<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let mut keyed: Vec<_> = items(&arguments[0])?
        .iter()
        .map(|item| (item.clone(), item))
        .collect();
    sort(run, &mut keyed)?;
    Ok(Val::list(keyed.into_iter().map(|(_, item)| item).collect()))
}

pub(super) fn is_sorted<'a>(run: &mut Run<'a>, list: &Val<'a>) -> Result<Val<'a>, Failure> {
    let items = items(list)?;
    run.spend(items.len())?;
    for index in 1..items.len() {
        if let (Some(left), Some(right)) = (items.get(index - 1), items.get(index))
            && left.compare(&right)?.is_gt()
        {
            return Ok(Val::Bool(false));
        }
    }
    Ok(Val::Bool(true))
}

/// The sum; of an empty list the int 0.
pub(super) fn sum<'a>(run: &mut Run<'a>, list: &Val<'a>) -> Result<Val<'a>, Failure> {
    let items = items(list)?;
    run.spend(items.len())?;
    let mut sum: Option<Val<'a>> = None;
    for item in items.iter() {
        sum = Some(match (sum, item) {
            (None, item @ (Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Duration(_))) => item,
            (Some(Val::Int(left)), Val::Int(right)) => {
                Val::Int(left.checked_add(right).ok_or("a number overflows")?)
            }
            (Some(Val::Uint(left)), Val::Uint(right)) => {
                Val::Uint(left.checked_add(right).ok_or("a number overflows")?)
            }
            (Some(Val::Double(left)), Val::Double(right)) => Val::Double(left + right),
            (Some(Val::Duration(left)), Val::Duration(right)) => {
                Val::Duration(left.checked_add(right).ok_or("a number overflows")?)
            }
            (None, other) => return Err(wrong("a list of numbers", &other)),
            (Some(_), _) => {
                return Err(
                    "the items are of several types; convert them, as in list.map(x, double(x))"
                        .into(),
                );
            }
        });
    }
    Ok(sum.unwrap_or(Val::Int(0)))
}

/// The least or the greatest item.
///
/// # Errors
/// Where the list is empty or its items have no order.
pub(super) fn extreme<'a>(list: &Val<'a>, greatest: bool) -> Result<Val<'a>, Failure> {
    let items = items(list)?;
    let mut best = items.get(0).ok_or("the list is empty")?;
    for index in 1..items.len() {
        if let Some(item) = items.get(index) {
            let order = item.compare(&best)?;
            if (greatest && order.is_gt()) || (!greatest && order.is_lt()) {
                best = item;
            }
        }
    }
    Ok(best)
}

pub(super) fn distinct<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let mut list: Vec<Val<'a>> = Vec::new();
    for item in items(&arguments[0])?.iter() {
        run.spend(1 + list.len())?;
        if !list.iter().any(|other| other.equals(&item)) {
            list.push(item);
        }
    }
    Ok(Val::list(list))
}

/// One level of lists in a list is taken out.
pub(super) fn flatten<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let mut list = Vec::new();
    for item in items(&arguments[0])?.iter() {
        match item.items() {
            Some(inner) => {
                run.spend(1 + inner.len())?;
                list.extend(inner.iter());
            }
            None => list.push(item),
        }
    }
    Ok(Val::list(list))
}

pub(super) fn reverse<'a>(run: &mut Run<'a>, list: &Val<'a>) -> Result<Val<'a>, Failure> {
    let items = items(list).map_err(|_| wrong("a list or a string", list))?;
    run.spend(items.len())?;
    Ok(Val::list(items.iter().rev().collect()))
}

pub(super) fn slice<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let items = items(&arguments[0])?;
    let (start, end) = (count(&arguments[1])?, count(&arguments[2])?);
    if start > end || end > items.len() {
        return Err(format!("the list has {} items, the slice is beyond", items.len()).into());
    }
    run.spend(end - start)?;
    Ok(Val::list(
        (start..end).filter_map(|index| items.get(index)).collect(),
    ))
}

/// The first or last item, as an optional.
pub(super) fn end<'a>(list: &Val<'a>, last: bool) -> Result<Val<'a>, Failure> {
    let items = items(list)?;
    let index = if last { items.len().wrapping_sub(1) } else { 0 };
    Ok(items.get(index).map_or(Val::Optional(None), Val::some))
}

pub(super) fn range<'a>(run: &mut Run<'a>, arguments: Vec<Val<'a>>) -> Result<Val<'a>, Failure> {
    let end = count(&arguments[0])?;
    run.spend(end)?;
    Ok(Val::list((0..end).map(int_of).collect()))
}

/// The first or last index of an item, or -1.
pub(super) fn index_of<'a>(
    list: &Val<'a>,
    arguments: &[Val<'a>],
    last: bool,
) -> Result<Val<'a>, Failure> {
    let items = items(list).map_err(|_| wrong("a list or a string", list))?;
    let [item] = arguments else {
        return Err("a list takes one argument".into());
    };
    let mut found =
        (0..items.len()).filter(|index| items.get(*index).is_some_and(|other| other.equals(item)));
    let index = if last {
        found.next_back()
    } else {
        found.next()
    };
    Ok(index.map_or(Val::Int(-1), int_of))
}
