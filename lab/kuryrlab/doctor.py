"""Can this machine carry the lab? Looked at before anything is downloaded or started; each refusal names the figure and
the way out.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import cgroups, database, golang
from .cache import Entry
from .settings import Settings

MEMORY_MB = 4000  # both halves of the lab, two nodes and some pods
NODE_MEMORY_MB = 250  # each further node: kubelet, containerd, Open vSwitch, some pods
HYPERVISOR_MEMORY_MB = 60  # Open vSwitch and ovn-controller
AGENT_MEMORY_MB = 250  # each of Neutron's agents with its helpers, and as much for the queue and Neutron's worker
BUILD_MEMORY_MB = 1500  # more while Kubernetes is compiled
STATE_MB = 2000
INOTIFY_INSTANCES = 64
COMMANDS = {
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "umount": "mount",
    "tar": "tar",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "env": "coreutils",
}


@dataclass
class Check:
    """One look: what, what was found, and what to do if that is not enough (empty when it is)."""

    what: str
    found: str
    fix: str = ""


def examine(settings: Settings, entries: dict[str, Entry], running: bool) -> list[Check]:
    """Look at everything; `running` tells whether processes of this lab live."""
    missing = [
        e for name, e in entries.items() if not e.ready() and not (name == "database" and database.copied(settings))
    ]
    return [
        Check(
            "root",
            f"uid {os.geteuid()}",
            "" if os.geteuid() == 0 else "run it as root (the lab calls sudo itself when there is one)",
        ),
        python_version(sys.version_info[:2]),
        *[
            Check(c, "found", "") if shutil.which(c) else Check(c, "not found", f"apt-get install {p}")
            for c, p in COMMANDS.items()
        ],
        merged_usr(Path("/lib")),
        memory(
            meminfo(Path("/proc/meminfo").read_text()),
            memory_needed(settings),
            running,
            any("Kubernetes" in e.what for e in missing),
        ),
        disk("cache", free_mb(settings.cache), sum(e.megabytes for e in missing), settings.cache),
        disk("state", free_mb(settings.states), STATE_MB, settings.states),
        *kernel(),
        Check(
            "cgroups",
            cgroups.mode(),
            ""
            if cgroups.mode() != "v1"
            else "mount cgroup2 (systemd does; or: mount -t cgroup2 none /sys/fs/cgroup/unified)",
        ),
        limit(
            "inotify instances",
            Path("/proc/sys/fs/inotify/max_user_instances"),
            INOTIFY_INSTANCES,
            "sysctl -w fs.inotify.max_user_instances=512",
        ),
        names(settings, running, {p.name for p in Path("/run/netns").glob("*")}),
        downloads(missing),
    ]


def python_version(version: tuple) -> Check:
    return Check(
        "Python", "%d.%d" % version, "" if version >= (3, 11) else "Python 3.11 or newer: apt-get install python3"
    )


def merged_usr(lib: Path) -> Check:
    """The daemons' tree covers /usr, so the loader must be found below it."""
    return (
        Check("/usr", "merged", "")
        if lib.is_symlink()
        else Check(
            "/usr",
            "/lib is a directory of its own",
            "a merged /usr is needed, as on Debian 12: apt-get install usrmerge",
        )
    )


