//! Parse: from the text of a query to a checked [`Query`].
//!
//! The syntax of expressions is SQL's, read by `sqlparser` in DuckDB's dialect; this file gives function calls their
//! meaning, `translate` everything within them.
//!
//! **Invariant.** No text makes it panic: its length and its depth are bounded before the parser sees them.

use super::{Aggregate, Expr, Function, Place, Query, QueryError, translate::Translator};
use crate::{limits::Limits, schema::Schema, value::Kind};
use sqlparser::{
    ast::{
        DuplicateTreatment, Expr as Syntax, Function as Call, FunctionArg, FunctionArgExpr, FunctionArguments,
        SelectItem, Spanned as _,
    },
    dialect::DuckDbDialect,
    parser::{Parser, ParserError},
    tokenizer::{Location, Token, Tokenizer},
};

/// The text of a query, in its parts.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// `count(), avg(dep_delay) as delay`
    pub aggregates: &'a str,
    /// `origin = 'JFK' and month <= 6`
    pub filter: Option<&'a str>,
    /// `carrier, month`
    pub groups: Option<&'a str>,
}

impl Query {
    /// Reads and checks a query against the columns it will be asked of.
    ///
    /// # Errors
    /// Names part, line and column of what is wrong.
    pub fn parse(text: Text<'_>, schema: &Schema, limits: &Limits) -> Result<Query, QueryError> {
        let filter = match text.filter {
            Some(filter) => Some(parse_filter(filter, schema, limits)?),
            None => None,
        };
        let groups = match text.groups {
            Some(groups) => parse_groups(groups, schema, limits)?,
            None => Vec::new(),
        };
        let translator = Translator { schema, part: "aggregates" };
        let items = parsed("aggregates", text.aggregates, limits, |parser| {
            parser.parse_comma_separated(Parser::parse_select_item)
        })?;
        let aggregates = items.iter().map(|item| aggregate(item, &translator, limits)).collect::<Result<_, _>>()?;
        Ok(Query { filter, groups, aggregates })
    }
}

fn parse_filter(text: &str, schema: &Schema, limits: &Limits) -> Result<Expr, QueryError> {
    let translator = Translator { schema, part: "where" };
    let syntax = parsed("where", text, limits, |parser| parser.parse_expr())?;
    let filter = translator.expr(&syntax)?;
    if filter.kind() != Kind::Bool {
        let message = format!("a filter is true or false, this is {}", filter.kind());
        return Err(translator.mismatch(message, &syntax));
    }
    Ok(filter)
}

fn parse_groups(text: &str, schema: &Schema, limits: &Limits) -> Result<Vec<usize>, QueryError> {
    let translator = Translator { schema, part: "group by" };
    let items = parsed("group by", text, limits, |parser| parser.parse_comma_separated(Parser::parse_expr))?;
    let mut groups = Vec::new();
    for item in &items {
        match translator.expr(item)? {
            Expr::Column { index, .. } if groups.contains(&index) => {
                return Err(translator.mismatch("this column is named twice".to_owned(), item));
            }
            Expr::Column { index, .. } => groups.push(index),
            _ => return Err(translator.mismatch("groups are made by columns, not by expressions".to_owned(), item)),
        }
    }
    Ok(groups)
}

/// Lets the parser read all of `text`.
fn parsed<T>(
    part: &'static str,
    text: &str,
    limits: &Limits,
    read: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>,
) -> Result<T, QueryError> {
    if text.len() > limits.query_bytes_max {
        let (limit, limit_value) = ("query_bytes_max", limits.query_bytes_max);
        return Err(QueryError::Limit { what: "the bytes of a query", limit, limit_value });
    }
    let dialect = DuckDbDialect {};
    let end = Place {
        part,
        line: text.lines().count().max(1) as u64,
        column: text.lines().last().map_or(0, |line| line.chars().count()) as u64 + 1,
    };
    // The end of the text has no place of its own.
    let at = |location: Location| match location.line {
        0 => end.clone(),
        line => Place { part, line, column: location.column },
    };
    let tokens = Tokenizer::new(&dialect, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| QueryError::Syntax { message: error.message, place: at(error.location) })?;
    let nested = Parser::new(&dialect).with_recursion_limit(limits.depth_max).with_tokens_with_locations(tokens);
    let mut parser = nested;
    let outcome = read(&mut parser);
    let next = parser.peek_token();
    match outcome {
        Ok(syntax) if next.token == Token::EOF => Ok(syntax),
        Ok(_) => {
            let message = format!("`{}` does not belong here", next.token);
            Err(QueryError::Syntax { message, place: at(next.span.start) })
        }
        Err(error) => Err(syntax_error(error, at(next.span.start), part, limits)),
    }
}

