"""`status`: what runs, what does not, and where to look."""

import json

from . import settings as s
from .kuryr import Kuryr
from .lab import Lab
from .server import facts_file
from .settings import Node

CONTROL = (
    "mariadb",
    "keystone",
    "neutron",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "external",
    "server",
)
OVN = ("ovn-nb", "ovn-sb", "ovn-northd", "neutron-maintenance", "octavia", "octavia-agent")
ML2_OVS = ("neutron-rpc", "hv1-l3-agent")
QUEUE, AMPHORA = ("epmd", "rabbitmq"), ("octavia-worker",)
NODE = ("", "-containerd", "-kubelet")


def expected(lab: Lab) -> list[str]:
    """Return the names of all processes that a lab that is up has, Kuryr's apart."""
    options = lab.settings.options
    return (
        list(CONTROL + (OVN if options.ml2 == "ovn" else ML2_OVS))
        + list((QUEUE if options.queue else ()) + (AMPHORA if options.amphora else ()))
        + [f"{c.name}-{daemon}" for c in lab.settings.chassis for daemon in lab.switches.daemons]
        + [n.name + part for n in lab.settings.nodes for part in NODE]
    )


def status(lab: Lab) -> bool:
    """Print it; tell whether everything that should run does."""
    names = expected(lab)
    living = {name: lab.processes.pid(name) for name in names}
    for name, pid in living.items():
        print(f"  up    {name} ({pid})" if pid else f"  DOWN  {name}  log: {lab.processes.log(name)}")
    for part, pid in Kuryr(lab).status():
        print(f"  up    kuryr {part} ({pid})" if pid else f"  -     kuryr {part}")
    if living["kube-apiserver"]:
        for n in lab.settings.nodes:
            print(f"  {n.name} ({n.kind}): {readiness(lab, n)}")
    print(f"  state {lab.settings.state}, logs {lab.settings.log}")
    if facts_file(lab.settings).exists():
        facts = json.loads(facts_file(lab.settings).read_text())
        print(f"  server {facts['server_v4']} {facts['server_v6']}, external {s.EXTERNAL4} {s.EXTERNAL6}")
        print(f"  router {facts['router_v4']} {facts['router_v6']}")
    return all(living.values())


def readiness(lab: Lab, n: Node) -> str:
    """Say what Kubernetes thinks of a node."""
    try:
        return "Ready" if lab.machines[n.name].ready() else "NotReady (as long as there is no network: Kuryr brings it)"
    except OSError as e:
        return f"unknown: {e}"
