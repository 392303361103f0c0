//! Dispatch: one loop, compiled for several instruction sets, chosen when the program runs.
//!
//! The loops are plain Rust that the compiler turns into vector code; what differs is which instructions it may use. A
//! loop is a [`Work`] whose body is inlined into a function for each set.
//!
//! **Invariant.** A set is used only on a processor that has it: [`Level`] cannot be made otherwise.

/// Instructions that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best this processor has.
    #[must_use]
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("fma");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if has_avx2 && has_avx512 {
                return Level(Set::Avx512);
            }
            if has_avx2 {
                return Level(Set::Avx2);
            }
        }
        Level(Set::Baseline)
    }

    /// What every processor of the architecture has.
    #[must_use]
    pub fn baseline() -> Level {
        Level(Set::Baseline)
    }

    /// This and every lesser one.
    #[must_use]
    pub fn all() -> Vec<Level> {
        let mut levels = vec![Level::baseline()];
        #[cfg(target_arch = "x86_64")]
        if Level::detect() == Level(Set::Avx512) {
            levels.push(Level(Set::Avx2));
        }
        if Level::detect() != Level::baseline() {
            levels.push(Level::detect());
        }
        levels
    }

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self.0 {
            Set::Baseline => "baseline",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
    }
}

/// A loop. Its implementation is `#[inline(always)]`, or it gains nothing here.
pub trait Work {
    /// What it yields.
    type Output;

    /// Runs it.
    fn work(self) -> Self::Output;
}

/// Runs a loop with the instructions of `level`.
#[inline]
pub fn run<W: Work>(level: Level, work: W) -> W::Output {
    match level.0 {
        Set::Baseline => work.work(),
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "sound: a `Level` of this set is made only after the processor said it has it")]
        Set::Avx2 => unsafe { with_avx2(work) },
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "sound: a `Level` of this set is made only after the processor said it has it")]
        Set::Avx512 => unsafe { with_avx512(work) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn with_avx2<W: Work>(work: W) -> W::Output {
    work.work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<W: Work>(work: W) -> W::Output {
    work.work()
}
