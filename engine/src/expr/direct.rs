//! What most filters and keys are, without the evaluator: a variable's field, and comparisons of fields with literals.
//!
//! It answers only where the answer needs no more than the field as it stands; else it gives `None`, and the evaluator decides and
//! says what is wrong. Invariant: what it answers is what the evaluator would.

use super::evaluate::{Node, Operator};
use super::{Given, Variable, Variables};
use std::borrow::Cow;
use std::cmp::Ordering;

/// An expression of this kind.
pub(super) enum Direct {
    Field(Field),
    /// All have to hold, asked in this order.
    Conditions(Vec<Condition>),
}

/// A field directly below a variable.
pub(super) struct Field {
    root: Box<str>,
    name: Box<str>,
}

/// A field compared with a literal.
pub(super) struct Condition {
    field: Field,
    operator: Operator,
    literal: Literal,
}

enum Literal {
    Text(Box<str>),
    Int(i64),
    Bool(bool),
}

impl Direct {
    /// `None`: the expression is another.
    pub(super) fn of(node: &Node) -> Option<Self> {
        if let Some(field) = Field::of(node) {
            return Some(Self::Field(field));
        }
        let mut conditions = Vec::new();
        collect(node, &mut conditions)?;
        Some(Self::Conditions(conditions))
    }

    /// The scalar that the expression gives, where it stands as one.
    pub(super) fn given<'a>(&self, variables: &'a dyn Variables) -> Option<Given<'a>> {
        let Self::Field(field) = self else {
            return self.truth(variables).map(Given::Bool);
        };
        match field.find(variables)? {
            Variable::Text(text) => Some(Given::Text(Cow::Borrowed(text))),
            Variable::Int(int) => Some(Given::Int(int)),
            Variable::Bool(bool) => Some(Given::Bool(bool)),
            Variable::Null => Some(Given::Null),
            _ => None,
        }
    }

    /// The text that the expression gives, if it is one.
    pub(super) fn text<'a>(&self, variables: &'a dyn Variables) -> Option<&'a str> {
        match self {
            Self::Field(field) => match field.find(variables)? {
                Variable::Text(text) => Some(text),
                _ => None,
            },
            Self::Conditions(_) => None,
        }
    }

    /// The bool that the expression gives, if it is one.
    pub(super) fn truth(&self, variables: &dyn Variables) -> Option<bool> {
        match self {
            Self::Field(field) => match field.find(variables)? {
                Variable::Bool(bool) => Some(bool),
                _ => None,
            },
            Self::Conditions(conditions) => {
                for condition in conditions {
                    // One that fails decides, whatever the others are.
                    if !condition.holds(variables)? {
                        return Some(false);
                    }
                }
                Some(true)
            }
        }
    }
}

impl Field {
    fn of(node: &Node) -> Option<Self> {
        let Node::Select(of, name) = node else {
            return None;
        };
        let Node::Root(root) = &**of else {
            return None;
        };
        Some(Self {
            root: root.clone(),
            name: name.clone(),
        })
    }

    fn find<'a>(&self, variables: &'a dyn Variables) -> Option<Variable<'a>> {
        match variables.get(&self.root)? {
            Variable::Object(object) => object.get(&self.name),
            _ => None,
        }
    }
}

impl Condition {
    fn of(node: &Node) -> Option<Self> {
        use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        let Node::Binary(operator, left, right) = node else {
            return None;
        };
        let literal = match &**right {
            Node::Text(text) => Literal::Text(text.clone()),
            Node::Int(int) => Literal::Int(*int),
            Node::Bool(bool) => Literal::Bool(*bool),
            _ => return None,
        };
        let known = matches!(
            operator,
            Equal | NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual
        );
        Some(Self {
            field: Field::of(left).filter(|_| known)?,
            operator: *operator,
            literal,
        })
    }

