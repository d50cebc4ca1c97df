//! Health, as upstream's paths and ports show it.
//!
//! Ready: the right to configure networks, the API server heard from, the kernel usable, the checkpoint writable,
//! Services served or somebody else's. Live:
//! the agent's own loops turn, memory is within its bound, and ADDs do not fail by the node's fault one after another
//! (upstream's `cni_failures_count`; a success starts the count anew, which upstream's never did).

use std::time::Duration;

use kuryr_telemetry::health::{Check, Health, Purpose};

use crate::wiring::World;

/// How often the checks are made.
const EVERY: Duration = Duration::from_secs(1);
/// A loop that has not turned for so long is stuck.
const SILENCE: Duration = Duration::from_secs(60);
/// Number of `CAP_NET_ADMIN` (capabilities(7)).
const NET_ADMIN: u32 = 12;
const KIB: u64 = 1024;

/// The checks.
struct Checks {
    net_admin: Check,
    kubernetes: Check,
    kernel: Check,
    checkpoint: Check,
    services: Check,
    turning: Check,
    memory: Check,
    adds: Check,
}

/// Checks until the agent stops.
pub(crate) async fn run(world: World, health: Health) {
    let checks = Checks {
        net_admin: health.check("net_admin", Purpose::Ready),
        kubernetes: health.check("kubernetes", Purpose::Ready),
        kernel: health.check("kernel", Purpose::Ready),
        checkpoint: health.check("checkpoint", Purpose::Ready),
        services: health.check("services", Purpose::Ready),
        turning: health.check("turning", Purpose::Live),
        memory: health.check("memory", Purpose::Live),
        adds: health.check("adds", Purpose::Live),
    };
    loop {
        look(&world, &checks);
        tokio::time::sleep(EVERY).await;
    }
}

fn look(world: &World, checks: &Checks) {
    checks.turning.ok_for(SILENCE);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    set(&checks.net_admin, has_net_admin(&status), || "NET_ADMIN capabilities not present.".to_owned());
    let in_sync = world.watched.in_sync() && world.pods.store().in_sync();
    set(&checks.kubernetes, in_sync, || {
        let why = world.pods.store().trouble().or_else(|| world.watched.records().trouble());
        format!("no word from the API server: {}", why.unwrap_or_else(|| "connecting".to_owned()))
    });
    let trouble = world.kernel.trouble();
    set(&checks.kernel, trouble.is_none(), || trouble.unwrap_or_default());
    let failure = world.checkpoint.watch().borrow().failure.clone();
    set(&checks.checkpoint, failure.is_none(), || failure.as_deref().unwrap_or_default().to_owned());
    let services = &world.state.get().services;
    set(&checks.services, services.good() == Some(true), || services.to_string());
    let used = resident_mib(&status);
    let bound = world.config.memory_max_mib;
    set(&checks.memory, bound.is_none_or(|bound| used <= bound), || {
        format!("CNI daemon exceeded maximum memory usage: {used} MiB.")
    });
    let faults = world.sandboxes.faults();
    let allowed = usize::try_from(world.config.failures_max).unwrap_or(usize::MAX);
    set(&checks.adds, faults < allowed, || format!("{faults} ADDs in a row failed by this node's fault"));
}

fn set(check: &Check, is_ok: bool, why: impl FnOnce() -> String) {
    if is_ok {
        check.ok();
    } else {
        check.failing(why());
    }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn has_net_admin(status: &str) -> bool {
    let effective = field(status, "CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    effective.is_some_and(|effective| effective & (1 << NET_ADMIN) != 0)
}

fn resident_mib(status: &str) -> u64 {
    let kib = field(status, "VmRSS").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / KIB
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says_of_this_process() {
        let status = "Name:\tx\nVmRSS:\t   20480 kB\nCapEff:\t0000000000001000\n";
        assert!(has_net_admin(status));
        assert_eq!(resident_mib(status), 20);
        assert!(!has_net_admin("CapEff:\t0000000000000fff\n"));
        assert!(!has_net_admin(""));
    }
}
