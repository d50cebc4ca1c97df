//! How long to wait before trying again.
//!
//! Delays double from `first` to `most`. Each is then drawn between its half and its whole, so that many
//! processes that failed together do not come back together, while a single one still waits noticeably.
//! The source of chance can be seeded: a simulation repeats itself.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Bounds of a doubling delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Delay after the first failure.
    pub first: Duration,
    /// No delay is longer.
    pub most: Duration,
}

impl Backoff {
    /// Draws the delay after the `failures`-th failure in a row (the first is 1).
    pub fn delay(&self, failures: u32, jitter: &mut Jitter) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.most);
        jitter.between(whole / 2, whole)
    }
}

/// A small source of chance; not for secrets.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// Differs in every process and every call.
    #[must_use]
    pub fn random() -> Self {
        // The standard library seeds its hash maps from the operating system; that is all the chance needed.
        Self(RandomState::new().hash_one(0_u8))
    }

    /// Repeats itself for the same `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws a duration between `low` and `high`.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + high.saturating_sub(low).mul_f64(self.fraction())
    }

    /// Draws the next 64 bits.
    // The SplitMix64 generator: one addition and three mixing steps, good enough for spreading.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws a number from 0 to 1.
    fn fraction(&mut self) -> f64 {
        let high = u32::try_from(self.bits() >> 32).unwrap_or(u32::MAX);
        f64::from(high) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_within_its_bounds() {
        let backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(60) };
        for seed in 0..100 {
            let mut jitter = Jitter::seeded(seed);
            for (failures, whole) in [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (1000, 60)] {
                let delay = backoff.delay(failures, &mut jitter);
                let whole = Duration::from_secs(whole);
                assert!(delay >= whole / 2 && delay <= whole, "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn repeats_itself_only_when_seeded() {
        assert_eq!(Jitter::seeded(7).bits(), Jitter::seeded(7).bits());
        assert_ne!(Jitter::random().bits(), Jitter::random().bits());
    }
}