/// The parser writes the place into its message; it is taken out again.
fn syntax_error(error: ParserError, fallback: Place, part: &'static str, limits: &Limits) -> QueryError {
    let message = match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => message,
        ParserError::RecursionLimitExceeded => {
            let (limit, limit_value) = ("depth_max", limits.depth_max);
            return QueryError::Limit { what: "the levels of an expression", limit, limit_value };
        }
    };
    let (what, place) = message.split_once(" at Line: ").unwrap_or((&message, ""));
    let (line, column) = place.split_once(", Column: ").unwrap_or(("", ""));
    let place = match (line.parse(), column.trim().parse()) {
        (Ok(line), Ok(column)) => Place { part, line, column },
        _ => fallback,
    };
    let message = what.replacen("Expected: ", "expected ", 1).replace("found: EOF", "found the end");
    QueryError::Syntax { message, place }
}

fn aggregate(item: &SelectItem, translator: &Translator<'_>, limits: &Limits) -> Result<Aggregate, QueryError> {
    let (syntax, alias) = match item {
        SelectItem::UnnamedExpr(syntax) => (syntax, None),
        SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value.clone())),
        other => {
            let place = translator.place(other.span().start);
            return Err(QueryError::Syntax { message: format!("`{other}` is no aggregate"), place });
        }
    };
    let Syntax::Function(call) = syntax else {
        let message = format!("`{syntax}` is no aggregate: count(), sum(x), avg(x), quantile(x, 0.9), …");
        return Err(translator.mismatch(message, syntax));
    };
    let name = alias.unwrap_or_else(|| syntax.to_string());
    let function = call.name.to_string().to_lowercase();
    let refused = call.filter.is_some() || call.over.is_some() || !call.within_group.is_empty();
    if refused || call.null_treatment.is_some() {
        let message = format!("`{function}` takes arguments and nothing else: no filter, window or order");
        return Err(translator.mismatch(message, syntax));
    }
    let (is_distinct, arguments) = arguments_of(call, syntax, translator)?;
    let reader = Reader { translator, limits, syntax, function: &function, arguments: &arguments };
    if is_distinct && function != "count" {
        return Err(reader.refuse("only count takes `distinct`"));
    }
    let (function, arguments) = reader.read(is_distinct)?;
    Ok(Aggregate { function, arguments, name })
}

fn arguments_of<'a>(
    call: &'a Call,
    syntax: &Syntax,
    translator: &Translator<'_>,
) -> Result<(bool, Vec<&'a Syntax>), QueryError> {
    let FunctionArguments::List(list) = &call.args else { return Ok((false, Vec::new())) };
    let is_distinct = list.duplicate_treatment == Some(DuplicateTreatment::Distinct);
    if !list.clauses.is_empty() {
        return Err(translator.mismatch("no clause is understood within an aggregate".to_owned(), syntax));
    }
    let mut arguments = Vec::new();
    for argument in &list.args {
        match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => arguments.push(expr),
            FunctionArg::Unnamed(FunctionArgExpr::Wildcard) if list.args.len() == 1 && !is_distinct => {}
            _ => return Err(translator.mismatch(format!("`{argument}` is no argument"), syntax)),
        }
    }
    Ok((is_distinct, arguments))
}

/// Gives one call its meaning.
struct Reader<'a> {
    translator: &'a Translator<'a>,
    limits: &'a Limits,
    syntax: &'a Syntax,
    function: &'a str,
    arguments: &'a [&'a Syntax],
}

