//! Source: a kernel written for one query over one layout of its columns.
//!
//! ```text
//!   for each tile of 8,192 rows, in turn over the blocks
//!     for one, two or four rows a thread, as registers allow:
//!       load ─▶ decode ─▶ filter (a flag, no branch) ─▶ group ─▶ words
//!   one group: registers, joined over the warp │ few: a copy a warp │ more: shared memory │ many: memory
//! ```
//!
//! **Invariant.** The arithmetic is that of [`Expr::value`]: three-valued, with overflows noted and not wrapped.
//! Without fused multiply-add: the compiler is told not to.

use super::{
    layout::{Home, Layout, Signature, table_words},
    shape::{Op, Part, Shape},
};
use crate::{
    kernel::cpu::groups::KeyColumn,
    query::{Arithmetic, Comparison, Expr, Place, Query},
    value::{Kind, Value},
};
use std::fmt::Write as _;

/// What a kernel is written from.
pub struct Writer<'a> {
    pub query: &'a Query,
    pub shape: &'a Shape,
    pub columns: &'a [usize],
    pub signature: &'a Signature,
    pub keys: &'a [KeyColumn],
    pub groups: usize,
    pub home: Home,
    /// Places of operators that may overflow; an overflow is noted by its number here.
    pub places: Vec<Place>,
    /// Text tests, in the order of their tables.
    pub tests: Vec<Expr>,
    body: String,
    next: usize,
}

impl<'a> Writer<'a> {
    pub fn new(
        query: &'a Query,
        shape: &'a Shape,
        (columns, signature): (&'a [usize], &'a Signature),
        (keys, groups): (&'a [KeyColumn], Option<usize>),
    ) -> Writer<'a> {
        let home = Home::new(groups, shape.words());
        let (places, tests, body) = (Vec::new(), Vec::new(), String::new());
        let groups = groups.unwrap_or(1);
        Writer { query, shape, columns, signature, keys, groups, home, places, tests, body, next: 0 }
    }

    /// The kernel's source, or what it cannot say.
    pub fn write(&mut self) -> Result<String, String> {
        let filter = match &self.query.filter {
            Some(filter) => {
                let (value, known) = self.expr(filter, "alive")?;
                format!("alive && {value} && {known}")
            }
            None => "alive".to_owned(),
        };
        self.line(&format!("bool in = {filter};"));
        self.line("u64 group = 0;");
        for (place, key) in self.keys.iter().enumerate() {
            self.key(place, *key);
        }
        self.words()?;
        Ok(self.assemble())
    }

    fn line(&mut self, text: &str) {
        self.body.push_str("            ");
        self.body.push_str(text);
        self.body.push('\n');
    }

