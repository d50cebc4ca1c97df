"""Where a process of the lab runs: its cgroup, network namespace, mount namespace, host name, and whether Debian's
`/usr` covers the machine's.

Everything is done by replacing the process (nsenter, unshare, env, in a chain of exec), so the process id that is
recorded at the start is the daemon's own. The environment is built from nothing: no proxy and no variable of the user
reaches a daemon.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from . import cgroups
from .settings import Machine, Settings

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Place:
    """A place; see `command`."""

    settings: Settings
    netns: str
    leaf: str  # cgroup, below the lab's
    mounts_of: int | None = None  # process whose mount namespace and host name are taken
    usr: Path | None = None  # tree whose usr covers /usr
    private_run: Path | None = None  # directory that covers /run

    def with_usr(self, root: Path) -> "Place":
        """Return the same place with the daemons' own /usr."""
        return replace(self, usr=root)


def control(settings: Settings, leaf: str = cgroups.CONTROL_LEAF) -> Place:
    """The control plane's machine."""
    return Place(settings, settings.netns("cp"), leaf)


def on_node(settings: Settings, n: Machine, leaf: str = cgroups.DAEMONS_LEAF, holder: int | None = None) -> Place:
    """A node, with its own mounts and host name if their holder is given, or a hypervisor."""
    return Place(settings, settings.netns(n.name), f"{n.name}/{leaf}", holder)


def environment(settings: Settings, extra: dict | None = None) -> dict:
    """Return the clean environment of a lab process."""
    return {
        "PATH": PATH,
        "HOME": str(settings.state / "home"),
        "LANG": "C.UTF-8",
        "TMPDIR": str(settings.state / "tmp"),
        **(extra or {}),
    }


def command(place: Place, argv: list, env: dict, cwd: str | None = None) -> list[str]:
    """Return the command line that runs `argv` in the place with exactly the environment `env`."""
    join = cgroups.tracking() / place.settings.cgroup / place.leaf / "cgroup.procs"
    words = ["/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', str(join)]
    words += ["nsenter", f"--net=/run/netns/{place.netns}"]
    if place.mounts_of:
        words += [f"--mount=/proc/{place.mounts_of}/ns/mnt", f"--uts=/proc/{place.mounts_of}/ns/uts"]
    words.append("--")
    if script := mount_script(place):
        # In a node's namespace, mounts below shared directories must still reach the node's other processes.
        words += [
            "unshare",
            "--mount",
            "--propagation",
            "unchanged" if place.mounts_of else "slave",
            "/bin/sh",
            "-ec",
            script + 'exec "$@"',
            "sh",
        ]
    return (
        words
        + ["env", "-i"]
        + (["-C", cwd] if cwd else ["-C", "/"])
        + [f"{k}={v}" for k, v in env.items()]
        + [str(a) for a in argv]
    )


def mount_script(place: Place) -> str:
    """Return the shell lines that arrange a place's mounts, empty if it needs none of its own."""
    lines = []
    if place.private_run:
        lab = place.settings.run
        inner = place.private_run / lab.relative_to("/run")
        lines += [f"mkdir -p {inner}", f"mount --rbind {lab} {inner}", f"mount --rbind {place.private_run} /run"]
    if place.usr:
        if place.mounts_of:
            lines += ["mount --make-private /", "mount --make-private /usr 2>/dev/null || true"]
        lines.append(f"mount --bind {place.usr}/usr /usr")
    return "".join(line + "\n" for line in lines)
