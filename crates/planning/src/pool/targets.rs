//! How many ports a node should have.
//!
//! Spare ports are free ones minus pods that wait. Three marks:
//!
//! 1. Below `min` spare ports, ports are made: a batch, as upstream does; but while pods have nothing at all
//!    to take, first as many as wait, since Neutron answers a request for many only after the last of them.
//! 2. Up to `keep`, ports that come back are offered again.
//! 3. Beyond `most`, ports are withdrawn down to `keep`.
//!
//! With `max` set, `keep` and `most` are both `max`, as upstream recycles. Otherwise they are `min + batch` and
//! `min + 2 * batch`: the distance keeps a Deployment that breathes from making and deleting ports.
//!
//! Sources: Kuryr-Kubernetes 10.0, `vif_pool.py`, `_populate_pool`, `_recyclable_ports`.

/// How many ports, from configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// `ports_pool_min`.
    pub min: usize,
    /// `ports_pool_batch`, at least 1.
    pub batch: usize,
    /// `ports_pool_max`; 0: not set.
    pub max: usize,
    /// Ports of the node, of all kinds, beyond which none are made.
    pub cap: usize,
}

/// Free ports against pods that wait for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Supply {
    /// Ports that a pod could take, now or soon.
    pub free: usize,
    /// Pods that wait.
    pub waiting: usize,
}

impl Supply {
    /// Free ports that nobody waits for.
    #[must_use]
    pub const fn spare(self) -> usize {
        self.free.saturating_sub(self.waiting)
    }

    /// Pods for which there is no port at all.
    #[must_use]
    pub const fn missing(self) -> usize {
        self.waiting.saturating_sub(self.free)
    }
}

impl Levels {
    /// Up to here, ports that come back are offered again.
    #[must_use]
    pub const fn keep(&self) -> usize {
        if self.max > 0 { self.max } else { self.min + self.batch }
    }

    /// Beyond here, ports are surplus.
    #[must_use]
    pub const fn most(&self) -> usize {
        if self.max > 0 { self.max } else { self.min + 2 * self.batch }
    }

    /// How many ports to make by the next request.
    #[must_use]
    pub fn short(&self, supply: Supply) -> usize {
        if supply.missing() > 0 {
            supply.missing().min(self.batch)
        } else if supply.spare() < self.min {
            // What would be surplus at once is not made.
            self.batch.min(self.most().saturating_sub(supply.spare())).max(1)
        } else {
            0
        }
    }

    /// How many ports to withdraw.
    #[must_use]
    pub const fn surplus(&self, supply: Supply) -> usize {
        if supply.spare() > self.most() { supply.spare() - self.keep() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(max: usize, free: usize, waiting: usize, short: usize, surplus: usize) {
        let levels = Levels { min: 5, batch: 10, max, cap: 1000 };
        let supply = Supply { free, waiting };
        assert_eq!((levels.short(supply), levels.surplus(supply)), (short, surplus), "{max} {supply:?}");
    }

    #[test]
    fn marks() {
        // First fill, refill below min, nothing at min.
        check(0, 0, 0, 10, 0);
        check(0, 4, 0, 10, 0);
        check(0, 5, 0, 0, 0);
        check(0, 15, 10, 0, 0);
        check(0, 15, 11, 10, 0);
        // Pods have nothing: what they need first, at most a batch.
        check(0, 0, 1, 1, 0);
        check(0, 5, 30, 10, 0);
        // Surplus beyond min + 2 * batch, down to min + batch.
        check(0, 25, 0, 0, 0);
        check(0, 26, 0, 0, 11);
        check(0, 40, 20, 0, 0);
        // Upstream's bound.
        check(15, 16, 0, 0, 1);
        check(15, 15, 0, 0, 0);
        check(10, 4, 0, 6, 0);
    }

    #[test]
    fn what_is_made_is_not_withdrawn() {
        for (min, batch, max) in [(0, 1, 0), (5, 10, 0), (5, 10, 15), (20, 3, 0), (3, 3, 6), (5, 10, 5)] {
            let levels = Levels { min, batch, max, cap: 1000 };
            for free in 0..60 {
                let supply = Supply { free, waiting: 0 };
                let after = Supply { free: free + levels.short(supply), waiting: 0 };
                assert!(levels.short(supply) == 0 || levels.surplus(after) == 0, "{levels:?} {free}");
            }
        }
    }
}