    fn name(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn local(&self, column: usize) -> usize {
        self.columns.iter().position(|other| *other == column).expect("every column that is read is listed")
    }

    fn key(&mut self, place: usize, key: KeyColumn) {
        let column = self.local(key.index);
        let code = match key.min {
            Some(min) => format!("(u64)((i64)c{column}[r] - ({min}ll))"),
            None => format!("((const u32*)g{place})[c{column}[r]]"),
        };
        // A missing value's pattern, and a row that is not wanted, must not be looked up.
        let (missing, stride) = (key.missing, key.stride);
        self.line(&format!("group += (in && k{column}[r] ? {code} : {missing}ull) * {stride}ull;"));
    }

    /// Notes an overflow, if the row counts.
    fn overflow(&mut self, condition: &str, place: &Place, counts: &str) {
        let number = self.places.len() as u64;
        self.places.push(place.clone());
        self.line(&format!("if ({condition} && {counts}) kv_min(error, {number});"));
    }

    /// Writes an expression; gives the names of its value and of whether it is known. Flags are `bool`, f64 `double`,
    /// everything else `i64`. `counts` says whether an overflow in this row matters.
    fn expr(&mut self, expr: &Expr, counts: &str) -> Result<(String, String), String> {
        let id = self.name();
        let (value, known) = (format!("v{id}"), format!("n{id}"));
        match expr {
            Expr::Column { index, kind } => {
                let column = self.local(*index);
                let read = match kind {
                    Kind::F64 => format!("double {value} = kv_f64(c{column}[r]);"),
                    Kind::Bool => format!("bool {value} = c{column}[r] != 0;"),
                    _ => format!("i64 {value} = (i64)c{column}[r];"),
                };
                self.line(&format!("{read} bool {known} = k{column}[r];"));
            }
            Expr::Constant(constant) => {
                let (kind, text) = match constant {
                    Value::F64(number) => ("double", format!("kv_f64({}ull)", number.to_bits())),
                    Value::Bool(flag) => ("bool", flag.to_string()),
                    Value::I64(number) | Value::Timestamp(number) => {
                        ("i64", format!("(i64){}ull", number.cast_unsigned()))
                    }
                    Value::Missing => ("i64", "0".to_owned()),
                    _ => return Err("no kernel for this constant".to_owned()),
                };
                let is_known = !constant.is_missing();
                self.line(&format!("{kind} {value} = {text}; bool {known} = {is_known};"));
            }
            Expr::Arithmetic { operator, left, right, place } => {
                self.arithmetic((*operator, left, right), place, counts, (&value, &known))?;
            }
            Expr::Absolute(inner, place) => {
                let (of, of_known) = self.expr(inner, counts)?;
                if inner.kind() == Kind::F64 {
                    self.line(&format!(
                        "double {value} = kv_f64(kv_bits({of}) & ~(1ull << 63)); bool {known} = {of_known};"
                    ));
                } else {
                    self.line(&format!(
                        "i64 {value} = {of} < 0 ? (i64)(0 - (u64){of}) : {of}; bool {known} = {of_known};"
                    ));
                    self.overflow(&format!("{known} && {value} < 0"), place, counts);
                }
            }
            Expr::ToFloat(inner) => {
                let (of, of_known) = self.expr(inner, counts)?;
                self.line(&format!("double {value} = (double){of}; bool {known} = {of_known};"));
            }
            Expr::Micros(inner) => return self.expr(inner, counts),
            Expr::TextCompare { .. } | Expr::ToWhole(..) | Expr::Part(..) => {
                return Err("no kernel for this expression".to_owned());
            }
            condition => self.condition(condition, counts, (&value, &known))?,
        }
        Ok((value, known))
    }

    /// Writes what is true or false: a flag holds only where it is known.
    fn condition(&mut self, expr: &Expr, counts: &str, (value, known): (&str, &str)) -> Result<(), String> {
        match expr {
            Expr::Compare { operator, left, right } => {
                let is_float = left.kind() == Kind::F64;
                let ((one, one_known), (other, other_known)) = (self.expr(left, counts)?, self.expr(right, counts)?);
                let ordered =
                    |name: &str| if is_float { format!("kv_ordered(kv_bits({name}))") } else { name.to_owned() };
                let (one, other) = (ordered(&one), ordered(&other));
                let sign = sign(*operator);
                self.line(&format!(
                    "bool {known} = {one_known} && {other_known}; bool {value} = {known} && {one} {sign} {other};"
                ));
            }
            Expr::And(left, right) | Expr::Or(left, right) => {
                let is_and = matches!(expr, Expr::And(..));
                let ((a, ak), (b, bk)) = (self.expr(left, counts)?, self.expr(right, counts)?);
                let (decides, joined) = if is_and { ("!", "&&") } else { ("", "||") };
                self.line(&format!(
                    "bool {known} = ({ak} && {bk}) || ({ak} && {decides}{a}) || ({bk} && {decides}{b}); \
                     bool {value} = {known} && (({ak} && {a}) {joined} ({bk} && {b}));"
                ));
            }
            Expr::Not(inner) => {
                let (of, of_known) = self.expr(inner, counts)?;
                self.line(&format!("bool {known} = {of_known}; bool {value} = {known} && !{of};"));
            }
            Expr::IsMissing(inner) => {
                let of_known = match inner.as_ref() {
                    Expr::Column { index, .. } => format!("k{}[r]", self.local(*index)),
                    inner => self.expr(inner, counts)?.1,
                };
                self.line(&format!("bool {value} = !{of_known}; bool {known} = true;"));
            }
            Expr::Text { column, .. } => {
                let (test, column) = (self.tests.len(), self.local(*column));
                self.tests.push(expr.clone());
                self.line(&format!(
                    "bool {known} = k{column}[r]; \
                     bool {value} = {known} && ((const unsigned char*)t{test})[c{column}[r]];"
                ));
            }
            other => return Err(format!("no kernel for {other:?}")),
        }
        Ok(())
    }

    fn arithmetic(
        &mut self,
        (operator, left, right): (Arithmetic, &Expr, &Expr),
        place: &Place,
        counts: &str,
        (value, known): (&str, &str),
    ) -> Result<(), String> {
        let is_float = left.kind() == Kind::F64;
        let ((a, ak), (b, bk)) = (self.expr(left, counts)?, self.expr(right, counts)?);
        self.line(&format!("bool {known} = {ak} && {bk};"));
        if is_float {
            let text = match operator {
                Arithmetic::Add => format!("{a} + {b}"),
                Arithmetic::Subtract => format!("{a} - {b}"),
                Arithmetic::Multiply => format!("{a} * {b}"),
                Arithmetic::Divide => format!("{a} / {b}"),
                Arithmetic::DivideWhole => format!("trunc({a} / {b})"),
                Arithmetic::Remainder => format!("fmod({a}, {b})"),
            };
            self.line(&format!("double {value} = {text};"));
            return Ok(());
        }
        let checked = match operator {
            Arithmetic::Add => Some("kv_add_over"),
            Arithmetic::Subtract => Some("kv_sub_over"),
            Arithmetic::Multiply => Some("kv_mul_over"),
            Arithmetic::Divide | Arithmetic::DivideWhole | Arithmetic::Remainder => None,
        };
        if let Some(function) = checked {
            self.line(&format!("i64 {value}; bool {value}o = {function}({a}, {b}, &{value});"));
            self.overflow(&format!("{known} && {value}o"), place, counts);
            return Ok(());
        }
        // The smallest number by -1 is the one division that overflows; the device must not meet it, nor a zero.
        let sign = if operator == Arithmetic::Remainder { "%" } else { "/" };
        let is_smallest = format!("({b} == -1 && {a} == (i64)(1ull << 63))");
        self.line(&format!("{known} = {known} && {b} != 0;"));
        self.line(&format!("i64 {value} = {b} == 0 || {is_smallest} ? 0 : {a} {sign} {b};"));
        if operator != Arithmetic::Remainder {
            self.overflow(&format!("{known} && {is_smallest}"), place, counts);
        }
        Ok(())
    }

    fn words(&mut self) -> Result<(), String> {
        let into = |at: String, value: String, op: Op| format!("KV_INTO({}, {at}, {value});", op_word(op));
        self.line(&into("0".to_owned(), "in ? 1ull : 0ull".to_owned(), Op::Add));
        let query = self.query;
        for (aggregate, (part, at)) in query.aggregates.iter().zip(self.shape.parts.clone()) {
            if part == Part::Rows {
                continue;
            }
            let argument = &aggregate.arguments[0];
            let (value, known) = self.expr(argument, "in")?;
            let is_float = argument.kind() == Kind::F64;
            let id = self.name();
            self.line(&format!("bool w{id} = in && {known};"));
            let count = into(at.to_string(), format!("w{id} ? 1ull : 0ull"), Op::Add);
            match part {
                Part::Rows => {}
                Part::Count => self.line(&count),
                Part::Whole => {
                    self.line(&count);
                    let low = format!("w{id} ? (u64){value} & 0xFFFFFFFFull : 0ull");
                    self.line(&into((at + 1).to_string(), low, Op::Add));
                    self.line(&into((at + 2).to_string(), format!("w{id} ? (u64)({value} >> 32) : 0ull"), Op::Add));
                }
                Part::Float { scale } => {
                    self.line(&count);
                    let (scale, undo) = (scale.to_bits(), (1.0 / scale).to_bits());
                    self.line(&format!("i64 h{id} = kv_round((w{id} ? {value} : 0.0) * kv_f64({scale}ull));"));
                    self.line(&format!("double e{id} = (w{id} ? {value} : 0.0) - (double)h{id} * kv_f64({undo}ull);"));
                    self.line(&into((at + 1).to_string(), format!("(u64)h{id}"), Op::Add));
                    let low = format!("(u64)kv_round(e{id} * kv_f64({scale}ull) * 2147483648.0)");
                    self.line(&into((at + 2).to_string(), low, Op::Add));
                }
                Part::End { is_max } => {
                    self.line(&count);
                    let key = if is_float { format!("kv_ordered(kv_bits({value}))") } else { format!("(i64){value}") };
                    let (op, nothing) =
                        if is_max { (Op::Max, "(i64)(1ull << 63)") } else { (Op::Min, "0x7FFFFFFFFFFFFFFFll") };
                    self.line(&into((at + 1).to_string(), format!("(u64)(w{id} ? {key} : {nothing})"), op));
                }
                Part::Bins { low, high, bins } => {
                    let (low, high) = (low.to_bits(), high.to_bits());
                    self.line(&format!("double l{id} = kv_f64({low}ull), u{id} = kv_f64({high}ull);"));
                    self.line(&format!("bool i{id} = {value} >= l{id} && {value} < u{id};"));
                    let bin = format!("({value} - l{id}) / (u{id} - l{id}) * {bins}.0");
                    self.line(&format!("u64 b{id} = i{id} ? (u64)({bin}) : 0;"));
                    // Rounding may carry a number just below the end to it.
                    let inside = format!("(b{id} < {bins} ? b{id} : {bins} - 1) + 1");
                    self.line(&format!(
                        "if (w{id}) KV_AT({at} + (i{id} ? {inside} : {value} < l{id} ? 0 : {bins} + 1));"
                    ));
                }
            }
        }
        Ok(())
    }

    fn assemble(&self) -> String {
        let (words, groups, columns) = (self.shape.words(), self.groups, self.columns.len());
        let is_narrow = |(layout, has_gaps): &(Layout, bool)| matches!(layout, Layout::Packed(_)) && !has_gaps;
        // As many rows at once as registers allow without spilling at five blocks a multiprocessor.
        let is_few = columns <= 2 && self.home == Home::Registers;
        let rows = match words {
            ..=4 if is_few && self.signature.columns.iter().all(is_narrow) => 4,
            ..=6 if is_few => 2,
            _ => 1,
        };
        let mut out = format!("#define KV_ROWS {rows}u\n{}", include_str!("prelude.cu"));
        let has_bins = self.shape.parts.iter().any(|(part, _)| matches!(part, Part::Bins { .. }));
        // Counts in bins are at a place that is not known beforehand, which registers do not have.
        let home = if self.home == Home::Registers && has_bins { Home::Shared } else { self.home };
        let _ = write!(out, "#define KV_WORDS {words}u\n#define KV_GROUPS {groups}u\n");
        out.push_str("static __device__ __forceinline__ int kv_op(u32 word) { return ");
        // A list of operators would lie in memory; most words add.
        for (word, op) in self.shape.ops.iter().enumerate().filter(|(_, op)| **op != Op::Add) {
            let _ = write!(out, "word == {word}u ? {} : ", op_word(*op));
        }
        out.push_str("KV_ADD; }\n");
        let (into, at, copies) = home.macros();
        let _ =
            write!(out, "#define KV_INTO(op, at, value) {into}\n#define KV_AT(at) {at}\n#define KV_COPIES {copies}u\n");
        out.push_str("extern \"C\" __global__ void __launch_bounds__(256, 5) scan(const u64* table, u64 chunks, u64* out, u64* error) {\n");
        out.push_str(home.begin());
        if home == Home::WarpCopies {
            out.push_str("    u64* mine = kept + (KV_THREAD / KV_LANES) % KV_COPIES * KV_GROUPS * KV_WORDS;\n");
        }
        let stride = table_words(columns, self.tests.len(), self.keys.len());
        let _ = writeln!(
            out,
            "    for (u64 tile = KV_BLOCK; tile < chunks * 8; tile += KV_BLOCKS) {{\n\
                const u64* chunk = table + tile / 8 * {stride};\n\
                u64 first = tile % 8 * KV_SLICE, rows = chunk[0];"
        );
        self.pointers(&mut out);
        out.push_str(
            "        u64 end = rows < first + KV_SLICE ? rows : first + KV_SLICE;\n\
            for (u64 row = first + KV_THREAD * KV_ROWS; row < end; row += KV_THREADS * KV_ROWS) {\n",
        );
        self.loads(&mut out);
        let deleted = if self.signature.has_deleted { "!((kv_marks(chunk[1], row) >> r) & 1u)" } else { "true" };
        let _ = writeln!(
            out,
            "#pragma unroll\n\
                for (u32 r = 0; r < KV_ROWS; r++) {{\n\
                bool alive = row + r < rows && {deleted};"
        );
        out.push_str(&self.body);
        out.push_str("          }\n        }\n    }\n");
        out.push_str(home.end());
        out.push_str(
            "}\n\
            #ifdef KV_HOST\n\
            extern \"C\" void scan_host(u32 blocks, const u64* table, u64 chunks, u64* out, u64* error) {\n\
            kv_blocks = blocks;\n\
            for (kv_block = 0; kv_block < blocks; kv_block++) scan(table, chunks, out, error);\n\
            }\n\
            #endif\n",
        );
        out
    }

    fn pointers(&self, out: &mut String) {
        let columns = self.columns.len();
        for test in 0..self.tests.len() {
            let _ = writeln!(out, "        u64 t{test} = chunk[{}];", 2 + columns * 4 + test);
        }
        for key in 0..self.keys.len() {
            let _ = writeln!(out, "        u64 g{key} = chunk[{}];", 2 + columns * 4 + self.tests.len() + key);
        }
    }

    fn loads(&self, out: &mut String) {
        for (column, (layout, has_gaps)) in self.signature.columns.iter().enumerate() {
            let at = 2 + column * 4;
            let bits = match layout {
                Layout::Words => 64,
                Layout::Packed(bits) | Layout::Distinct(bits) => *bits,
            };
            let _ = writeln!(
                out,
                "          u64 c{column}[KV_ROWS]; kv_unpack<{bits}>((const u64*)chunk[{at}], row, c{column});"
            );
            match layout {
                Layout::Words => {}
                Layout::Packed(_) => {
                    let _ =
                        writeln!(out, "          for (u32 r = 0; r < KV_ROWS; r++) c{column}[r] += chunk[{}];", at + 2);
                }
                Layout::Distinct(_) => {
                    let _ = writeln!(
                        out,
                        "          for (u32 r = 0; r < KV_ROWS; r++) c{column}[r] = ((const u64*)chunk[{}])[c{column}[r]];",
                        at + 3
                    );
                }
            }
            let marks = if *has_gaps {
                format!("kv_marks(chunk[{}], row)", at + 1)
            } else {
                "((1u << KV_ROWS) - 1u)".to_owned()
            };
            let _ = writeln!(
                out,
                "          bool k{column}[KV_ROWS]; {{ u32 marks = {marks}; for (u32 r = 0; r < KV_ROWS; r++) k{column}[r] = (marks >> r) & 1u; }}"
            );
        }
    }
}

fn sign(operator: Comparison) -> &'static str {
    match operator {
        Comparison::Equal => "==",
        Comparison::NotEqual => "!=",
        Comparison::Less => "<",
        Comparison::LessOrEqual => "<=",
        Comparison::Greater => ">",
        Comparison::GreaterOrEqual => ">=",
    }
}

fn op_word(op: Op) -> &'static str {
    match op {
        Op::Add => "KV_ADD",
        Op::Min => "KV_MIN",
        Op::Max => "KV_MAX",
    }
}