def meminfo(text: str) -> int:
    """Return the MB that are available."""
    return next(int(line.split()[1]) // 1024 for line in text.splitlines() if line.startswith("MemAvailable"))


def memory_needed(settings: Settings) -> int:
    """Return the MB that a lab with these machines takes."""
    further = max(0, len(settings.nodes) - 2)
    agents = len(settings.chassis) + 2 if settings.options.ml2 == "ovs" else 0
    machines = further * NODE_MEMORY_MB + len(settings.hypervisors) * HYPERVISOR_MEMORY_MB
    return MEMORY_MB + machines + agents * AGENT_MEMORY_MB


def memory(available: int, lab: int, running: bool, build: bool) -> Check:
    """A lab that runs has its memory already."""
    needed = (0 if running else lab) + (BUILD_MEMORY_MB if build else 0)
    return Check(
        "memory",
        f"{available} MB available",
        "" if available >= needed else f"{needed} MB are needed: stop other work or add memory",
    )


def free_mb(path: Path) -> int:
    """Return the free MB of the file system that a path is, or will be, on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free // 1_000_000


def disk(what: str, free: int, needed: int, path: Path) -> Check:
    return Check(
        f"disk for {what}",
        f"{free} MB free at {path}",
        "" if free >= needed else f"{needed} MB are needed: make room, or point XDG_{what.upper()}_HOME elsewhere",
    )


def names(settings: Settings, running: bool, present: set[str]) -> Check:
    """Addresses cannot clash, as they live in namespaces of the lab; the names of these namespaces can."""
    taken = sorted(present & {settings.netns(p) for p in settings.places})
    if taken and not running and not settings.run.exists():
        return Check(
            "names",
            f"namespaces {', '.join(taken)} exist and are not this lab's",
            "choose another lab name: lab --name NAME up",
        )
    return Check("names", "free" if not taken else "this lab's")


def limit(what: str, file: Path, needed: int, fix: str) -> Check:
    value = int(file.read_text())
    return Check(what, str(value), "" if value >= needed else f"{needed} are needed: {fix}")


def kernel() -> list[Check]:
    """Try what cannot be read from a file; every trial is in namespaces of its own and gone with its process."""
    trials = {
        "network and mount namespaces": "true",
        "overlay": "cd /mnt && mount -t tmpfs none . && cd /mnt && mkdir l u w m"
        " && mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w m",
        "bpf file system": "mount -t bpf none /mnt",
        "sysfs": "mount -t sysfs none /mnt",
    }
    checks = [Check(f"kernel: {what}", *trial(script)) for what, script in trials.items()]
    try:
        checks.append(Check("kernel: veth, bridge", *links()))
    except OSError as e:
        checks.append(Check("kernel: veth, bridge", str(e), "load the modules veth and bridge"))
    families = Path("/proc/net/if_inet6").exists()
    return checks + [
        Check("kernel: IPv6", "on" if families else "off", "" if families else "boot without ipv6.disable=1"),
        Check(
            "kernel: tun", *(("found", "") if Path("/dev/net/tun").exists() else ("no /dev/net/tun", "modprobe tun"))
        ),
    ]


def trial(script: str) -> tuple[str, str]:
    """Run a shell script in new namespaces; return (found, fix)."""
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--propagation", "private", "/bin/sh", "-c", script],
        capture_output=True,
        text=True,
    )
    return (
        ("works", "")
        if done.returncode == 0
        else (
            done.stderr.strip() or "refused",
            "a kernel with it, and a machine (or container) that is allowed to use it",
        )
    )


def links() -> tuple[str, str]:
    """Try to make a veth pair and a bridge, by rtnetlink if there is no ip command yet."""
    if not shutil.which("ip"):
        return "not tried (no ip command)", ""
    return trial("ip link add lab0 type veth peer name lab1 && ip link add lab2 type bridge")


def downloads(missing: list[Entry]) -> Check:
    """Say what is not in the cache yet, and how long it takes; it is no reason to refuse."""
    if not missing:
        return Check("cache", "complete: nothing to download, works offline")
    parts = ", ".join(f"{e.what} ({e.download} MB, {e.minutes:g} min)" for e in missing)
    go = (
        "" if golang.installed() or all("Kubernetes" not in e.what for e in missing) else "; also a Go compiler (75 MB)"
    )
    minutes = round(sum(e.minutes for e in missing) + 0.5)
    return Check(
        "cache",
        f"to fetch or build: {parts}{go}; together about {minutes} min on two cores",
    )


def report(checks: list[Check], everything: bool) -> bool:
    """Print the result; tell whether the lab may start."""
    for c in checks:
        if c.fix:
            print(f"  NO  {c.what}: {c.found}\n      -> {c.fix}", flush=True)
        elif everything:
            print(f"  ok  {c.what}: {c.found}", flush=True)
    if not everything:
        for c in checks:
            if c.what == "cache" and "to fetch" in c.found:
                print(f"  {c.found}", flush=True)
    return not any(c.fix for c in checks)
