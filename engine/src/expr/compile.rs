//! From text to a checked tree.
//!
//! Size and nesting are bounded before the parser sees the text, depth again after it. Then every name,
//! field, function, argument count and regular expression is looked at once, and types as far as they
//! are known: a comparison that cannot be true and an operator that cannot work are refused here and
//! not on the first event.

use super::evaluate::{Each, EachKind, Item, Node, Operator, Search};
use super::functions::{FUNCTIONS, Function, MACROS, SEARCHES};
use super::names::{Names, Shape};
use super::{BYTES_MAX, Error, Expression, Wanted, strings};
use crate::nesting;
use crate::problem::did_you_mean;
use cel::common::ast::{
    CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use std::collections::{BTreeMap, BTreeSet};

/// How deep the parsed tree may be: chains of operators are deeper than brackets.
const TREE_DEPTH_MAX: usize = 64;

/// Stack of the parser, in bytes: the bounds of `nesting` fit into a part of it.
const STACK_BYTES: usize = 32 * 1_048_576;

pub(super) fn compile(text: &str, names: &Names, wanted: Wanted) -> Result<Expression, Error> {
    check_size(text)?;
    // A level of brackets takes the generated parser some ten calls with large frames.
    stacker::grow(STACK_BYTES, || parse(text, names, wanted))
}

fn parse(text: &str, names: &Names, wanted: Wanted) -> Result<Expression, Error> {
    // Macros are left as calls: they are evaluated as they are written, not as folds.
    let parser = cel::Env::default()
        .parser()
        .enable_ident_escape_syntax(true)
        .error_recovery_limit(1)
        .max_recursion_depth(96);
    let (tree, source) = parser.parse_with_source_info(text).map_err(|errors| {
        errors.errors.first().map_or_else(
            || at(1, 1, "is no expression".to_owned()),
            |error| {
                at(
                    usize::try_from(error.pos.0).unwrap_or(1).max(1),
                    usize::try_from(error.pos.1).unwrap_or(1).max(1),
                    readable(&error.msg),
                )
            },
        )
    })?;
    let mut checker = Checker {
        names,
        source: &source,
        text,
        locals: Vec::new(),
        locals_max: 0,
        reads: BTreeMap::new(),
    };
    let (root, shape) = checker.node(&tree, 0)?;
    check_wanted(&shape, wanted).map_err(|message| at(1, 1, message))?;
    Ok(Expression {
        text: text.into(),
        direct: super::direct::Direct::of(&root),
        root,
        locals: checker.locals_max,
        reads: checker.reads,
    })
}

/// The parser's message without its list of all tokens that could have stood there.
fn readable(message: &str) -> String {
    let message = message.trim_start_matches("Syntax error: ");
    let message = message
        .split_once(" expecting ")
        .map_or(message, |(before, _)| before);
    if message.contains("<EOF>") {
        return "syntax error: the expression ends too early".to_owned();
    }
    // The parser's own limit of recursion comes as the debug text of an error.
    if message.contains("ParseError {") {
        return "the expression is too deep".to_owned();
    }
    format!("syntax error: {message}")
}

fn at(line: usize, column: usize, message: String) -> Error {
    Error {
        line,
        column,
        message,
        hint: None,
    }
}

/// Bounds what the parser is given: it recurses, and may take long on what nobody would write.
fn check_size(text: &str) -> Result<(), Error> {
    if text.trim().is_empty() {
        return Err(at(1, 1, "the expression is empty".into()));
    }
    if text.len() > BYTES_MAX {
        return Err(at(
            1,
            1,
            format!(
                "the expression has {} bytes, the limit is {BYTES_MAX}",
                text.len()
            ),
        ));
    }
    nesting::check(text, nesting::Language::Cel).map_err(|(byte, message)| {
        let before = &text[..byte];
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |tail| tail.chars().count());
        at(before.matches('\n').count() + 1, column + 1, message)
    })
}

