"""A directory of commands for `run`, `shell` and scenarios: the Debian tree's tools, kubectl, cnitool and the OpenStack
client.
"""

import shlex

from . import debian
from .failure import Failure
from .lab import Lab
from .settings import Machine

NAMES = (
    "ip",
    "ss",
    "tc",
    "bridge",
    "ethtool",
    "ping",
    "tcpdump",
    "nft",
    "conntrack",
    "curl",
    "iperf3",
    "ovs-vsctl",
    "ovs-ofctl",
    "ovs-appctl",
    "ovs-dpctl",
    "ovsdb-client",
    "ovn-nbctl",
    "ovn-sbctl",
    "ovn-appctl",
    "ovn-trace",
    "ctr",
    "runc",
    "mariadb",
    "busybox",
)


def folder(lab: Lab):
    """Return the directory."""
    return lab.settings.run / "bin"


def write(lab: Lab) -> None:
    """Write a small script per tool."""
    target = folder(lab)
    target.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        try:
            words = debian.tool(lab.root, name)
        except Failure:
            continue
        script(target / name, shlex.join(words) + ' "$@"')
    script(target / "kubectl", f'{lab.binaries}/kubectl "$@"')
    script(target / "cnitool", f'{lab.cni_programs}/cnitool "$@"')
    script(target / "openstack", f'{lab.venv}/bin/python -W ignore {lab.venv}/bin/openstack "$@"')


def script(path, command: str) -> None:
    path.write_text(f"#!/bin/sh\nexec {command}\n")
    path.chmod(0o755)


def environment(lab: Lab, m: Machine | None = None) -> dict:
    """Return the variables with which these tools find the lab's daemons; with a machine, that machine's."""
    at = lab.settings
    env = {
        "KUBECONFIG": str(at.kubeconfig),
        "OS_CLIENT_CONFIG_FILE": str(at.clouds),
        "OS_CLOUD": "admin",
        "OVN_NB_DB": f"unix:{at.run}/ovn-nb.sock",
        "OVN_SB_DB": f"unix:{at.run}/ovn-sb.sock",
        "KURYR_LAB": at.name,
        "KURYR_LAB_STATE": str(at.state),
        "KURYR_LAB_RUN": str(at.run),
        "KURYR_LAB_BIN": str(folder(lab)),
        "KURYR_LAB_CP_NETNS": at.netns("cp"),
    }
    if m in at.chassis:
        env |= {"OVS_RUNDIR": str(lab.switches.run(m)), "OVN_RUNDIR": str(lab.switches.run(m))}
    if m in at.nodes:
        machine = lab.machines[m.name]
        env |= {
            "CONTAINERD_ADDRESS": str(machine.socket),
            "CONTAINERD_NAMESPACE": "k8s.io",
            "CNI_PATH": str(machine.cni_binaries),
            "NETCONFPATH": str(machine.cni_configuration),
            "KUBERNETES_NODE_NAME": m.name,
        }
    return env
