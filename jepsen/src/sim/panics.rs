//! # Panics: a broken invariant is a violation, also where the runtime swallows it
//!
//! A task that panics ends; whoever waits for it sees a closed channel. The simulation runs in one thread, so what
//! panicked there belongs to the run under way.
//!
//! **Invariant.** The hook that was there before is called as well.

use std::{
    cell::RefCell,
    panic::{set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static SEEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes every panic from now on, once per process.
pub fn watch() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            let what = panic.payload_as_str().unwrap_or("without words");
            let at = panic.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            SEEN.with_borrow_mut(|seen| seen.push(format!("panic at {at}: {what}")));
            before(panic);
        }));
    });
}

/// What panicked in this thread since the last time it was asked.
#[must_use]
pub fn take() -> Vec<String> {
    SEEN.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swallowed_panic_is_seen_once() {
        watch();
        let _ = take();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(async { assert_eq!(1, 2, "an invariant") });
            assert!(tasks.join_next().await.unwrap().is_err());
        });
        let seen = take();
        assert!(seen.len() == 1 && seen[0].contains("an invariant"), "{seen:?}");
        assert!(take().is_empty());
    }
}
