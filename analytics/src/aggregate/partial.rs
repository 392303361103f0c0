//! Partial: what some rows add up to, group by group, to be merged with what others add up to.
//!
//! **Invariant.** Groups ascend by their key, each once. Without `group by` there is one group, also of no rows.

use super::State;
use crate::{
    limits::Limits,
    query::{Query, QueryError},
    value::Value,
};

/// One group: its key, and a state an aggregate.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The values of the group's columns.
    pub key: Vec<Value>,
    /// A state an aggregate, in their order.
    pub states: Vec<State>,
}

/// What some rows add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Partial {
    groups: Vec<Group>,
}

impl Partial {
    /// Of no rows.
    #[must_use]
    pub fn new(query: &Query) -> Partial {
        let mut partial = Partial::default();
        if query.groups.is_empty() {
            partial.groups.push(Group { key: Vec::new(), states: states(query) });
        }
        partial
    }

    /// Of groups in any order, with distinct keys.
    #[must_use]
    pub fn of_groups(mut groups: Vec<Group>) -> Partial {
        groups.sort_by(|left, right| left.key.cmp(&right.key));
        assert!(groups.windows(2).all(|pair| pair[0].key < pair[1].key), "a group has one key");
        Partial { groups }
    }

    /// The groups, ascending.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Takes in what later rows add up to.
    ///
    /// # Errors
    /// If there are more groups, or more distinct values within one, than the limits allow.
    pub fn merge(&mut self, later: Partial, limits: &Limits) -> Result<(), QueryError> {
        let mut merged = Vec::with_capacity(self.groups.len().max(later.groups.len()));
        let mut mine = std::mem::take(&mut self.groups).into_iter().peekable();
        let mut theirs = later.groups.into_iter().peekable();
        loop {
            let is_mine = match (mine.peek(), theirs.peek()) {
                (Some(one), Some(other)) => match one.key.cmp(&other.key) {
                    std::cmp::Ordering::Less => true,
                    std::cmp::Ordering::Greater => false,
                    std::cmp::Ordering::Equal => {
                        let (mut one, other) =
                            (mine.next().expect("it was peeked"), theirs.next().expect("it was peeked"));
                        for (state, more) in one.states.iter_mut().zip(&other.states) {
                            state.merge(more, limits)?;
                        }
                        merged.push(one);
                        continue;
                    }
                },
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => break,
            };
            merged.extend(if is_mine { mine.next() } else { theirs.next() });
        }
        self.groups = merged;
        check_groups(self.groups.len(), limits)
    }
}

/// A fresh state an aggregate.
#[must_use]
pub fn states(query: &Query) -> Vec<State> {
    query.aggregates.iter().map(State::new).collect()
}

/// Whether so many groups are allowed.
///
/// # Errors
/// Names the limit if they are not.
pub fn check_groups(groups: usize, limits: &Limits) -> Result<(), QueryError> {
    if groups <= limits.groups_max {
        return Ok(());
    }
    Err(QueryError::Limit { what: "the groups", limit: "groups_max", limit_value: limits.groups_max })
}
