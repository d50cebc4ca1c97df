"""One lab with all its parts, as the commands use it."""

from functools import cached_property
from pathlib import Path

from . import database, debian, golang, python
from .cache import Entry
from .kubernetes import Kubernetes
from .ml2ovs import Ml2Ovs
from .network import Network
from .node import NodeMachine
from .openstack import OpenStack
from .ovn import Ovn
from .ovs import Switches
from .processes import Processes
from .settings import Settings


class Lab:
    """The parts are made on first use; none of them starts anything by being made."""

    def __init__(self, settings: Settings):
        self.settings, self.processes = settings, Processes(settings)

    def running(self) -> bool:
        """Tell whether any daemon of the lab lives."""
        return any(self.processes.alive(name) for name in self.processes.names())

    @property
    def entries(self) -> dict[str, Entry]:
        """Everything the cache must hold, by the name of the step that makes it."""
        s = self.settings
        return {
            "debian": debian.entry(s),
            "kubernetes": golang.entry(s),
            "cni": golang.cni_entry(s),
            "dns": golang.dns_entry(s),
            "openstack": python.entry(s),
            "database": database.entry(s),
        }

    @property
    def root(self) -> Path:
        return debian.entry(self.settings).path

    @property
    def venv(self) -> Path:
        return python.entry(self.settings).path

    @property
    def binaries(self) -> Path:
        return golang.entry(self.settings).path

    @property
    def cni_programs(self) -> Path:
        return golang.cni_entry(self.settings).path

    @cached_property
    def network(self) -> Network:
        return Network(self.settings, self.root)

    @cached_property
    def switches(self) -> Switches:
        if self.settings.options.ml2 == "ovs":
            return Ml2Ovs(self.settings, self.processes, self.root, self.venv)
        return Ovn(self.settings, self.processes, self.root)

    @cached_property
    def openstack(self) -> OpenStack:
        return OpenStack(self.settings, self.processes, self.root, self.venv)

    @cached_property
    def kubernetes(self) -> Kubernetes:
        return Kubernetes(self.settings, self.processes, self.root, self.binaries)

    @cached_property
    def machines(self) -> dict[str, NodeMachine]:
        return {
            n.name: NodeMachine(
                n,
                self.settings,
                self.processes,
                self.root,
                self.cni_programs,
                self.network,
                self.switches,
                self.kubernetes,
            )
            for n in self.settings.nodes
        }
