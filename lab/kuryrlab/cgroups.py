"""Cgroups of the lab: every process is in one from its first instruction, so that `down` finds also what nobody has a
record of.

`tracking` is the hierarchy that says who belongs to the lab: cgroup2 where it is mounted (pure, or beside version 1).
The kubelet needs its root in every hierarchy that it manages. Processes of a node are in leaves of the node's cgroup,
because cgroup2 allows none in an inner one.
"""

import os
import signal
import time
from pathlib import Path

from .failure import Failure
from .settings import Settings

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids")
KUBELET_V1 = (
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "systemd",
    "hugetlb",
    "perf_event",
)
CONTROL_LEAF, RUN_LEAF, DAEMONS_LEAF, KURYR_LEAF = "control", "run", "daemons", "kuryr"


def mode() -> str:
    """Return "v2", "hybrid" (version 1 with a cgroup2 for tracking) or "v1"."""
    if (ROOT / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (ROOT / "unified/cgroup.procs").exists() else "v1"


def tracking() -> Path:
    """Return the root of the hierarchy in which membership is kept."""
    return {"v2": ROOT, "hybrid": ROOT / "unified", "v1": ROOT / "pids"}[mode()]


def hierarchies() -> list[Path]:
    """Return the root of every hierarchy in which the lab has directories."""
    if mode() == "v2":
        return [ROOT]
    return list(dict.fromkeys([tracking()] + [ROOT / c for c in KUBELET_V1 if (ROOT / c / "cgroup.procs").exists()]))


def create(settings: Settings) -> None:
    """Make the lab's directories."""
    for hierarchy in hierarchies():
        for m in machines(settings):
            folder = hierarchy / settings.node_cgroup(m)
            folder.mkdir(parents=True, exist_ok=True)
            if hierarchy == tracking():
                for leaf in (DAEMONS_LEAF, KURYR_LEAF, RUN_LEAF):
                    (folder / leaf).mkdir(exist_ok=True)
            if (folder / "cpuset.cpus").exists() and mode() != "v2":
                inherit_cpuset(hierarchy, folder)
    for leaf in (CONTROL_LEAF, RUN_LEAF):
        (tracking() / settings.cgroup / leaf).mkdir(exist_ok=True)
    if mode() == "v2":
        for folder in [ROOT, ROOT / settings.cgroup] + [ROOT / settings.node_cgroup(n) for n in settings.nodes]:
            enable(folder)


def machines(settings: Settings) -> tuple:
    """Return every machine of the lab that has processes of its own."""
    return settings.hypervisors + settings.nodes


def inherit_cpuset(hierarchy: Path, folder: Path) -> None:
    """Fill an empty version 1 cpuset from the root, from the top downwards; a process could not join it otherwise."""
    for inner in (folder.parent, folder):
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not (inner / name).read_text().strip():
                (inner / name).write_text((hierarchy / name).read_text())


def enable(folder: Path) -> None:
    """Pass the controllers that the kubelet needs on to the children of a cgroup2."""
    have = (folder / "cgroup.controllers").read_text().split()
    on = (folder / "cgroup.subtree_control").read_text().split()
    for controller in CONTROLLERS:
        if controller in have and controller not in on:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def members(settings: Settings, below: str = "", leaf: bool = False) -> list[int]:
    """Return the processes in the lab's cgroups, or in the part `below`."""
    pids = set()
    for hierarchy in [tracking()] if leaf else hierarchies():
        top = hierarchy / settings.cgroup / below
        for folder, _, files in os.walk(top):
            if "cgroup.procs" in files:
                try:
                    pids.update(int(p) for p in Path(folder, "cgroup.procs").read_text().split())
                except OSError:
                    continue  # removed meanwhile
    return sorted(pids - {0, os.getpid()})


def kill(settings: Settings, below: str = "", seconds: float = 90) -> int:
    """Kill whatever is in the lab's cgroups, or in a part of them, and return how many it were."""
    killed, end = set(), time.monotonic() + seconds
    while pids := members(settings, below):
        if time.monotonic() > end:
            raise Failure(f"processes {pids} survive SIGKILL")
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
    return len(killed)


def remove(settings: Settings) -> None:
    """Remove the lab's directories; they must be empty of processes."""
    for hierarchy in hierarchies():
        remove_tree(hierarchy / settings.cgroup)


def remove_tree(top: Path, seconds: float = 60) -> None:
    """Remove one cgroup with its children; the kernel may need a moment after the last process."""
    end = time.monotonic() + seconds
    while top.exists():
        for folder, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass
        if top.exists() and time.monotonic() > end:
            raise Failure(f"cannot remove cgroup {top}")
        time.sleep(0.02)