fn check_wanted(shape: &Shape, wanted: Wanted) -> Result<(), String> {
    use Shape::{Any, Bool, Double, Int, List, Null, Object, Text, Timestamp};
    let (fits, what) = match wanted {
        Wanted::Anything => return Ok(()),
        Wanted::Bool => (matches!(shape, Any | Bool), "a bool"),
        Wanted::Key => (
            !matches!(
                shape,
                Double | Object(_) | Timestamp | Shape::Duration | Shape::Bytes
            ),
            "a key (a string, int, bool or a list of these)",
        ),
        Wanted::List => (matches!(shape, Any | List(_) | Null), "a list"),
        Wanted::Text => (matches!(shape, Any | Text), "a string"),
        Wanted::Time => (
            matches!(shape, Any | Timestamp | Int),
            "a timestamp or an int of milliseconds",
        ),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("gives {}, {what} is needed", shape.name()))
    }
}

struct Checker<'n> {
    names: &'n Names,
    source: &'n SourceInfo,
    text: &'n str,
    locals: Vec<(String, Shape)>,
    locals_max: usize,
    reads: BTreeMap<String, BTreeSet<Option<String>>>,
}

type Checked = (Node, Shape);

impl Checker<'_> {
    fn error(&self, of: &IdedExpr, message: impl Into<String>) -> Error {
        let start = self
            .source
            .offset_for(of.id)
            .map_or(0, |(start, _)| start as usize);
        let before: String = self.text.chars().take(start).collect();
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |tail| tail.chars().count())
            + 1;
        at(line, column, message.into())
    }

    fn unknown<'c>(
        &self,
        of: &IdedExpr,
        message: String,
        name: &str,
        candidates: impl Iterator<Item = &'c str>,
    ) -> Error {
        let mut error = self.error(of, message);
        error.hint = did_you_mean(name, candidates).map(|found| format!("Did you mean `{found}`?"));
        error
    }

    fn node(&mut self, of: &IdedExpr, depth: usize) -> Result<Checked, Error> {
        if depth > TREE_DEPTH_MAX {
            return Err(self.error(of, "the expression is too deep"));
        }
        let depth = depth + 1;
        match &of.expr {
            Expr::Unspecified => Err(self.error(of, "a part is missing")),
            Expr::Literal(literal) => Ok(literal_of(literal)),
            Expr::Ident(name) => self.root(of, name, None),
            Expr::Select(select) => self.select(of, select, depth),
            Expr::Call(call) => self.call(of, call, depth),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.elements.len());
                let mut shapes = Vec::new();
                for (index, element) in list.elements.iter().enumerate() {
                    let (node, shape) = self.node(element, depth)?;
                    let optional = list.optional_indices.contains(&index);
                    shapes.push(if optional { Shape::Any } else { shape });
                    items.push(Item { node, optional });
                }
                let same = shapes.windows(2).all(|pair| pair[0] == pair[1]);
                let shape = if same {
                    shapes.pop().unwrap_or_default()
                } else {
                    Shape::Any
                };
                Ok((Node::List(items), Shape::List(Box::new(shape))))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                let mut seen = BTreeSet::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(self.error(of, "an object is written {'name': value}"));
                    };
                    if let Expr::Literal(LiteralValue::String(name)) = &entry.key.expr
                        && !seen.insert(name.inner().to_owned())
                    {
                        return Err(self.error(
                            &entry.key,
                            format!("the key `{}` stands twice", name.inner()),
                        ));
                    }
                    let (key, _) = self.node(&entry.key, depth)?;
                    let (node, _) = self.node(&entry.value, depth)?;
                    entries.push((
                        key,
                        Item {
                            node,
                            optional: entry.optional,
                        },
                    ));
                }
                Ok((Node::Map(entries), Shape::object()))
            }
            Expr::Struct(of_type) => Err(self.error(
                of,
                format!(
                    "there is no type `{}`; an object is written {{'name': value}}",
                    of_type.type_name
                ),
            )),
            Expr::Comprehension(_) => Err(self.error(
                of,
                "comprehensions are written as macros, as list.map(x, ...)",
            )),
        }
    }

    /// A name that stands alone, or before `.field`.
    fn root(&mut self, of: &IdedExpr, name: &str, field: Option<&str>) -> Result<Checked, Error> {
        if let Some(slot) = self.locals.iter().rposition(|(local, _)| local == name) {
            return Ok((Node::Local(slot), self.locals[slot].1.clone()));
        }
        if let Some(shape) = self.names.get(name) {
            self.reads
                .entry(name.to_owned())
                .or_default()
                .insert(field.map(str::to_owned));
            return Ok((Node::Root(name.into()), shape.clone()));
        }
        const TYPES: [(&str, &str); 8] = [
            ("bool", "bool"),
            ("int", "int"),
            ("uint", "uint"),
            ("double", "double"),
            ("string", "string"),
            ("bytes", "bytes"),
            ("list", "list"),
            ("map", "map"),
        ];
        if let Some((_, of_type)) = TYPES.iter().find(|(known, _)| *known == name) {
            return Ok((Node::Type(of_type), Shape::Any));
        }
        if name == "null_type" {
            return Ok((Node::Type("null_type"), Shape::Any));
        }
        let known: Vec<&str> = self
            .names
            .roots()
            .chain(self.locals.iter().map(|(local, _)| local.as_str()))
            .collect();
        let mut error = self.unknown(
            of,
            format!("there is no `{name}` here"),
            name,
            known.iter().copied(),
        );
        if error.hint.is_none() {
            error.hint = Some(format!("There are: {}", known.join(", ")));
        }
        Err(error)
    }

    fn target(&mut self, operand: &IdedExpr, field: &str, depth: usize) -> Result<Checked, Error> {
        match &operand.expr {
            Expr::Ident(name) => self.root(operand, name, Some(field)),
            _ => self.node(operand, depth),
        }
    }

    fn select(
        &mut self,
        of: &IdedExpr,
        select: &SelectExpr,
        depth: usize,
    ) -> Result<Checked, Error> {
        let (node, shape) = self.target(&select.operand, &select.field, depth)?;
        let found = self.field(of, &shape, &select.field, false)?;
        Ok((
            Node::Select(Box::new(node), select.field.as_str().into()),
            found,
        ))
    }

    /// The shape of a field; `asks`: whether the expression asks if it is there.
    fn field(&self, of: &IdedExpr, shape: &Shape, name: &str, asks: bool) -> Result<Shape, Error> {
        match shape {
            Shape::Any => Ok(Shape::Any),
            Shape::Object(fields) => match fields.known.get(name) {
                Some(shape) => Ok(shape.clone()),
                None if (asks && fields.strict) || (!asks && fields.closed) => {
                    let known = fields.known.keys().map(String::as_str);
                    let mut error = self.unknown(
                        of,
                        format!("there is no field `{name}`"),
                        name,
                        known.clone(),
                    );
                    if error.hint.is_none() {
                        let listed: Vec<&str> = known.take(20).collect();
                        error.hint = Some(if listed.is_empty() {
                            "There are none".to_owned()
                        } else {
                            format!("There are: {}", listed.join(", "))
                        });
                    }
                    Err(error)
                }
                None => Ok(Shape::Any),
            },
            other => Err(self.error(of, format!("{} has no field `{name}`", other.name()))),
        }
    }

    fn call(&mut self, of: &IdedExpr, call: &CallExpr, depth: usize) -> Result<Checked, Error> {
        if let Some(checked) = self.operator(of, call, depth)? {
            return Ok(checked);
        }
        let name = call.func_name.as_str();
        match &call.target {
            None if name == operators::HAS => {
                let [argument] = call.args.as_slice() else {
                    return Err(self.error(of, "`has` takes one argument"));
                };
                let Expr::Select(select) = &argument.expr else {
                    return Err(self.error(argument, "`has` takes a field, as has(event.gate)"));
                };
                let (node, shape) = self.target(&select.operand, &select.field, depth)?;
                self.field(argument, &shape, &select.field, true)?;
                Ok((
                    Node::Has(Box::new(node), select.field.as_str().into()),
                    Shape::Bool,
                ))
            }
            Some(target) => {
                if let Some(space) = self.namespace(target) {
                    let full = format!("{space}.{name}");
                    if FUNCTIONS
                        .iter()
                        .any(|function| function.name.starts_with(&format!("{space}.")))
                    {
                        return self.function(of, &full, None, &call.args, depth);
                    }
                }
                if MACROS.contains(&name) {
                    return self.each(of, name, target, &call.args, depth);
                }
                self.function(of, name, Some(target), &call.args, depth)
            }
            None => self.function(of, name, None, &call.args, depth),
        }
    }

    /// The namespace that a target spells, unless a variable has its name.
    fn namespace<'t>(&self, target: &'t IdedExpr) -> Option<&'t str> {
        match &target.expr {
            Expr::Ident(name)
                if self.names.get(name).is_none()
                    && self.locals.iter().all(|(local, _)| local != name) =>
            {
                Some(name)
            }
            _ => None,
        }
    }

    fn operator(
        &mut self,
        of: &IdedExpr,
        call: &CallExpr,
        depth: usize,
    ) -> Result<Option<Checked>, Error> {
        use Operator as O;
        let name = call.func_name.as_str();
        if call.target.is_some() {
            return Ok(None);
        }
        let binary = match name {
            operators::EQUALS => Some(O::Equal),
            operators::NOT_EQUALS => Some(O::NotEqual),
            operators::LESS => Some(O::Less),
            operators::LESS_EQUALS => Some(O::LessOrEqual),
            operators::GREATER => Some(O::Greater),
            operators::GREATER_EQUALS => Some(O::GreaterOrEqual),
            operators::ADD => Some(O::Add),
            operators::SUBSTRACT => Some(O::Subtract),
            operators::MULTIPLY => Some(O::Multiply),
            operators::DIVIDE => Some(O::Divide),
            operators::MODULO => Some(O::Remainder),
            operators::IN => Some(O::In),
            _ => None,
        };
        if let (Some(operator), [left, right]) = (binary, call.args.as_slice()) {
            let (left, left_shape) = self.node(left, depth)?;
            let (right, right_shape) = self.node(right, depth)?;
            let shape = operation(operator, &left_shape, &right_shape)
                .map_err(|message| self.error(of, message))?;
            return Ok(Some((
                Node::Binary(operator, Box::new(left), Box::new(right)),
                shape,
            )));
        }
        Ok(Some(match (name, call.args.as_slice()) {
            (operators::LOGICAL_AND, [left, right]) => {
                let left = self.condition(left, "a side of `&&`", depth)?;
                let right = self.condition(right, "a side of `&&`", depth)?;
                (Node::And(Box::new(left), Box::new(right)), Shape::Bool)
            }
            (operators::LOGICAL_OR, [left, right]) => {
                let left = self.condition(left, "a side of `||`", depth)?;
                let right = self.condition(right, "a side of `||`", depth)?;
                (Node::Or(Box::new(left), Box::new(right)), Shape::Bool)
            }
            (operators::LOGICAL_NOT, [inner]) => (
                Node::Not(Box::new(self.condition(
                    inner,
                    "what `!` negates",
                    depth,
                )?)),
                Shape::Bool,
            ),
            (operators::NEGATE, [inner]) => {
                let (node, shape) = self.node(inner, depth)?;
                (Node::Negate(Box::new(node)), shape)
            }
            (operators::CONDITIONAL, [condition, then, otherwise]) => {
                let condition = self.condition(condition, "the condition of `? :`", depth)?;
                let (then, left) = self.node(then, depth)?;
                let (otherwise, right) = self.node(otherwise, depth)?;
                let shape = if left == right { left } else { Shape::Any };
                (
                    Node::Conditional(Box::new([condition, then, otherwise])),
                    shape,
                )
            }
            (operators::INDEX | operators::OPT_INDEX, [inner, index]) => {
                let literal = match &index.expr {
                    Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
                    _ => None,
                };
                let optional = name == operators::OPT_INDEX;
                let (node, shape) = match &literal {
                    Some(field) => self.target(inner, field, depth)?,
                    None => self.node(inner, depth)?,
                };
                let (index_node, _) = self.node(index, depth)?;
                let found = match (&shape, literal) {
                    (Shape::Object(_), Some(field)) => self.field(of, &shape, &field, optional)?,
                    (Shape::List(item), None) => (**item).clone(),
                    _ => Shape::Any,
                };
                let (of, index) = (Box::new(node), Box::new(index_node));
                if optional {
                    (Node::OptionalIndex(of, index), Shape::Any)
                } else {
                    (Node::Index(of, index), found)
                }
            }
            (operators::OPT_SELECT, [inner, field]) => {
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
                    return Err(self.error(of, "`.?` takes a field's name"));
                };
                let field = field.inner();
                let (node, shape) = self.target(inner, field, depth)?;
                self.field(of, &shape, field, true)?;
                (
                    Node::OptionalSelect(Box::new(node), field.into()),
                    Shape::Any,
                )
            }
            _ => return Ok(None),
        }))
    }

    fn condition(&mut self, of: &IdedExpr, what: &str, depth: usize) -> Result<Node, Error> {
        let (node, shape) = self.node(of, depth)?;
        if matches!(shape, Shape::Any | Shape::Bool) {
            Ok(node)
        } else {
            Err(self.error(of, format!("{what} is {}, a bool is needed", shape.name())))
        }
    }

    fn each(
        &mut self,
        of: &IdedExpr,
        name: &str,
        target: &IdedExpr,
        arguments: &[IdedExpr],
        depth: usize,
    ) -> Result<Checked, Error> {
        let (range, shape) = self.node(target, depth)?;
        let (variable, steps) = arguments.split_first().ok_or_else(|| {
            self.error(
                of,
                format!("`{name}` takes a variable and an expression, as {name}(x, x.field)"),
            )
        })?;
        let Expr::Ident(variable_name) = &variable.expr else {
            return Err(self.error(
                variable,
                format!("`{name}` takes the name of a variable first, as {name}(x, x.field)"),
            ));
        };
        let most = if name == "map" { 2 } else { 1 };
        if steps.is_empty() || steps.len() > most {
            return Err(self.error(
                of,
                format!("`{name}` takes a variable and an expression, as {name}(x, x.field)"),
            ));
        }
        let item = match (&shape, name) {
            (_, "optMap" | "optFlatMap") => Shape::Any,
            (Shape::Any, _) => Shape::Any,
            (Shape::List(item), _) => (**item).clone(),
            (Shape::Object(_), _) => Shape::Text,
            (other, _) => {
                return Err(self.error(
                    target,
                    format!(
                        "`{name}` goes through {}, a list or an object is needed",
                        other.name()
                    ),
                ));
            }
        };
        self.locals.push((variable_name.clone(), item.clone()));
        self.locals_max = self.locals_max.max(self.locals.len());
        let result = self.steps(name, steps, range, item, depth);
        self.locals.pop();
        result
    }

    fn steps(
        &mut self,
        name: &str,
        steps: &[IdedExpr],
        range: Node,
        item: Shape,
        depth: usize,
    ) -> Result<Checked, Error> {
        let what = format!("the condition of `{name}`");
        let kind = match name {
            "optMap" | "optFlatMap" => {
                let (step, _) = self.node(&steps[0], depth)?;
                let of = Box::new(range);
                return Ok((
                    Node::OptionalMap {
                        of,
                        step: Box::new(step),
                        flat: name == "optFlatMap",
                    },
                    Shape::Any,
                ));
            }
            "all" => EachKind::All,
            "exists" => EachKind::Exists,
            "exists_one" | "existsOne" => EachKind::ExistsOne,
            "filter" => EachKind::Filter,
            "sortBy" => EachKind::SortBy,
            _ => EachKind::Map,
        };
        let (condition, step, shape) = match (kind, steps) {
            (EachKind::Map, [condition, step]) => {
                let condition = self.condition(condition, &what, depth)?;
                let (step, shape) = self.node(step, depth)?;
                (Some(condition), Some(step), Shape::List(Box::new(shape)))
            }
            (EachKind::Map, steps) => {
                let (step, shape) = self.node(&steps[0], depth)?;
                (None, Some(step), Shape::List(Box::new(shape)))
            }
            (EachKind::SortBy, steps) => {
                let (step, _) = self.node(&steps[0], depth)?;
                (None, Some(step), Shape::List(Box::new(item)))
            }
            (kind, steps) => {
                let condition = self.condition(&steps[0], &what, depth)?;
                let shape = if kind == EachKind::Filter {
                    Shape::List(Box::new(item))
                } else {
                    Shape::Bool
                };
                (Some(condition), None, shape)
            }
        };
        Ok((
            Node::Each(Box::new(Each {
                kind,
                range,
                condition,
                step,
            })),
            shape,
        ))
    }

    fn function(
        &mut self,
        of: &IdedExpr,
        name: &str,
        target: Option<&IdedExpr>,
        arguments: &[IdedExpr],
        depth: usize,
    ) -> Result<Checked, Error> {
        let mut nodes = Vec::with_capacity(arguments.len() + 1);
        if let Some(target) = target {
            nodes.push(self.node(target, depth)?.0);
        }
        if SEARCHES.contains(&name) {
            return self.search(of, name, nodes, arguments, depth);
        }
        let method = target.is_some();
        let Some(function) = find(name, method) else {
            return Err(self.no_function(of, name, method));
        };
        let (least, most) = function.arguments;
        if !(least..=most).contains(&arguments.len()) {
            return Err(self.error(
                of,
                format!(
                    "`{name}` takes {}, not {}",
                    if least == most {
                        plural(least)
                    } else {
                        format!("{least} to {}", plural(most))
                    },
                    arguments.len()
                ),
            ));
        }
        for argument in arguments {
            nodes.push(self.node(argument, depth)?.0);
        }
        Ok((Node::Call(function, nodes), function.gives.clone()))
    }

    fn search(
        &mut self,
        of: &IdedExpr,
        name: &str,
        mut nodes: Vec<Node>,
        arguments: &[IdedExpr],
        depth: usize,
    ) -> Result<Checked, Error> {
        let mut rest = arguments.iter();
        if nodes.is_empty()
            && name == "matches"
            && let Some(text) = rest.next()
        {
            nodes.push(self.node(text, depth)?.0);
        }
        let Some(pattern) = rest.next().filter(|_| !nodes.is_empty()) else {
            return Err(self.error(
                of,
                format!("`{name}` is called on a string with a pattern, as text.{name}('[0-9]+')"),
            ));
        };
        let Expr::Literal(LiteralValue::String(literal)) = &pattern.expr else {
            return Err(self.error(
                pattern,
                format!("the pattern of `{name}` has to be a literal, as '[0-9]+'"),
            ));
        };
        let regex = strings::regex(literal.inner()).map_err(|message| {
            self.error(
                pattern,
                format!("the pattern is no regular expression: {message}"),
            )
        })?;
        if name == "findAll"
            && let Some(limit) = rest.next()
        {
            nodes.push(self.node(limit, depth)?.0);
        }
        if rest.next().is_some() {
            return Err(self.error(of, format!("`{name}` has too many arguments")));
        }
        let (search, shape) = match name {
            "matches" => (Search::Matches, Shape::Bool),
            "find" => (Search::Find, Shape::Text),
            _ => (Search::FindAll, Shape::List(Box::new(Shape::Text))),
        };
        Ok((Node::Regex(search, nodes, regex), shape))
    }

    fn no_function(&self, of: &IdedExpr, name: &str, method: bool) -> Error {
        if find(name, !method).is_some() {
            let mut error = self.error(of, format!("`{name}` is called another way"));
            error.hint = Some(if method {
                format!("Write {name}(x), not x.{name}()")
            } else {
                format!("Write x.{name}(...), not {name}(x, ...)")
            });
            return error;
        }
        let candidates = FUNCTIONS
            .iter()
            .filter(|function| function.method == method)
            .map(|function| function.name)
            .chain(MACROS.into_iter().filter(|_| method))
            .chain(SEARCHES);
        self.unknown(
            of,
            format!("there is no function `{name}`"),
            name,
            candidates,
        )
    }
}

