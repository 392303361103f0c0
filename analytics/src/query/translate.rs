//! Translate: from the parser's tree to a typed one, with casts where kinds differ.
//!
//! ```text
//!   i64 ∘ f64 → f64 ∘ f64          timestamp ∘ 'text' → timestamp ∘ timestamp       a / b → f64 / f64
//!   text ∘ 'text' → one test a dictionary entry
//! ```
//!
//! **Invariant.** What it does not translate, it refuses by name and place.

use super::{Arithmetic, Comparison, DatePart, Expr, Place, QueryError, TextTest};
use crate::{
    schema::Schema,
    timestamp,
    value::{Kind, Value},
};
use sqlparser::{
    ast::{
        BinaryOperator, DataType, DateTimeField, Expr as Syntax, Function as Call, FunctionArg, FunctionArgExpr,
        FunctionArguments, Ident, Spanned as _, UnaryOperator, Value as Literal,
    },
    tokenizer::Location,
};

/// Translates one part of a query.
pub struct Translator<'a> {
    pub schema: &'a Schema,
    pub part: &'static str,
}

impl Translator<'_> {
    pub fn place(&self, location: Location) -> Place {
        Place { part: self.part, line: location.line.max(1), column: location.column.max(1) }
    }

    pub fn mismatch(&self, message: String, syntax: &Syntax) -> QueryError {
        QueryError::Mismatch { message, place: self.place(syntax.span().start) }
    }

    pub fn expr(&self, syntax: &Syntax) -> Result<Expr, QueryError> {
        match syntax {
            Syntax::Identifier(name) => self.column(name),
            Syntax::Nested(inner) => self.expr(inner),
            Syntax::Value(value) => self.literal(&value.value, syntax),
            Syntax::TypedString(typed) => match &typed.value.value {
                Literal::SingleQuotedString(text) => self.moment(text, syntax),
                _ => Err(self.unknown(syntax)),
            },
            Syntax::BinaryOp { left, op, right } => self.binary(op, left, right, syntax),
            Syntax::UnaryOp { op, expr } => self.unary(*op, expr, syntax),
            Syntax::IsNull(inner) => Ok(Expr::IsMissing(Box::new(self.expr(inner)?))),
            Syntax::IsNotNull(inner) => Ok(not(Expr::IsMissing(Box::new(self.expr(inner)?)))),
            Syntax::Between { expr, negated, low, high } => {
                let above = self.compare(Comparison::GreaterOrEqual, expr, low, syntax)?;
                let below = self.compare(Comparison::LessOrEqual, expr, high, syntax)?;
                Ok(negated_if(*negated, Expr::And(Box::new(above), Box::new(below))))
            }
            Syntax::InList { expr, list, negated } => Ok(negated_if(*negated, self.in_list(expr, list, syntax)?)),
            Syntax::Like { negated, any: false, expr, pattern, escape_char: None } => {
                Ok(negated_if(*negated, self.like(expr, pattern, false)?))
            }
            Syntax::ILike { negated, any: false, expr, pattern, escape_char: None } => {
                Ok(negated_if(*negated, self.like(expr, pattern, true)?))
            }
            Syntax::Cast { expr, data_type, .. } => self.cast(expr, data_type, syntax),
            Syntax::Extract { field, expr, .. } => self.part(field, expr, syntax),
            Syntax::Function(call) => self.call(call, syntax),
            _ => Err(self.unknown(syntax)),
        }
    }

    fn unknown(&self, syntax: &Syntax) -> QueryError {
        self.mismatch(format!("`{syntax}` is not understood here"), syntax)
    }

    fn column(&self, name: &Ident) -> Result<Expr, QueryError> {
        if let Some(index) = self.schema.find(&name.value) {
            return Ok(Expr::Column { index, kind: self.schema.fields()[index].kind });
        }
        let names: Vec<&str> = self.schema.fields().iter().map(|field| field.name.as_str()).collect();
        let hint = match nearest(&name.value, &names) {
            Some(nearest) => format!("; did you mean `{nearest}`?"),
            None => format!("; there are {}", names[..names.len().min(30)].join(", ")),
        };
        Err(QueryError::UnknownColumn { name: name.value.clone(), hint, place: self.place(name.span.start) })
    }

    fn literal(&self, literal: &Literal, syntax: &Syntax) -> Result<Expr, QueryError> {
        let value = match literal {
            Literal::Number(text, _) => {
                number(text).ok_or_else(|| self.mismatch(format!("`{text}` is no number of 64 bits"), syntax))?
            }
            Literal::SingleQuotedString(text) => Value::Text(text.as_str().into()),
            Literal::Boolean(flag) => Value::Bool(*flag),
            Literal::Null => Value::Missing,
            _ => return Err(self.unknown(syntax)),
        };
        Ok(Expr::Constant(value))
    }

    fn moment(&self, text: &str, syntax: &Syntax) -> Result<Expr, QueryError> {
        let micros = timestamp::parse(text)
            .ok_or_else(|| self.mismatch(format!("`{text}` is no timestamp like 2013-07-04T10:00:00Z"), syntax))?;
        Ok(Expr::Constant(Value::Timestamp(micros)))
    }

    fn unary(&self, operator: UnaryOperator, inner: &Syntax, syntax: &Syntax) -> Result<Expr, QueryError> {
        // The smallest i64 has no positive counterpart, so the sign is read together with the digits.
        if let (UnaryOperator::Minus, Syntax::Value(value)) = (operator, inner)
            && let Literal::Number(text, _) = &value.value
        {
            let negative = number(&format!("-{text}"));
            let refuse = || self.mismatch(format!("`-{text}` is no number of 64 bits"), syntax);
            return negative.map(Expr::Constant).ok_or_else(refuse);
        }
        let operand = self.expr(inner)?;
        match operator {
            UnaryOperator::Not => {
                self.must_be_bool(&operand, inner)?;
                Ok(not(operand))
            }
            UnaryOperator::Plus if is_number(operand.kind()) => Ok(operand),
            UnaryOperator::Minus if is_number(operand.kind()) => {
                let zero = if operand.kind() == Kind::F64 { Value::F64(0.0) } else { Value::I64(0) };
                let place = self.place(syntax.span().start);
                let (left, right) = (Box::new(Expr::Constant(zero)), Box::new(operand));
                Ok(Expr::Arithmetic { operator: Arithmetic::Subtract, left, right, place })
            }
            _ => Err(self.unknown(syntax)),
        }
    }

    fn must_be_bool(&self, expr: &Expr, syntax: &Syntax) -> Result<(), QueryError> {
        if expr.kind() == Kind::Bool || expr.constant().is_some_and(Value::is_missing) {
            return Ok(());
        }
        Err(self.mismatch(format!("`{syntax}` is {}, where true or false is needed", expr.kind()), syntax))
    }

    fn binary(
        &self,
        operator: &BinaryOperator,
        left: &Syntax,
        right: &Syntax,
        syntax: &Syntax,
    ) -> Result<Expr, QueryError> {
        let comparison = match operator {
            BinaryOperator::Eq => Some(Comparison::Equal),
            BinaryOperator::NotEq => Some(Comparison::NotEqual),
            BinaryOperator::Lt => Some(Comparison::Less),
            BinaryOperator::LtEq => Some(Comparison::LessOrEqual),
            BinaryOperator::Gt => Some(Comparison::Greater),
            BinaryOperator::GtEq => Some(Comparison::GreaterOrEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            return self.compare(comparison, left, right, syntax);
        }
        let arithmetic = match operator {
            BinaryOperator::Plus => Arithmetic::Add,
            BinaryOperator::Minus => Arithmetic::Subtract,
            BinaryOperator::Multiply => Arithmetic::Multiply,
            BinaryOperator::Divide => Arithmetic::Divide,
            BinaryOperator::DuckIntegerDivide => Arithmetic::DivideWhole,
            BinaryOperator::Modulo => Arithmetic::Remainder,
            BinaryOperator::And | BinaryOperator::Or => {
                let (one, other) = (self.expr(left)?, self.expr(right)?);
                self.must_be_bool(&one, left)?;
                self.must_be_bool(&other, right)?;
                let (one, other) = (Box::new(one), Box::new(other));
                let is_and = *operator == BinaryOperator::And;
                return Ok(if is_and { Expr::And(one, other) } else { Expr::Or(one, other) });
            }
            _ => return Err(self.mismatch(format!("the operator `{operator}` is not understood here"), syntax)),
        };
        self.arithmetic(arithmetic, left, right, syntax)
    }

    fn arithmetic(
        &self,
        operator: Arithmetic,
        left: &Syntax,
        right: &Syntax,
        syntax: &Syntax,
    ) -> Result<Expr, QueryError> {
        let (mut one, mut other) = (self.expr(left)?, self.expr(right)?);
        if (one.kind(), other.kind(), operator) == (Kind::Timestamp, Kind::Timestamp, Arithmetic::Subtract) {
            (one, other) = (Expr::Micros(Box::new(one)), Expr::Micros(Box::new(other)));
        }
        for (operand, syntax) in [(&one, left), (&other, right)] {
            if !is_number(operand.kind()) {
                return Err(self.mismatch(format!("`{syntax}` is {}, not a number", operand.kind()), syntax));
            }
        }
        if operator == Arithmetic::Divide || one.kind() != other.kind() {
            (one, other) = (as_float(one), as_float(other));
        }
        let place = self.place(syntax.span().start);
        Ok(Expr::Arithmetic { operator, left: Box::new(one), right: Box::new(other), place })
    }

    fn compare(
        &self,
        operator: Comparison,
        left: &Syntax,
        right: &Syntax,
        syntax: &Syntax,
    ) -> Result<Expr, QueryError> {
        let (mut one, mut other) = (self.expr(left)?, self.expr(right)?);
        if let (Expr::Constant(_), false) = (&one, matches!(other, Expr::Constant(_))) {
            return self.compare(operator.mirrored(), right, left, syntax);
        }
        if other.constant().is_some_and(Value::is_missing) || one.constant().is_some_and(Value::is_missing) {
            return Ok(Expr::And(Box::new(Expr::Constant(Value::Missing)), Box::new(Expr::Constant(Value::Missing))));
        }
        match (one.kind(), other.kind()) {
            (Kind::Text, Kind::Text) => return self.compare_texts(operator, &one, &other, syntax),
            (Kind::Timestamp, Kind::Text) => {
                if let Some(Value::Text(text)) = other.constant() {
                    other = self.moment(text, right)?;
                }
            }
            (Kind::Bool, Kind::Bool) => {
                return match (operator, other.constant()) {
                    (Comparison::Equal, Some(Value::Bool(flag))) => Ok(negated_if(!flag, one)),
                    (Comparison::NotEqual, Some(Value::Bool(flag))) => Ok(negated_if(*flag, one)),
                    _ => Err(self.unknown(syntax)),
                };
            }
            (left, right) if left != right && is_number(left) && is_number(right) => {
                (one, other) = (as_float(one), as_float(other));
            }
            _ => {}
        }
        if one.kind() != other.kind() {
            let message = format!("`{left}` is {} and `{right}` is {}: they do not compare", one.kind(), other.kind());
            return Err(self.mismatch(message, syntax));
        }
        Ok(Expr::Compare { operator, left: Box::new(one), right: Box::new(other) })
    }

    fn compare_texts(
        &self,
        operator: Comparison,
        left: &Expr,
        right: &Expr,
        syntax: &Syntax,
    ) -> Result<Expr, QueryError> {
        match (left, right) {
            (Expr::Column { index, .. }, Expr::Constant(Value::Text(text))) => {
                Ok(Expr::Text { column: *index, test: TextTest::Compare(operator, text.to_string()) })
            }
            (Expr::Column { index: left, .. }, Expr::Column { index: right, .. }) => {
                Ok(Expr::TextCompare { operator, left: *left, right: *right })
            }
            (Expr::Constant(left), Expr::Constant(right)) => {
                Ok(Expr::Constant(Value::Bool(operator.holds(left.cmp(right)))))
            }
            _ => Err(self.unknown(syntax)),
        }
    }

    fn in_list(&self, expr: &Syntax, list: &[Syntax], syntax: &Syntax) -> Result<Expr, QueryError> {
        let texts: Option<Vec<String>> = list
            .iter()
            .map(|item| match item {
                Syntax::Value(value) => match &value.value {
                    Literal::SingleQuotedString(text) => Some(text.clone()),
                    _ => None,
                },
                _ => None,
            })
            .collect();
        if let (Some(texts), Expr::Column { index, kind: Kind::Text }) = (texts, self.expr(expr)?) {
            return Ok(Expr::Text { column: index, test: TextTest::In(texts) });
        }
        let mut tests = Vec::new();
        for item in list {
            tests.push(self.compare(Comparison::Equal, expr, item, syntax)?);
        }
        let either = |one, other| Expr::Or(Box::new(one), Box::new(other));
        balanced(tests, &either).ok_or_else(|| self.mismatch("an empty list".to_owned(), syntax))
    }

    fn like(&self, expr: &Syntax, pattern: &Syntax, ignores_case: bool) -> Result<Expr, QueryError> {
        match (self.expr(expr)?, self.expr(pattern)?) {
            (Expr::Column { index, kind: Kind::Text }, Expr::Constant(Value::Text(pattern))) => {
                Ok(Expr::Text { column: index, test: TextTest::Like { pattern: pattern.to_string(), ignores_case } })
            }
            (other, Expr::Constant(Value::Text(_))) => {
                Err(self.mismatch(format!("`like` takes a text column, `{expr}` is {}", other.kind()), expr))
            }
            _ => Err(self.mismatch(format!("`like` takes a constant pattern, not `{pattern}`"), pattern)),
        }
    }

    fn cast(&self, expr: &Syntax, data_type: &DataType, syntax: &Syntax) -> Result<Expr, QueryError> {
        let inner = self.expr(expr)?;
        match (data_type, inner.kind()) {
            (DataType::Double(_) | DataType::Float(_) | DataType::DoublePrecision, Kind::I64 | Kind::F64) => {
                Ok(as_float(inner))
            }
            (DataType::BigInt(_) | DataType::Int64, Kind::I64) => Ok(inner),
            (DataType::BigInt(_) | DataType::Int64, Kind::F64) => {
                Ok(Expr::ToWhole(Box::new(inner), self.place(syntax.span().start)))
            }
            (other, kind) => Err(self.mismatch(format!("there is no cast from {kind} to {other}"), syntax)),
        }
    }

    fn part(&self, field: &DateTimeField, expr: &Syntax, syntax: &Syntax) -> Result<Expr, QueryError> {
        let part = match field {
            DateTimeField::Year => DatePart::Year,
            DateTimeField::Month => DatePart::Month,
            DateTimeField::Day => DatePart::Day,
            DateTimeField::Hour => DatePart::Hour,
            _ => return Err(self.unknown(syntax)),
        };
        let inner = self.expr(expr)?;
        if inner.kind() != Kind::Timestamp {
            return Err(self.mismatch(format!("`{expr}` is {}, not a timestamp", inner.kind()), expr));
        }
        Ok(Expr::Part(part, Box::new(inner)))
    }

    fn call(&self, call: &Call, syntax: &Syntax) -> Result<Expr, QueryError> {
        let name = call.name.to_string().to_lowercase();
        let argument = match &call.args {
            FunctionArguments::List(list) => match &list.args[..] {
                [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] => argument,
                _ => return Err(self.unknown(syntax)),
            },
            _ => return Err(self.unknown(syntax)),
        };
        match name.as_str() {
            "abs" => {
                let inner = self.expr(argument)?;
                if !is_number(inner.kind()) {
                    return Err(self.mismatch(format!("`{argument}` is {}, not a number", inner.kind()), argument));
                }
                Ok(Expr::Absolute(Box::new(inner), self.place(syntax.span().start)))
            }
            "year" => self.part(&DateTimeField::Year, argument, syntax),
            "month" => self.part(&DateTimeField::Month, argument, syntax),
            "day" => self.part(&DateTimeField::Day, argument, syntax),
            "hour" => self.part(&DateTimeField::Hour, argument, syntax),
            _ => Err(self.mismatch(format!("there is no function `{name}`: abs, year, month, day, hour"), syntax)),
        }
    }
}