    fn holds(&self, variables: &dyn Variables) -> Option<bool> {
        let found = self.field.find(variables)?;
        // Equality of texts is most, and the order of two texts costs more.
        if let (Variable::Text(text), Literal::Text(literal)) = (found, &self.literal) {
            match self.operator {
                Operator::Equal => return Some(*text == **literal),
                Operator::NotEqual => return Some(*text != **literal),
                _ => {}
            }
        }
        let order = match (found, &self.literal) {
            (Variable::Text(text), Literal::Text(literal)) => text.cmp(literal),
            (Variable::Int(int), Literal::Int(literal)) => int.cmp(literal),
            (Variable::Bool(bool), Literal::Bool(literal)) => bool.cmp(literal),
            _ => return None,
        };
        match self.operator {
            Operator::Equal => Some(order == Ordering::Equal),
            Operator::NotEqual => Some(order != Ordering::Equal),
            Operator::Less => Some(order == Ordering::Less),
            Operator::LessOrEqual => Some(order != Ordering::Greater),
            Operator::Greater => Some(order == Ordering::Greater),
            Operator::GreaterOrEqual => Some(order != Ordering::Less),
            _ => None,
        }
    }
}

/// The conditions of `a && b && c`, in their order.
fn collect(node: &Node, conditions: &mut Vec<Condition>) -> Option<()> {
    if let Node::And(left, right) = node {
        collect(left, conditions)?;
        return collect(right, conditions);
    }
    conditions.push(Condition::of(node)?);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::{Expression, Names, Wanted, evaluate};
    use super::*;
    use crate::expr::value::Val;
    use crate::json::Document;
    use crate::json::scan::Scanner;
    use proptest::prelude::*;

    struct Event<'a>(Document<'a>);

    impl Variables for Event<'_> {
        fn get(&self, name: &str) -> Option<Variable<'_>> {
            (name == "event").then(|| self.0.variable())
        }
    }

    fn compiled(text: &str) -> Expression {
        Expression::compile_for(text, &Names::new(&["event"]), Wanted::Anything).unwrap()
    }

    #[test]
    fn which_expressions_are_direct() {
        for (text, direct) in [
            ("event.a", true),
            ("event.a == 'x'", true),
            ("event.a == 'x' && event.b < 3 && event.c != true", true),
            ("event", false),
            ("event.a.b", false),
            ("event.a == event.b", false),
            ("event.a == 1.5", false),
            ("event.a == 'x' || event.b == 'y'", false),
            ("event.a + 1 == 2", false),
        ] {
            assert_eq!(compiled(text).direct.is_some(), direct, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_answers_as_the_evaluator_does(
            fields in prop::collection::vec(("[abc]", "(\"[xy]{0,2}\"|-?[0-3]|1\\.0|true|false|null|\\[1\\]|\\{\\}|\"\\\\n\")"), 0..4),
            conditions in prop::collection::vec(("[abc]", "(==|!=|<|<=|>|>=)", "('[xy]{0,2}'|-?[0-3]|true|false)"), 1..4),
            alone in any::<bool>(),
        ) {
            let json: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let json = format!("{{{}}}", json.join(","));
            let mut scanner = Scanner::default();
            let event = Event(Document::read(json.as_bytes(), &mut scanner).unwrap());
            let text = if alone {
                format!("event.{}", conditions[0].0)
            } else {
                let all: Vec<String> = conditions.iter().map(|(field, operator, literal)| format!("event.{field} {operator} {literal}")).collect();
                all.join(" && ")
            };
            let expression = compiled(&text);
            let found = evaluate::evaluate(&expression.root, expression.locals, &event);
            let direct = expression.direct.as_ref().unwrap();
            if let Some(truth) = direct.truth(&event) {
                prop_assert!(matches!(&found, Ok(Val::Bool(bool)) if *bool == truth), "{} of {}", text, json);
            }
            if let Some(given) = direct.given(&event) {
                prop_assert_eq!(Some(Ok(given)), found.clone().ok().map(Expression::give), "{} of {}", &text, &json);
            }
            if let Some(given) = direct.text(&event) {
                prop_assert!(matches!(&found, Ok(Val::Text(text)) if *text == given), "{} of {}", text, json);
            }
        }
    }
}
