"""OVN's databases and northd in the control plane, and a chassis (OVS with the userspace datapath, ovn-controller) on
each node.

All of them speak over unix sockets, so OVN needs no port and no address of the control plane.
"""

import subprocess
from pathlib import Path

from . import debian, places, settings as s
from .failure import Failure
from .processes import Processes
from .settings import Node, Settings

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


class Ovn:
    """OVN central and the chassis of one lab."""

    def __init__(self, settings: Settings, processes: Processes, root: Path):
        self.settings, self.processes, self.root = settings, processes, root

    def start_central(self) -> str | None:
        """Start both databases and northd."""
        place = places.control(self.settings).with_usr(self.root)
        started = False
        for kind in ("nb", "sb"):
            db, control = self.settings.state / f"ovn-{kind}.db", self.settings.run / f"ovn-{kind}.ctl"
            self.create(db, self.root / f"usr/share/ovn/ovn-{kind}.ovsschema")
            started |= self.processes.start(
                f"ovn-{kind}",
                place,
                ["/usr/sbin/ovsdb-server", db, f"--remote=punix:{self.socket(kind)}", f"--unixctl={control}"] + QUIET,
                {"OVN_RUNDIR": self.settings.run, "OVS_RUNDIR": self.settings.run},
            )
        for kind in ("nb", "sb"):
            self.processes.wait(f"ovn-{kind}", lambda kind=kind: self.ctl(kind, "init") is not None, 30)
        started |= self.processes.start(
            "ovn-northd",
            place,
            [
                "/usr/bin/ovn-northd",
                f"--ovnnb-db=unix:{self.socket('nb')}",
                f"--ovnsb-db=unix:{self.socket('sb')}",
                f"--unixctl={self.settings.run}/ovn-northd.ctl",
            ]
            + QUIET,
        )
        return "OVN databases and northd" if started else None

    def socket(self, kind: str) -> Path:
        return self.settings.run / f"ovn-{kind}.sock"

    def ctl(self, kind: str, *words: str) -> str:
        """Run ovn-nbctl or ovn-sbctl."""
        return self.tool(f"ovn-{kind}ctl", "--timeout=20", f"--db=unix:{self.socket(kind)}", *words)

    def vsctl(self, n: Node, *words: str) -> str:
        """Run ovs-vsctl on a node."""
        return self.tool("ovs-vsctl", "--timeout=20", f"--db=unix:{self.run(n)}/db.sock", *words)

    def tool(self, name: str, *words: str) -> str:
        done = subprocess.run(debian.tool(self.root, name) + list(words), capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{name} {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def create(self, db: Path, schema: Path) -> None:
        """Create a database file unless it is there."""
        if not db.exists():
            db.parent.mkdir(parents=True, exist_ok=True)
            new = db.with_suffix(".new")
            new.unlink(missing_ok=True)
            try:
                self.tool("ovsdb-tool", "create", str(new), str(schema))
            except OSError as e:
                raise Failure(str(e)) from e
            new.replace(db)

    def run(self, n: Node) -> Path:
        """Return OVS's run directory of a node; its database is db.sock there."""
        return self.settings.node_run(n) / "ovs"

    def start_chassis(self, n: Node) -> str | None:
        """Start a node's OVS and ovn-controller; the switch's configuration survives, as on a machine that rebooted."""
        run, db = self.run(n), self.settings.node_state(n) / "ovs.db"
        run.mkdir(parents=True, exist_ok=True)
        self.create(db, self.root / "usr/share/openvswitch/vswitch.ovsschema")
        place = places.on_node(self.settings, n).with_usr(self.root)
        env = {"OVS_RUNDIR": run, "OVN_RUNDIR": run}
        started = self.processes.start(
            f"{n.name}-ovsdb",
            place,
            ["/usr/sbin/ovsdb-server", db, f"--remote=punix:{run}/db.sock", f"--unixctl={run}/ovsdb.ctl"] + QUIET,
            env,
        )
        self.processes.wait(f"{n.name}-ovsdb", lambda: self.vsctl(n, "--no-wait", "init") is not None, 30)
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
            30,
        )
        done = subprocess.run(
            debian.tool(self.root, "ip") + ["-n", self.settings.netns(n.name), "-batch", "-"],
            input="\n".join(self.bridge_lines(n)),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Failure(f"bridges of {n.name}: {done.stderr}", self.processes.log(f"{n.name}-vswitchd"))
        started |= self.processes.start(
            f"{n.name}-ovn-controller", place, ["/usr/bin/ovn-controller", f"unix:{run}/db.sock"] + QUIET, env
        )
        self.processes.wait(
            f"{n.name}-ovn-controller",
            lambda: n.hostname in self.ctl("sb", "--bare", "--columns=hostname", "list", "chassis").split(),
            60,
        )
        return f"OVS and ovn-controller of {n.name}" if started else None

    def bridge_lines(self, n: Node) -> list[str]:
        """What `ip -batch` has to do once the bridges are there.

        Userspace tunnels leave through a userspace bridge that owns the tunnel address.
        """
        return (
            [f"addr replace {n.tunnel4}/24 dev br-phy"]
            + [f"link set {b} addrgenmode none" for b in BRIDGES]
            + [f"link set {b} up" for b in BRIDGES]
        )

    def describe(self, n: Node) -> None:
        """Write what OVN has to know about a chassis."""
        ids = {
            "system-id": n.name + "-chassis",
            "hostname": n.hostname,
            "ovn-remote": f"unix:{self.socket('sb')}",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": n.tunnel4,
            "ovn-bridge-mappings": f"{s.PHYSICAL_NETWORK}:br-ex",
            "ovn-bridge-datapath-type": "netdev",
            "ovn-remote-probe-interval": "0",
            "ovn-openflow-probe-interval": "0",
        }
        if n.name == s.GATEWAY_NODE:
            ids["ovn-cms-options"] = "enable-chassis-as-gw"
        words = ["--no-wait"]
        for bridge, leg in (("br-int", None), ("br-ex", "ex0"), ("br-phy", "ul0")):
            words += ["--", "--may-exist", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev"]
            words += ["fail-mode=secure"] if bridge == "br-int" else []
            words += ["--", "--may-exist", "add-port", bridge, leg] if leg else []
        self.vsctl(n, *words, "--", "set", "open_vswitch", ".", *[f'external_ids:{k}="{v}"' for k, v in ids.items()])

    def stop_chassis(self, n: Node) -> None:
        """Stop a node's OVS and ovn-controller."""
        for name in ("ovn-controller", "vswitchd", "ovsdb"):
            self.processes.stop(f"{n.name}-{name}")

    def plug(self, n: Node, link: str, port: str, mac: str) -> None:
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

    def installed(self, n: Node, link: str) -> bool:
        """Tell whether ovn-controller has installed the flows of a port."""
        return (
            self.vsctl(n, "--bare", "--columns=external_ids", "list", "interface", link).find("ovn-installed=true") >= 0
        )