impl Reader<'_> {
    fn refuse(&self, message: &str) -> QueryError {
        self.translator.mismatch(message.to_owned(), self.syntax)
    }

    fn read(&self, is_distinct: bool) -> Result<(Function, Vec<Expr>), QueryError> {
        match self.function {
            "count" if is_distinct => Ok((Function::CountDistinct, vec![self.any(0, 1)?])),
            "count" if self.arguments.is_empty() => Ok((Function::Count, Vec::new())),
            "count" => Ok((Function::Count, vec![self.any(0, 1)?])),
            "approx_count_distinct" | "count_distinct" => Ok((Function::CountDistinct, vec![self.any(0, 1)?])),
            "sum" => Ok((Function::Sum, vec![self.number(0, 1)?])),
            "min" => Ok((Function::Min, vec![self.any(0, 1)?])),
            "max" => Ok((Function::Max, vec![self.any(0, 1)?])),
            "avg" | "mean" => Ok((Function::Average, vec![self.number(0, 1)?])),
            "variance" | "var_samp" => Ok((Function::Variance { is_root: false }, vec![self.float(0, 1)?])),
            "stddev" | "stddev_samp" => Ok((Function::Variance { is_root: true }, vec![self.float(0, 1)?])),
            "median" => Ok((Function::Quantile(0.5), vec![self.number(0, 1)?])),
            "quantile" | "approx_quantile" => {
                let rank = self.constant(1, 2)?;
                if !(0.0..=1.0).contains(&rank) {
                    return Err(self.refuse("a quantile is a number from 0 to 1"));
                }
                Ok((Function::Quantile(rank), vec![self.number(0, 2)?]))
            }
            "top_k" => {
                let count = self.count(1, 2, "top_values_max", self.limits.top_values_max)?;
                Ok((Function::Top(count), vec![self.any(0, 2)?]))
            }
            "histogram" => self.histogram(),
            "corr" => Ok((Function::Correlation { is_matrix: false }, vec![self.float(0, 2)?, self.float(1, 2)?])),
            "correlation" => self.correlation(),
            other => Err(self.refuse(&format!(
                "there is no aggregate `{other}`: count, count_distinct, sum, min, max, avg, variance, stddev, \
                 quantile, median, top_k, histogram, corr, correlation"
            ))),
        }
    }

    fn histogram(&self) -> Result<(Function, Vec<Expr>), QueryError> {
        let (low, high) = (self.constant(1, 4)?, self.constant(2, 4)?);
        let bins = self.count(3, 4, "bins_max", self.limits.bins_max)?;
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(self.refuse("a histogram reaches from a number up to a larger one"));
        }
        Ok((Function::Histogram { low, high, bins }, vec![self.float(0, 4)?]))
    }

    fn correlation(&self) -> Result<(Function, Vec<Expr>), QueryError> {
        let columns = self.arguments.len();
        if columns < 2 {
            return Err(self.refuse("a correlation is between two columns or more"));
        }
        if columns > self.limits.matrix_columns_max {
            let (limit, limit_value) = ("matrix_columns_max", self.limits.matrix_columns_max);
            return Err(QueryError::Limit { what: "the columns of a correlation", limit, limit_value });
        }
        let arguments = (0..columns).map(|place| self.float(place, columns)).collect::<Result<_, _>>()?;
        Ok((Function::Correlation { is_matrix: true }, arguments))
    }

    fn syntax_of(&self, place: usize, wanted: usize) -> Result<&Syntax, QueryError> {
        if self.arguments.len() != wanted {
            let plural = if wanted == 1 { "" } else { "s" };
            let got = self.arguments.len();
            return Err(self.refuse(&format!("`{}` takes {wanted} argument{plural}, not {got}", self.function)));
        }
        Ok(self.arguments[place])
    }

    fn any(&self, place: usize, wanted: usize) -> Result<Expr, QueryError> {
        self.translator.expr(self.syntax_of(place, wanted)?)
    }

    fn number(&self, place: usize, wanted: usize) -> Result<Expr, QueryError> {
        let syntax = self.syntax_of(place, wanted)?;
        let expr = self.translator.expr(syntax)?;
        match expr.kind() {
            Kind::I64 | Kind::F64 => Ok(expr),
            kind @ (Kind::Bool | Kind::Timestamp | Kind::Text) => {
                let message = format!("`{}` takes numbers, `{syntax}` is {kind}", self.function);
                Err(self.translator.mismatch(message, syntax))
            }
        }
    }

    fn float(&self, place: usize, wanted: usize) -> Result<Expr, QueryError> {
        let expr = self.number(place, wanted)?;
        Ok(if expr.kind() == Kind::F64 { expr } else { Expr::ToFloat(Box::new(expr)) })
    }

    fn constant(&self, place: usize, wanted: usize) -> Result<f64, QueryError> {
        let syntax = self.syntax_of(place, wanted)?;
        let expr = self.translator.expr(syntax)?;
        let number = match expr.constant() {
            Some(crate::Value::I64(number)) => Some(*number as f64),
            Some(crate::Value::F64(number)) => Some(*number),
            _ => None,
        };
        number.ok_or_else(|| self.translator.mismatch(format!("`{syntax}` is not a constant number"), syntax))
    }

    fn count(&self, place: usize, wanted: usize, limit: &'static str, most: usize) -> Result<usize, QueryError> {
        let number = self.constant(place, wanted)?;
        if number < 1.0 || number.fract() != 0.0 {
            return Err(self.refuse(&format!("`{}` takes a whole number from 1", self.function)));
        }
        if number > most as f64 {
            return Err(QueryError::Limit { what: "the values asked for", limit, limit_value: most });
        }
        Ok(number as usize)
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
