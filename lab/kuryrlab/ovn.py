"""OVN's databases and northd in the control plane, and ovn-controller on each chassis.

All of them speak over unix sockets, so OVN needs no port and no address of the control plane.
"""

from pathlib import Path

from . import places, settings as s
from .ovs import QUIET, Switches
from .settings import Chassis


class Ovn(Switches):
    """OVN central and the chassis of one lab."""

    daemons = Switches.daemons + ("ovn-controller",)

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
            self.processes.wait(f"ovn-{kind}", lambda kind=kind: self.ctl(kind, "init") is not None, 120)
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
        return self.tool(f"ovn-{kind}ctl", "--timeout=90", f"--db=unix:{self.socket(kind)}", *words)

    def start_controller(self, n: Chassis) -> bool:
        """Start ovn-controller and wait until its chassis is known."""
        started = self.processes.start(
            f"{n.name}-ovn-controller",
            self.place(n),
            ["/usr/bin/ovn-controller", f"unix:{self.run(n)}/db.sock"] + QUIET,
            self.environment(n),
        )
        self.processes.wait(
            f"{n.name}-ovn-controller",
            lambda: n.hostname in self.ctl("sb", "--bare", "--columns=hostname", "list", "chassis").split(),
            240,
        )
        return started

    def identity(self, n: Chassis) -> dict[str, str]:
        """Return the external ids of a chassis, with what OVN has to know."""
        ids = super().identity(n) | {
            "ovn-remote": f"unix:{self.socket('sb')}",
            "ovn-encap-type": "geneve",
            "ovn-encap-ip": n.tunnel4,
            "ovn-bridge-mappings": f"{s.PHYSICAL_NETWORK}:br-ex",
            "ovn-bridge-datapath-type": "netdev",
            "ovn-remote-probe-interval": "0",
            "ovn-openflow-probe-interval": "0",
        }
        gateway = {"ovn-cms-options": "enable-chassis-as-gw"} if n == self.settings.server_chassis else {}
        return ids | gateway

    def carries(self, n: Chassis, link: str, port: str) -> bool:
        """Tell whether ovn-controller has installed the flows of a port."""
        ids = self.vsctl(n, "--bare", "--columns=external_ids", "list", "interface", link)
        return "ovn-installed=true" in ids