fn find(name: &str, method: bool) -> Option<&'static Function> {
    FUNCTIONS
        .iter()
        .find(|function| function.method == method && function.name == name)
}

fn plural(count: usize) -> String {
    match count {
        0 => "no argument".to_owned(),
        1 => "1 argument".to_owned(),
        count => format!("{count} arguments"),
    }
}

fn literal_of(literal: &LiteralValue) -> Checked {
    match literal {
        LiteralValue::Boolean(bool) => (Node::Bool(*bool.inner()), Shape::Bool),
        LiteralValue::Bytes(bytes) => (Node::Bytes(bytes.inner().into()), Shape::Bytes),
        LiteralValue::Double(double) => (Node::Double(*double.inner()), Shape::Double),
        LiteralValue::Int(int) => (Node::Int(*int.inner()), Shape::Int),
        LiteralValue::Null => (Node::Null, Shape::Null),
        LiteralValue::String(text) => (Node::Text(text.inner().into()), Shape::Text),
        LiteralValue::UInt(uint) => (Node::Uint(*uint.inner()), Shape::Any),
    }
}

/// The shape of an operator's result.
fn operation(operator: Operator, left: &Shape, right: &Shape) -> Result<Shape, String> {
    use Operator as O;
    use Shape::{Any, Bool, Bytes, Double, Duration, Int, List, Null, Object, Text, Timestamp};
    match operator {
        O::Equal | O::NotEqual => {
            if left.meets(right) {
                return Ok(Bool);
            }
            Err(format!(
                "compares {} with {}: they are never equal",
                left.name(),
                right.name()
            ))
        }
        O::Less | O::LessOrEqual | O::Greater | O::GreaterOrEqual => {
            let ordered = |shape: &Shape| !matches!(shape, Null | List(_) | Object(_));
            if ordered(left) && ordered(right) && left.meets(right) {
                return Ok(Bool);
            }
            Err(format!(
                "{} and {} have no order",
                left.name(),
                right.name()
            ))
        }
        O::In => match right {
            Any | Object(_) => Ok(Bool),
            List(item) if left.meets(item) => Ok(Bool),
            List(item) => Err(format!(
                "looks for {} in a list of {}",
                left.name(),
                item.name()
            )),
            other => Err(format!(
                "`in` looks into {}, a list or an object is needed",
                other.name()
            )),
        },
        O::Add | O::Subtract | O::Multiply | O::Divide | O::Remainder => match (left, right) {
            (Any, _) | (_, Any) => Ok(Any),
            (Int, Int) => Ok(Int),
            (Double, Double) if operator != O::Remainder => Ok(Double),
            (Text, Text) if operator == O::Add => Ok(Text),
            (Bytes, Bytes) if operator == O::Add => Ok(Bytes),
            (List(_), List(_)) if operator == O::Add => Ok(if left == right {
                left.clone()
            } else {
                List(Box::new(Any))
            }),
            (Timestamp, Duration) if matches!(operator, O::Add | O::Subtract) => Ok(Timestamp),
            (Duration, Timestamp) if operator == O::Add => Ok(Timestamp),
            (Timestamp, Timestamp) if operator == O::Subtract => Ok(Duration),
            (Duration, Duration) if matches!(operator, O::Add | O::Subtract) => Ok(Duration),
            (left, right) => Err(super::evaluate::mixed(operator, left.name(), right.name())
                .message
                .into_owned()),
        },
    }
}
