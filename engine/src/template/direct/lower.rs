//! From the template engine's own syntax tree to what is rendered directly; `None` for anything else.

use super::{Comparison, Node, Part, Place};
use minijinja::machinery::{ast, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};

pub(super) fn template(name: &str, text: &str) -> Option<Vec<Part>> {
    match parse(text, name, SyntaxConfig::default()).ok()? {
        ast::Stmt::Template(template) => Scope::default().parts(&template.children),
        _ => None,
    }
}

/// Names of the loops' items, the outermost first.
#[derive(Default)]
struct Scope<'a>(Vec<&'a str>);

impl<'a> Scope<'a> {
    fn parts(&mut self, statements: &[ast::Stmt<'a>]) -> Option<Vec<Part>> {
        statements.iter().map(|own| self.part(own)).collect()
    }

    fn part(&mut self, statement: &ast::Stmt<'a>) -> Option<Part> {
        Some(match statement {
            ast::Stmt::EmitRaw(raw) => Part::Text(raw.raw.into()),
            ast::Stmt::EmitExpr(emit) => Part::Print(self.node(&emit.expr)?),
            ast::Stmt::IfCond(own) => Part::If {
                test: self.node(&own.expr)?,
                then: self.parts(&own.true_body)?,
                otherwise: self.parts(&own.false_body)?,
            },
            ast::Stmt::ForLoop(own) => {
                let ast::Expr::Var(item) = &own.target else {
                    return None;
                };
                if own.recursive || own.filter_expr.is_some() || item.id == "loop" {
                    return None;
                }
                let list = self.node(&own.iter)?;
                let otherwise = self.parts(&own.else_body)?;
                self.0.push(item.id);
                let body = self.parts(&own.body);
                self.0.pop();
                Part::For {
                    list,
                    body: body?,
                    otherwise,
                }
            }
            _ => return None,
        })
    }

    fn boxed(&self, expression: &ast::Expr<'a>) -> Option<Box<Node>> {
        self.node(expression).map(Box::new)
    }

    fn node(&self, expression: &ast::Expr<'a>) -> Option<Node> {
        Some(match expression {
            ast::Expr::Var(var) => match self.0.iter().rposition(|item| *item == var.id) {
                Some(depth) => Node::Item(depth),
                None if var.id == "loop" => return None,
                None => Node::Root(var.id.into()),
            },
            ast::Expr::Const(constant) => literal(&constant.value)?,
            ast::Expr::GetAttr(own) => match (&own.expr, self.0.len().checked_sub(1)) {
                (ast::Expr::Var(var), Some(depth)) if var.id == "loop" => {
                    Node::Place(depth, place(own.name)?)
                }
                _ => Node::Field(self.boxed(&own.expr)?, own.name.into()),
            },
            ast::Expr::GetItem(own) => {
                let of = self.boxed(&own.expr)?;
                match self.node(&own.subscript_expr)? {
                    Node::Text(name) => Node::Field(of, name),
                    Node::Int(place) => Node::At(of, usize::try_from(place).ok()?),
                    _ => return None,
                }
            }
            ast::Expr::Slice(own) => {
                if own.step.is_some() {
                    return None;
                }
                let place = |bound: &Option<ast::Expr<'a>>| match bound {
                    None => Some(None),
                    Some(bound) => match self.node(bound)? {
                        Node::Int(place) => usize::try_from(place).ok().map(Some),
                        _ => None,
                    },
                };
                let (from, to) = (place(&own.start)?, place(&own.stop)?);
                Node::Slice(self.boxed(&own.expr)?, from.unwrap_or(0), to)
            }
            ast::Expr::UnaryOp(own) => match own.op {
                ast::UnaryOpKind::Not => Node::Not(self.boxed(&own.expr)?),
                ast::UnaryOpKind::Neg => return None,
            },
            ast::Expr::BinOp(own) => self.binary(own)?,
            ast::Expr::IfExpr(own) => Node::Choose {
                test: self.boxed(&own.test_expr)?,
                then: self.boxed(&own.true_expr)?,
                otherwise: self.boxed(own.false_expr.as_ref()?)?,
            },
            ast::Expr::Filter(own) => self.filter(own)?,
            ast::Expr::Test(own) if own.args.is_empty() => {
                let of = self.boxed(&own.expr)?;
                match own.name {
                    "defined" => Node::Defined(of),
                    "undefined" => Node::Not(Box::new(Node::Defined(of))),
                    "none" => Node::IsNull(of),
                    _ => return None,
                }
            }
            _ => return None,
        })
    }

    fn binary(&self, own: &ast::BinOp<'a>) -> Option<Node> {
        let (left, right) = (self.boxed(&own.left)?, self.boxed(&own.right)?);
        let comparison = match own.op {
            ast::BinOpKind::ScAnd => return Some(Node::And(left, right)),
            ast::BinOpKind::ScOr => return Some(Node::Or(left, right)),
            ast::BinOpKind::Eq => Comparison::Equal,
            ast::BinOpKind::Ne => Comparison::NotEqual,
            ast::BinOpKind::Lt => Comparison::Less,
            ast::BinOpKind::Lte => Comparison::LessOrEqual,
            ast::BinOpKind::Gt => Comparison::More,
            ast::BinOpKind::Gte => Comparison::MoreOrEqual,
            _ => return None,
        };
        Some(Node::Compare(comparison, left, right))
    }

    fn filter(&self, own: &ast::Filter<'a>) -> Option<Node> {
        let of = self.boxed(own.expr.as_ref()?)?;
        let argument = match own.args.as_slice() {
            [] => None,
            [ast::CallArg::Pos(argument)] => Some(self.boxed(argument)?),
            _ => return None,
        };
        Some(match (own.name, argument) {
            ("default" | "d", Some(other)) => Node::Default(of, other),
            ("join", None) => Node::Join(of, "".into()),
            ("join", Some(between)) => match *between {
                Node::Text(between) => Node::Join(of, between),
                _ => return None,
            },
            ("length" | "count", None) => Node::Length(of),
            ("upper", None) => Node::Upper(of),
            ("lower", None) => Node::Lower(of),
            ("trim", None) => Node::Trim(of),
            _ => return None,
        })
    }
}

fn literal(value: &Value) -> Option<Node> {
    Some(match value.kind() {
        ValueKind::None => Node::Null,
        ValueKind::Bool => Node::Bool(value.is_true()),
        ValueKind::String => Node::Text(value.as_str()?.into()),
        ValueKind::Number if value.is_integer() => Node::Int(value.as_i64()?),
        _ => return None,
    })
}

fn place(name: &str) -> Option<Place> {
    Some(match name {
        "index" => Place::Index,
        "index0" => Place::Index0,
        "first" => Place::First,
        "last" => Place::Last,
        "length" => Place::Length,
        _ => return None,
    })
}