/// Joins tests in a tree of logarithmic depth, so that a long list is not a deep expression.
fn balanced(mut tests: Vec<Expr>, join: &dyn Fn(Expr, Expr) -> Expr) -> Option<Expr> {
    if tests.len() > 1 {
        let right = tests.split_off(tests.len() / 2);
        return Some(join(balanced(tests, join)?, balanced(right, join)?));
    }
    tests.pop()
}

fn is_number(kind: Kind) -> bool {
    matches!(kind, Kind::I64 | Kind::F64)
}

fn as_float(expr: Expr) -> Expr {
    match expr {
        Expr::Constant(Value::I64(number)) => Expr::Constant(Value::F64(number as f64)),
        expr if expr.kind() == Kind::F64 => expr,
        expr => Expr::ToFloat(Box::new(expr)),
    }
}

fn not(expr: Expr) -> Expr {
    Expr::Not(Box::new(expr))
}

fn negated_if(is_negated: bool, expr: Expr) -> Expr {
    if is_negated { not(expr) } else { expr }
}

fn number(text: &str) -> Option<Value> {
    if text.contains(['.', 'e', 'E']) {
        return text.parse().ok().map(|number: f64| Value::F64(Value::canonical(number)));
    }
    text.parse().ok().map(Value::I64)
}

/// The known name that differs least, if it differs little.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |other: &str| {
        let mut row: Vec<usize> = (0..=other.len()).collect();
        for (above, letter) in name.bytes().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], above + 1);
            for (column, against) in other.bytes().enumerate() {
                let cost = diagonal + usize::from(!letter.eq_ignore_ascii_case(&against));
                diagonal = row[column + 1];
                row[column + 1] = cost.min(diagonal + 1).min(row[column] + 1);
            }
        }
        row[other.len()]
    };
    let best = known.iter().map(|other| (distance(other), *other)).min()?;
    (best.0 <= 2.min(name.len() / 2)).then_some(best.1)
}
