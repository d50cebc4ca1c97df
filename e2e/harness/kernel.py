"""What a node's kernel has of Services, read from the kernel itself."""
import ctypes
import errno
import os
import platform
from pathlib import Path

from kuryrlab import cgroups

from .lab import Lab

# bpf(2): its number, BPF_PROG_QUERY, and the types of attachment to a cgroup by which sockets are led (linux/bpf.h).
BPF = {"x86_64": 321, "aarch64": 280}
QUERY = 16
HOOKS = {"inet4_connect": 10, "inet6_connect": 11, "udp4_sendmsg": 14, "udp6_sendmsg": 15, "udp4_recvmsg": 19, "udp6_recvmsg": 20,
         "inet4_getpeername": 29, "inet6_getpeername": 30}
MOST = 16


class Question(ctypes.Structure):
    """What the kernel is asked for about a cgroup, and where it answers."""

    _fields_ = [("target", ctypes.c_uint32), ("type", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("attached_with", ctypes.c_uint32),
                ("programs", ctypes.c_uint64), ("count", ctypes.c_uint32), ("rest", ctypes.c_uint8 * 64)]


def programs(cgroup: Path) -> list[str]:
    """Return by which hooks programs see the sockets of a cgroup's own processes.

    Raises OSError where the kernel does not tell.
    """
    found, target = [], os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, number in HOOKS.items():
            numbers = (ctypes.c_uint32 * MOST)()
            question = Question(target=target, type=number, programs=ctypes.addressof(numbers), count=MOST)
            if ctypes.CDLL(None, use_errno=True).syscall(BPF[platform.machine()], QUERY, ctypes.byref(question), ctypes.sizeof(question)):
                told = ctypes.get_errno()
                raise OSError(told, f"programs of {cgroup} at {name}: {errno.errorcode.get(told)}")
            found += [name] * question.count
    finally:
        os.close(target)
    return found


def of_services(lab: Lab, node: str) -> dict[str, list[str]]:
    """Return what there is for Services on a node, without what there is nothing of: programs on the cgroup of its processes, pinned maps, tables of netfilter."""
    pinned = lab.root(node) / "sys/fs/bpf/kuryr/services"
    tables = [line for line in lab.on_node(node, ["nft", "list", "tables"]).splitlines() if "kuryr-services" in line]
    found = {"programs": programs(cgroups.tracking() / lab.settings.node_cgroup(lab.node(node))), "maps": sorted(str(path) for path in pinned.rglob("*")), "tables": tables}
    return {what: there for what, there in found.items() if there}
