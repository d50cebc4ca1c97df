"""`down`: nothing of the lab is left in the machine but files; those are the next `up`'s."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import cgroups
from .failure import Failure
from .lab import Lab
from .steps import Printer

# Stopped last, one after another: the others still write to them.
DATABASES = ("etcd", "mariadb", "ovn-nb", "ovn-sb")


def down(lab: Lab) -> None:
    """Stop every process, remove namespaces, cgroups and sockets. Works on half a lab, too."""
    printer, processes = Printer(), lab.processes
    names = processes.names()
    holders = [n for n in names if n in lab.machines]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: processes.stop(n, 8), [n for n in names if n not in DATABASES and n not in holders]))
        list(pool.map(lambda n: processes.stop(n, 30, again=2), [n for n in names if n in DATABASES]))
    strays = cgroups.kill(lab.settings)
    for n in holders:
        processes.stop(n)
    printer.say(f"processes ended: {len(names)} daemons, {strays} of their children")
    removed = 0
    for place in reversed(lab.settings.places):
        removed += lab.network.exists(place)
        lab.network.delete_netns(place)
    cgroups.remove(lab.settings)
    shutil.rmtree(lab.settings.run, ignore_errors=True)
    try:
        lab.settings.run.parent.rmdir()
    except OSError:
        pass  # another lab's
    if found := left(lab):
        raise Failure("not everything is gone: " + "; ".join(found), fix="lab down once more")
    printer.say(f"{removed} namespaces, cgroups and sockets removed; lab {lab.settings.name!r} is down")


def left(lab: Lab) -> list[str]:
    """Return what of the lab is still in the machine: processes, namespaces, cgroups, mounts, sockets."""
    s = lab.settings
    found = [f"process {pid}" for pid in cgroups.members(s)]
    found += [f"namespace {s.netns(p)}" for p in s.places if Path("/run/netns", s.netns(p)).exists()]
    found += [f"cgroup {h / s.cgroup}" for h in cgroups.hierarchies() if (h / s.cgroup).exists()]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found += [f"mount {m}" for m in mounts if f"{m}/".startswith((f"{s.state}/", f"{s.run}/"))]
    return found + ([str(s.run)] if s.run.exists() else [])
