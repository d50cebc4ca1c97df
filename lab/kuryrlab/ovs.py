"""Open vSwitch with the userspace datapath on each machine that is no virtual one, and how links are plugged into it.

What makes ports of Neutron's work there (OVN's controller, or Neutron's own agent) is added by the two classes that
inherit from this one: ovn and ml2ovs. All speak to the switch over a unix socket.
"""

import subprocess
from pathlib import Path

from . import debian, places, whole
from .failure import Failure
from .processes import Processes
from .settings import Chassis, Settings

QUIET = ["--no-chdir", "-vconsole:info", "-vsyslog:off", "-vfile:off"]
# Distributions start ovs-vswitchd with a monitor that starts it again after a crash. Here the bridges' own links vanish
# with it, and what was set on them has to be set again: $1, the rest is the command.
SUPERVISE = """
lines=$1; shift
trap 'kill $child 2>/dev/null; wait $child; exit 0' TERM INT
"$@" & child=$!
while wait $child; code=$?; [ $code -gt 128 ]; do
    echo "ovs-vswitchd ended by signal $((code - 128)); starting it again"
    sleep 1
    "$@" & child=$!
    for try in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5; echo "$lines" | ip -batch - && break; done
done
exit $code
"""
BRIDGES = ("br-phy", "br-int", "br-ex")


class Switches:
    """The switches of one lab."""

    # Ends of the names of a chassis' processes.
    daemons: tuple[str, ...] = ("ovsdb", "vswitchd")

    def __init__(self, settings: Settings, processes: Processes, root: Path):
        self.settings, self.processes, self.root = settings, processes, root

    def start_central(self) -> str | None:
        """Start what the switches need in the control plane."""
        raise NotImplementedError

    def start_controller(self, n: Chassis) -> bool:
        """Start what makes Neutron's ports work on a chassis; tell whether it was started."""
        raise NotImplementedError

    def carries(self, n: Chassis, link: str, port: str) -> bool:
        """Tell whether a link that is plugged as a port carries that port's traffic."""
        raise NotImplementedError

    def identity(self, n: Chassis) -> dict[str, str]:
        """Return the external ids of a chassis."""
        return {"system-id": n.name + "-chassis", "hostname": n.hostname}

    def log(self, n: Chassis) -> Path:
        """Return the log that tells why a port does not work."""
        return self.processes.log(f"{n.name}-{self.daemons[-1]}")

    def vsctl(self, n: Chassis, *words: str) -> str:
        """Run ovs-vsctl on a node."""
        return self.tool("ovs-vsctl", "--timeout=90", f"--db=unix:{self.run(n)}/db.sock", *words)

    def tool(self, name: str, *words: str) -> str:
        done = subprocess.run(debian.tool(self.root, name) + list(words), capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{name} {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def create(self, db: Path, schema: Path) -> None:
        """Create a database file unless it is there."""
        if not db.exists():
            db.parent.mkdir(parents=True, exist_ok=True)
            try:
                with whole.made(db) as new:
                    self.tool("ovsdb-tool", "create", str(new), str(schema))
            except OSError as e:
                raise Failure(str(e)) from e

    def run(self, n: Chassis) -> Path:
        """Return OVS's run directory of a node; its database is db.sock there."""
        return self.settings.node_run(n) / "ovs"

    def place(self, n: Chassis) -> places.Place:
        """Return where a chassis' daemons run."""
        return places.on_node(self.settings, n).with_usr(self.root)

    def environment(self, n: Chassis) -> dict:
        return {"OVS_RUNDIR": self.run(n), "OVN_RUNDIR": self.run(n)}

    def start_chassis(self, n: Chassis) -> str | None:
        """Start a machine's OVS and what controls it; the switch's configuration survives, as on a machine that
        rebooted.
        """
        started = self.start_switch(n)
        started |= self.start_controller(n)
        return f"OVS and {self.daemons[-1]} of {n.name}" if started else None

    def start_switch(self, n: Chassis) -> bool:
        """Start OVS; tell whether it was started."""
        run, db = self.run(n), self.settings.node_state(n) / "ovs.db"
        run.mkdir(parents=True, exist_ok=True)
        self.create(db, self.root / "usr/share/openvswitch/vswitch.ovsschema")
        place, env = self.place(n), self.environment(n)
        started = self.processes.start(
            f"{n.name}-ovsdb",
            place,
            ["/usr/sbin/ovsdb-server", db, f"--remote=punix:{run}/db.sock", f"--unixctl={run}/ovsdb.ctl"] + QUIET,
            env,
        )
        self.processes.wait(f"{n.name}-ovsdb", lambda: self.vsctl(n, "--no-wait", "init") is not None, 120)
        self.describe(n)
        started |= self.processes.start(
            f"{n.name}-vswitchd",
            place,
            ["/bin/sh", "-c", SUPERVISE, "ovs-vswitchd", "\n".join(self.bridge_lines(n))]
            + ["/usr/sbin/ovs-vswitchd", f"unix:{run}/db.sock", f"--unixctl={run}/vswitchd.ctl"]
            + [f"--pidfile={run}/ovs-vswitchd.pid"]  # as distributions have it: Kuryr's agent looks at it
            + QUIET,
            env,
        )
        self.processes.wait(
            f"{n.name}-vswitchd",
            lambda: self.vsctl(n, "get", "bridge", "br-int", "datapath_id").strip() not in ("", "[]"),
            120,
        )
        done = subprocess.run(
            debian.tool(self.root, "ip") + ["-n", self.settings.netns(n.name), "-batch", "-"],
            input="\n".join(self.bridge_lines(n)),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Failure(f"bridges of {n.name}: {done.stderr}", self.processes.log(f"{n.name}-vswitchd"))
        return started

    def bridge_lines(self, n: Chassis) -> list[str]:
        """What `ip -batch` has to do once the bridges are there.

        Userspace tunnels leave through a userspace bridge that owns the tunnel address.
        """
        return (
            [f"addr replace {n.tunnel4}/24 dev br-phy"]
            + [f"link set {b} addrgenmode none" for b in BRIDGES]
            + [f"link set {b} up" for b in BRIDGES]
        )

    def describe(self, n: Chassis) -> None:
        """Make the bridges and write what is to be known about a chassis."""
        words = ["--no-wait"]
        for bridge, leg in (("br-int", None), ("br-ex", "ex0"), ("br-phy", "ul0")):
            words += ["--", "--may-exist", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"]
            words += ["fail-mode=secure"] if bridge == "br-int" else []
            words += ["--", "--may-exist", "add-port", bridge, leg] if leg else []
        ids = [f'external_ids:{k}="{v}"' for k, v in self.identity(n).items()]
        self.vsctl(n, *words, "--", "set", "open_vswitch", ".", *ids)

    def stop_chassis(self, n: Chassis) -> None:
        """Stop a machine's OVS and what controls it."""
        for name in reversed(self.daemons):
            self.processes.stop(f"{n.name}-{name}")

    def plug(self, n: Chassis, link: str, port: str, mac: str) -> None:
        """Attach a link of the node to br-int as a Neutron port."""
        self.vsctl(
            n,
            "--may-exist",
            "add-port",
            "br-int",
            link,
            "--",
            "set",
            "interface",
            link,
            f"external_ids:iface-id={port}",
            f'external_ids:attached-mac="{mac}"',
            "external_ids:iface-status=active",
        )

    def unplug(self, n: Chassis, link: str) -> None:
        """Take a link off br-int."""
        self.vsctl(n, "--if-exists", "del-port", "br-int", link)
