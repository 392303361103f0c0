//! Layout: how columns lie on a device, and where groups are kept there. A kernel is written for one of each.
//!
//! **Invariant.** Chunks with the same signature are read by the same kernel: what differs between them is in the
//! table.

use crate::chunk::{Chunk, Encoding};

/// How a column lies on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layout {
    /// 64-bit patterns.
    Words,
    /// Base and numbers of so many bits; text too.
    Packed(u8),
    /// Codes of so many bits into a list of patterns.
    Distinct(u8),
}

/// The layouts of a query's columns in a chunk, each with whether there are gaps, and whether rows are deleted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    pub columns: Vec<(Layout, bool)>,
    pub has_deleted: bool,
}

impl Signature {
    pub fn new(chunk: &Chunk, columns: &[usize]) -> Signature {
        let layout = |index: &usize| {
            let column = &chunk.columns()[*index];
            let layout = match column.encoding() {
                // Runs are spread out on their way: a thread finds its row without searching.
                Encoding::Words(_) | Encoding::Runs { .. } => Layout::Words,
                Encoding::Packed { numbers, .. } => Layout::Packed(numbers.bits()),
                Encoding::Text { codes, .. } => Layout::Packed(codes.bits()),
                Encoding::Distinct { codes, .. } => Layout::Distinct(codes.bits()),
            };
            (layout, column.present().is_some())
        };
        Signature { columns: columns.iter().map(layout).collect(), has_deleted: chunk.deleted().is_some() }
    }
}

/// Where groups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    Registers,
    WarpCopies,
    Shared,
    Memory,
}

/// Bytes of shared memory of a block: five blocks fit into the 227 KiB of a multiprocessor.
const SHARED_BYTES: usize = 43 << 10;

/// Warps of a block.
const WARPS: usize = 8;

impl Home {
    /// The rung of the ladder for so many groups.
    pub fn new(groups: Option<usize>, words: usize) -> Home {
        let Some(groups) = groups else { return Home::Registers };
        let bytes = groups.saturating_mul(words * 8);
        if bytes * WARPS <= SHARED_BYTES {
            Home::WarpCopies
        } else if bytes <= SHARED_BYTES {
            Home::Shared
        } else {
            Home::Memory
        }
    }
}

impl Home {
    /// How a word takes the next one in, how a count at a place that is computed does, and copies in shared memory.
    pub fn macros(self) -> (&'static str, &'static str, usize) {
        match self {
            Home::Registers => ("acc[at] = kv_join(op, acc[at], value)", "(void)(at)", 0),
            Home::WarpCopies => (
                "if (in) kv_into(op, mine + group * KV_WORDS + (at), value)",
                "kv_add(mine + group * KV_WORDS + (at), 1)",
                WARPS,
            ),
            Home::Shared => (
                "if (in) kv_into(op, kept + group * KV_WORDS + (at), value)",
                "kv_add(kept + group * KV_WORDS + (at), 1)",
                1,
            ),
            Home::Memory => (
                "if (in) kv_into(op, out + group * KV_WORDS + (at), value)",
                "kv_add(out + group * KV_WORDS + (at), 1)",
                0,
            ),
        }
    }

    /// What stands before the loop over rows.
    pub fn begin(self) -> &'static str {
        match self {
            Home::Registers => {
                "    u64 acc[KV_WORDS];\n\
                #pragma unroll\n\
                for (u32 w = 0; w < KV_WORDS; w++) acc[w] = kv_op(w) == KV_ADD ? 0 : kv_op(w) == KV_MIN ? \
                0x7FFFFFFFFFFFFFFFull : 1ull << 63;\n"
            }
            Home::WarpCopies | Home::Shared => {
                "    __shared__ u64 kept[KV_COPIES * KV_GROUPS * KV_WORDS];\n\
                for (u32 w = KV_THREAD; w < KV_COPIES * KV_GROUPS * KV_WORDS; w += KV_THREADS) { int op = kv_op(w % \
                KV_WORDS); kept[w] = op == KV_ADD ? 0 : op == KV_MIN ? 0x7FFFFFFFFFFFFFFFull : 1ull << 63; }\n\
                KV_SYNC();\n"
            }
            Home::Memory => "",
        }
    }

    /// What stands behind it: everything is joined in memory.
    pub fn end(self) -> &'static str {
        match self {
            Home::Registers => {
                "#pragma unroll\n\
                for (u32 w = 0; w < KV_WORDS; w++) {\n\
                u64 value = acc[w];\n\
                #ifndef KV_HOST\n\
                for (u32 lane = 16; lane > 0; lane /= 2) value = kv_join(kv_op(w), value, \
                __shfl_xor_sync(0xFFFFFFFFu, value, lane));\n\
                #endif\n\
                if (KV_THREAD % KV_LANES == 0) kv_into(kv_op(w), out + w, value);\n\
                }\n"
            }
            Home::WarpCopies | Home::Shared => {
                "    KV_SYNC();\n\
                for (u32 w = KV_THREAD; w < KV_GROUPS * KV_WORDS; w += KV_THREADS) {\n\
                u64 value = kept[w];\n\
                for (u32 copy = 1; copy < KV_COPIES; copy++) value = kv_join(kv_op(w % KV_WORDS), value, kept[copy \
                * KV_GROUPS * KV_WORDS + w]);\n\
                kv_into(kv_op(w % KV_WORDS), out + w, value);\n\
                }\n"
            }
            Home::Memory => "",
        }
    }
}

/// Words of a chunk in the table: rows and deleted, then four a column, one a test, one a key column.
pub fn table_words(columns: usize, tests: usize, keys: usize) -> usize {
    2 + columns * 4 + tests + keys
}
