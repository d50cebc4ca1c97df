"""`up`: everything in the order of its needs; what runs already is left alone."""

import json
import os
import shutil
import signal

from . import cgroups, database, nested, openstack, resources, server, tools, whole
from .lab import Lab
from .node import wait_ready
from .processes import send
from .settings import Hypervisor, Node
from .steps import Printer, Step, run


def steps(lab: Lab) -> list[Step]:
    """Return the graph of steps."""
    cache = fetch_steps(lab)
    s = lab.settings
    if s.options.ml2 == "ovs":
        more = Step("router", lab.switches.wait_router, ("server",))
    else:
        more = Step("octavia", lab.openstack.start_octavia, ("mariadb", "central"))
    return cache + [
        Step("prepare", lambda: prepare(lab), ("debian packages", "OpenStack virtualenv")),
        Step("network", lab.network.up, ("prepare",)),
        Step("central", lab.switches.start_central, ("network",)),
        Step("mariadb", lambda: database.start(lab.settings, lab.processes, lab.root), ("network", "database")),
        Step("keystone", lab.openstack.start_keystone, ("mariadb",)),
        Step("neutron", lab.openstack.start_neutron, ("mariadb", "central")),
        more,
        Step("kubernetes", lab.kubernetes.start, ("network", "Kubernetes binaries")),
        *[step for h in s.hypervisors for step in hypervisor_steps(lab, h)],
        *[step for n in s.nodes for step in node_steps(lab, n)],
        Step("external", lambda: server.start_external(lab.settings, lab.processes), ("network",)),
        Step(
            "neutron networks",
            lambda: networks(lab),
            ("keystone", "neutron") + tuple(f"{c.name} chassis" for c in s.chassis),
        ),
        Step("server", lambda: plug_server(lab), ("neutron networks",)),
        Step("nodes ready", lambda: nodes_ready(lab), tuple(f"{n.name} kubelet" for n in s.nodes)),
    ]


def hypervisor_steps(lab: Lab, h: Hypervisor) -> list[Step]:
    """Return the steps of a hypervisor."""
    return [
        Step(f"{h.name} machine", lambda: lab.network.machine_up(h), ("network",)),
        Step(f"{h.name} chassis", lambda: lab.switches.start_chassis(h), (f"{h.name} machine", "central")),
    ]


def node_steps(lab: Lab, n: Node) -> list[Step]:
    """Return the steps of a node."""
    machine = lab.machines[n.name]
    boot = Step(f"{n.name} machine", machine.boot, ("network", "CNI programs"))
    if n.nested:
        uplink = Step(
            f"{n.name} port",
            lambda: nested.plug(lab.settings, n, lab.network, lab.switches),
            (boot.name, "neutron networks"),
        )
        # Among the pods, the API server is behind the router.
        router = ("router",) if n.among_pods and lab.settings.options.ml2 == "ovs" else ()
        return [boot, uplink, Step(f"{n.name} kubelet", machine.start, (uplink.name, "kubernetes", *router))]
    return [
        boot,
        Step(f"{n.name} chassis", lambda: lab.switches.start_chassis(n), (boot.name, "central")),
        Step(f"{n.name} kubelet", machine.start, (boot.name, "kubernetes")),
    ]


def fetch_steps(lab: Lab, everything: bool = False) -> list[Step]:
    """Return the steps that fill the cache."""
    e = lab.entries

    def make(name: str):
        return lambda: None if e[name].ready() else (e[name].make(), e[name].what)[1]

    return [
        Step("debian packages", make("debian")),
        Step("Kubernetes binaries", make("kubernetes")),
        Step("CNI programs", make("cni")),
        # Only for `dns start`.
        Step("CoreDNS", make("dns") if everything else lambda: None),
        Step("OpenStack virtualenv", make("openstack")),
        # A lab that has its database already needs no prepared one, even if that would be made differently today.
        Step(
            "database",
            make("database") if everything or not database.copied(lab.settings) else lambda: None,
            ("debian packages", "OpenStack virtualenv"),
        ),
    ]


def prepare(lab: Lab) -> str | None:
    """Make directories, cgroups, configuration; end what a killed start left without a record."""
    s = lab.settings
    if not lab.running():
        shutil.rmtree(s.run, ignore_errors=True)  # sockets of before a reboot
    for folder in (s.state / "home", s.state / "tmp", s.log, s.run, s.run / "processes"):
        folder.mkdir(parents=True, exist_ok=True)
    cgroups.create(s)
    for pid in strays(lab):
        send(pid, signal.SIGKILL)
    s.options.save(s.options_file)
    openstack.configure(lab.openstack.at, s.options.amphora, lab.root, s.options.ml2)
    tools.write(lab)
    return None


def strays(lab: Lab) -> list[int]:
    """Return processes in the daemons' cgroups that no record, nor a child's session, accounts for."""
    known = {pid for name in lab.processes.names() if (pid := lab.processes.pid(name))}
    if cgroups.mode() == "v1":
        return []
    leaves = [cgroups.CONTROL_LEAF]
    return [
        pid for leaf in leaves for pid in cgroups.members(lab.settings, leaf, leaf=True) if session(pid) not in known
    ]


def session(pid: int) -> int | None:
    """Return the session of a process; a daemon and its children share one, numbered like the daemon."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def networks(lab: Lab) -> str | None:
    """Make the lab's Neutron objects, once, and the routes that lead to them."""
    file, remark = server.facts_file(lab.settings), None
    if lab.settings.options.ml2 == "ovs":
        lab.switches.wait_registered(resources.Neutron(lab.settings.netns("cp")))
    if not file.exists():
        facts = resources.create(resources.Neutron(lab.settings.netns("cp")), lab.settings)
        whole.write(file, json.dumps(facts, indent=1) + "\n")
        remark = "external, pods, kuryr-router, server"
    server.route_pods(lab.network, json.loads(file.read_text()))
    return remark


def plug_server(lab: Lab) -> str | None:
    """Plug and start the server."""
    return server.start_server(
        lab.settings, lab.processes, lab.network, lab.switches, json.loads(server.facts_file(lab.settings).read_text())
    )


def nodes_ready(lab: Lab) -> str | None:
    """With a network of the lab's own the nodes must get ready; otherwise they do when Kuryr has started."""
    if lab.settings.options.cni == "ptp":
        return wait_ready(list(lab.machines.values()))
    return None


def up(lab: Lab) -> None:
    """Bring the lab up."""
    printer = Printer()
    run(steps(lab), printer)
    printer.say(f"lab {lab.settings.name!r} is up")


def fetch(lab: Lab) -> None:
    """Fill the cache only."""
    printer = Printer()
    run(fetch_steps(lab, everything=True), printer)
    printer.say("the cache is complete")


def reset(lab: Lab) -> None:
    """Remove a lab's state; it must be down."""
    if lab.settings.state.exists():
        shutil.rmtree(lab.settings.state)
