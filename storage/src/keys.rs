//! Every key layout, in one table.
