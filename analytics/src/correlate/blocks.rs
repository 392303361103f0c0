//! Blocks: a correlation matrix from columns less their means, several pairs at once.
//!
//! ```text
//!            columns j … j+3        each thread takes whole bands of 8 columns; within one, the rows are
//!   i … i+7  ┌──────────┐           walked once for each four columns on the other side
//!            │ 32 sums  │
//!            └──────────┘
//! ```
//!
//! Where values are missing, the pairs of those series are done one by one: a mean is then the pair's own.
//!
//! **Invariant.** Every sum has four places, filled in turn and added up as a tree.

use super::{Matrix, Series, coefficient, pair};
use crate::kernel::cpu::dispatch::{Level, Work, run};
use std::sync::Mutex;

/// Columns of a band.
const BAND: usize = 8;

/// Columns against a band at once.
const ACROSS: usize = 4;

/// Places of a sum.
const LANES: usize = 4;

pub fn matrix(series: &Series, first: usize, rows: usize, threads: usize) -> Matrix {
    let count = series.len();
    let window = |column: usize| &series.column(column)[first..first + rows];
    let has_gaps: Vec<bool> = (0..count).map(|column| window(column).iter().any(|number| number.is_nan())).collect();
    let centred: Vec<Vec<f64>> =
        (0..count).map(|column| if has_gaps[column] { vec![0.0; rows] } else { centred(window(column)) }).collect();
    let bands = count.div_ceil(BAND);
    let products = Mutex::new(vec![0.0; count * count]);
    let level = Level::detect();
    let fill = |band: usize| {
        let found = band_products(level, &centred, band * BAND);
        let mut products = products.lock().expect("nobody panics while it is held");
        for (one, other, product) in found {
            products[one * count + other] = product;
            products[other * count + one] = product;
        }
    };
    if threads <= 1 || bands == 1 {
        (0..bands).for_each(fill);
    } else {
        std::thread::scope(|scope| {
            for thread in 0..threads.min(bands) {
                let fill = &fill;
                scope.spawn(move || (thread..bands).step_by(threads).for_each(fill));
            }
        });
    }
    let products = products.into_inner().expect("nobody panicked");
    let mut coefficients = vec![f64::NAN; count * count];
    for one in 0..count {
        for other in 0..count {
            let found = if has_gaps[one] || has_gaps[other] {
                pair(window(one), window(other))
            } else {
                coefficient(products[one * count + other], products[one * count + one], products[other * count + other])
            };
            coefficients[one * count + other] = found.unwrap_or(f64::NAN);
        }
    }
    Matrix::of(count, coefficients)
}

fn centred(column: &[f64]) -> Vec<f64> {
    let mean = column.iter().sum::<f64>() / column.len() as f64;
    column.iter().map(|number| number - mean).collect()
}

/// The sums of products of a band's columns with themselves and all later ones.
fn band_products(level: Level, columns: &[Vec<f64>], band: usize) -> Vec<(usize, usize, f64)> {
    let mut found = Vec::new();
    for across in (band..columns.len()).step_by(ACROSS) {
        for half in (band..(band + BAND).min(columns.len())).step_by(ACROSS) {
            // Beyond the last column the first one stands in; what it comes to is not looked at.
            let of = |start: usize| {
                std::array::from_fn::<&[f64], ACROSS, _>(|place| columns.get(start + place).unwrap_or(&columns[0]))
            };
            let sums = run(level, Products { left: of(half), right: of(across) });
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    if half + i < columns.len() && across + j < columns.len() {
                        found.push((half + i, across + j, *sum));
                    }
                }
            }
        }
    }
    found
}

/// Sixteen sums of products in one walk.
struct Products<'a> {
    left: [&'a [f64]; ACROSS],
    right: [&'a [f64]; ACROSS],
}

impl Work for Products<'_> {
    type Output = [[f64; ACROSS]; ACROSS];

    #[inline(always)]
    fn work(self) -> Self::Output {
        let mut sums = [[[0.0_f64; LANES]; ACROSS]; ACROSS];
        let rows = self.left[0].len();
        let blocks = |column: &'_ [f64]| column.len() / LANES;
        for block in 0..blocks(self.left[0]) {
            let lanes = |column: &[f64]| -> [f64; LANES] {
                column[block * LANES..][..LANES].try_into().expect("as many as were asked for")
            };
            let (left, right) = (self.left.map(lanes), self.right.map(lanes));
            for i in 0..ACROSS {
                for j in 0..ACROSS {
                    for lane in 0..LANES {
                        sums[i][j][lane] += left[i][lane] * right[j][lane];
                    }
                }
            }
        }
        let mut out = [[0.0; ACROSS]; ACROSS];
        for i in 0..ACROSS {
            for j in 0..ACROSS {
                for row in rows / LANES * LANES..rows {
                    sums[i][j][row % LANES] += self.left[i][row] * self.right[j][row];
                }
                let s = sums[i][j];
                out[i][j] = (s[0] + s[2]) + (s[1] + s[3]);
            }
        }
        out
    }
}
