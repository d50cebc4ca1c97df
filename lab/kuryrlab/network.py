"""The lab's namespaces, and the two segments between them.

- `lan`: control plane, nodes, the external side. At the same time it is the Neutron provider network `external`: br-ex
  of each chassis has a leg of its own in it, so routers and floating addresses are its neighbours. A node that is a
  virtual machine has no leg here: it is plugged as a port of that network (see nested).
- `tunnel`: only the Geneve endpoints of the chassis.

Both are bridges in the control plane's namespace; nothing is made in the machine's own, except the named namespaces.
"""

import socket
import subprocess
import time
from pathlib import Path

from . import debian, settings as s
from .failure import Failure
from .settings import Chassis, Machine, Node, Settings
from .wire import in_netns

SYSCTLS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv6/conf/all/forwarding": 1,
    "ipv6/conf/default/forwarding": 1,
    "ipv6/conf/all/accept_ra": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
}


class Network:
    """Namespaces and links of one lab."""

    def __init__(self, settings: Settings, root: Path):
        self.settings, self.root = settings, root

    def exists(self, place: str) -> bool:
        """Tell whether a place's namespace is there: a mount, not the empty file that a reboot may have left."""
        path = Path("/run/netns", self.settings.netns(place))
        return path.exists() and path.stat().st_dev != path.parent.stat().st_dev

    def add_netns(self, place: str, forward: bool) -> None:
        """Make a place's namespace with settings that do not depend on the machine's."""
        self.ip(None, [f"netns add {self.settings.netns(place)}"])
        values = dict(SYSCTLS)
        if not forward:
            values.update({"ipv4/ip_forward": 0, "ipv6/conf/all/forwarding": 0, "ipv6/conf/default/forwarding": 0})
        in_netns(
            self.settings.netns(place), lambda: [Path("/proc/sys/net", k).write_text(str(v)) for k, v in values.items()]
        )
        self.ip(place, ["link set lo up"])

    def delete_netns(self, place: str) -> None:
        """Remove a place's namespace with the links in it."""
        path = Path("/run/netns", self.settings.netns(place))
        if path.exists():
            subprocess.run(["umount", "-l", str(path)], capture_output=True)
            path.unlink()
        self.wired(place).unlink(missing_ok=True)

    def wired(self, place: str) -> Path:
        """Return the file that says that a place's links are complete; an interrupted start leaves none."""
        return self.settings.run / f"{place}.wired"

    def links(self, place: str) -> set[str]:
        """Return the names of a place's links."""
        return {name for _, name in in_netns(self.settings.netns(place), socket.if_nameindex)}

    def up(self) -> str | None:
        """Make what is missing: control plane with the bridges, external side."""
        if self.exists("cp") and self.exists("ext") and self.wired("ext").exists():
            return None
        self.delete_netns("ext")
        self.delete_netns("cp")
        self.add_netns("cp", forward=True)
        self.add_netns("ext", forward=True)
        self.ip(
            "cp",
            [
                "link add lan type bridge mcast_snooping 0",
                f"addr add {s.CONTROL4}/24 dev lan",
                f"addr add {s.CONTROL6}/64 dev lan nodad",
                "link set lan up",
                "link add tunnel type bridge mcast_snooping 0",
                "link set tunnel addrgenmode none",
                "link set tunnel up",
                f"link add external type veth peer name eth0 netns {self.settings.netns('ext')}",
                "link set external master lan",
                "link set external up",
            ],
        )
        self.ip(
            "ext",
            [
                f"addr add {s.EXTERNAL4}/24 dev eth0",
                f"addr add {s.EXTERNAL6}/64 dev eth0 nodad",
                "link set eth0 up",
                f"addr add {s.INTERNET4}/32 dev lo",
                f"addr add {s.INTERNET6}/128 dev lo",
            ],
        )
        self.ip(
            "cp", [f"route add {s.INTERNET4}/32 via {s.EXTERNAL4}", f"route add {s.INTERNET6}/128 via {s.EXTERNAL6}"]
        )
        self.wired("ext").touch()
        return "namespaces and LAN"

    def machine_up(self, m: Machine) -> str | None:
        """Make a machine's namespace with its legs; that of a virtual machine has none before it is plugged."""
        nested = isinstance(m, Node) and m.nested
        if self.exists(m.name) and (nested or self.wired(m.name).exists() and f"{m.prefix}-ex" in self.links("cp")):
            return None
        self.delete_netns(m.name)
        self.add_netns(m.name, forward=True)
        if nested:
            return m.name
        self.leg(m, "lan", "lan", m.uplink)
        # The same after each boot. That of a virtual machine is its Neutron port's.
        self.ip(m.name, [f"link set {m.uplink} address {m.mac}"])
        self.chassis_legs(m)
        self.address(m)
        self.wired(m.name).touch()
        return m.name

    def chassis_legs(self, m: Chassis) -> None:
        """Make the legs of the userspace datapath: the tunnels' and the provider network's."""
        self.leg(m, "tunnel", "tun", "ul0")
        self.leg(m, "lan", "ex", "ex0")
        # They have no address of their own and must not answer for the machine: its kernel sees what comes there, too, and would tell
        # who asks for an address of a bridge the hardware address of the leg, where tunnels do not end.
        self.ip(m.name, [f"link set {leg} addrgenmode none" for leg in ("ul0", "ex0")])
        self.ip(m.name, [f"link set {leg} arp off up" for leg in ("ul0", "ex0")])
        # The userspace datapath takes frames from a packet socket, where a checksum left to the hardware is never
        # computed.
        self.offloads_off("cp", f"{m.prefix}-ex")

    def leg(self, m: Chassis, bridge: str, here: str, there: str) -> None:
        """Make a link from a bridge of the control plane's namespace to a machine."""
        port = f"{m.prefix}-{here}"
        self.delete_link("cp", port)
        self.ip(
            "cp",
            [
                f"link add {port} type veth peer name {there} netns {self.settings.netns(m.name)}",
                f"link set {port} addrgenmode none",
                f"link set {port} master {bridge}",
                f"link set {port} up",
            ],
        )

    def address(self, m: Chassis) -> None:
        """Give a machine its addresses on the LAN and its routes."""
        self.ip(
            m.name,
            [
                f"addr add {m.lan4}/24 dev {m.uplink}",
                f"addr add {m.lan6}/64 dev {m.uplink} nodad",
                f"link set {m.uplink} up",
                f"route add default via {s.CONTROL4}",
                f"route add default via {s.CONTROL6}",
            ],
        )

    def delete_link(self, place: str, link: str) -> None:
        """Remove a link if it is there; the kernel removes the other end of a link in a deleted namespace only after a
        while.
        """
        end = time.monotonic() + 5
        while link in self.links(place):
            subprocess.run(
                debian.tool(self.root, "ip") + ["-n", self.settings.netns(place), "link", "del", link],
                capture_output=True,
            )
            if time.monotonic() > end:
                raise Failure(f"link {link} in {place} stays")

    def offloads_off(self, place: str, link: str) -> None:
        """Have the kernel finish checksums and segments before a frame leaves by this link."""
        self.tool(place, ["ethtool", "-K", link, "tx", "off", "tso", "off", "gso", "off"])

    def ip(self, place: str | None, lines: list[str]) -> None:
        """Run lines of `ip -batch` in a place.

        Raises Failure with what ip said.
        """
        where = ["-n", self.settings.netns(place)] if place else []
        done = subprocess.run(
            debian.tool(self.root, "ip") + where + ["-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Failure(f"ip in {place or 'the machine'}: {done.stderr.strip()}")

    def tool(self, place: str, argv: list[str]) -> str:
        """Run a tool of the Debian tree in a place's network namespace and return its output."""
        words = (
            ["nsenter", f"--net=/run/netns/{self.settings.netns(place)}", "--"]
            + debian.tool(self.root, argv[0])
            + argv[1:]
        )
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"{' '.join(argv)} in {place}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout
