"""CNI implementations that take turns on the same nodes.

Each is a class with a name, `take_turn()` and `give_back()`; those with a CNI plugin of another name install its configuration list in front of
all others. One more takes part by `bench/run --plugin FILE`: a Python file with one function `plugin(lab, kuryr)` that returns such an object.
"""
import importlib.machinery
import importlib.util
import json
import os
import shutil
import time
from pathlib import Path

from harness.expect import until

FIRST = "00-bench.conflist"
# The runtime watches the directory; nothing tells when it has read the list.
READ_SECONDS = 3


class Kuryr:
    """Kuryr as it runs on the lab, with its defaults."""

    name, binary, makes_ports = "kuryr", "kuryr-cni", True

    def __init__(self, lab, kuryr):
        self.lab, self.kuryr = lab, kuryr

    def take_turn(self) -> None:
        """Start what is stopped and wait until the pools are full and nothing is being made or plugged."""
        self.kuryr.start("controller")
        self.settle()

    def settle(self) -> None:
        """Wait until the pools are full and nothing is being made or plugged."""
        self.kuryr.wait_ready(ports=1)
        last = {"at": time.monotonic(), "counts": None}

        def unchanged() -> bool:
            counts = [(len(self.kuryr.ready_ports(node)), len(self.kuryr.node(node)["spec"].get("ports") or {})) for node in self.lab.nodes]
            if counts != last["counts"]:
                last.update(at=time.monotonic(), counts=counts)
            # Longer than the time after which a refill begins, and than two of its requests take.
            return time.monotonic() - last["at"] >= 8
        until("the pools do not change any more", unchanged, 240, 0.5, why=lambda: [self.kuryr.describe(node) for node in self.lab.nodes])
        self.kuryr.wait_quiet()

    def give_back(self) -> None:
        """Stop the controller: it would make ports for pods that are not Kuryr's."""
        self.kuryr.stop("controller")


class Listed:
    """A plugin that is chosen by a configuration list."""

    makes_ports = False

    def __init__(self, lab, kuryr):
        self.lab, self.kuryr = lab, kuryr

    def take_turn(self) -> None:
        """Have the runtimes of all nodes use the plugin from now on."""
        for index, node in enumerate(self.lab.nodes):
            self.time(node)
            text = json.dumps(self.configuration(node, index))
            replace(lists(self.lab, node) / FIRST, lambda new, text=text: Path(new).write_text(text))
        time.sleep(READ_SECONDS)

    def give_back(self) -> None:
        """Have them use what they used before."""
        for node in self.lab.nodes:
            (lists(self.lab, node) / FIRST).unlink(missing_ok=True)
        time.sleep(READ_SECONDS)

    def settle(self) -> None:
        """Nothing is prepared, so nothing is waited for."""

    def time(self, node: str) -> None:
        """Put the lab's timer, under which Kuryr's plugin runs anyway, in the place of the plugin."""
        folder = plugins(self.lab, node)
        real, timer = folder / "real" / self.binary, folder / "kuryr-cni"
        if not real.exists():
            os.rename(folder / self.binary, real)
            replace(folder / self.binary, lambda new: shutil.copy(timer, new))

    def configuration(self, node: str, index: int) -> dict:
        """Return the configuration list for a node."""
        raise NotImplementedError


class Ptp(Listed):
    """The standard plugin with the shortest path there is; its pods reach nobody but their node.

    It gives addresses of IPv4 only, which is the faster way: with one of IPv6 it waits for the kernel to look for duplicates.
    """

    name, binary, families = "ptp", "ptp", (4,)

    def configuration(self, node: str, index: int) -> dict:
        ranges = {4: (f"10.198.{index}.0/24", "0.0.0.0/0"), 6: (f"fd00:198:0:{index}::/64", "::/0")}
        chosen = [ranges[family] for family in self.families]
        data = str(lists(self.lab, node).parent / "bench-ipam" / self.name)
        ipam = {"type": "host-local", "dataDir": data, "ranges": [[{"subnet": subnet}] for subnet, _ in chosen], "routes": [{"dst": everything} for _, everything in chosen]}
        return {"cniVersion": "1.0.0", "name": f"bench-{self.name}", "plugins": [{"type": "ptp", "ipMasq": False, "mtu": 1442, "ipam": ipam}]}


class PtpDual(Ptp):
    """The same with addresses of both families, as Kuryr's pods have."""

    name, families = "ptp-dual", (4, 6)


BUILT_IN = {"kuryr": Kuryr, "ptp": Ptp, "ptp-dual": PtpDual}


def load(file: str, lab, kuryr):
    """Load a CNI implementation from a file."""
    loader = importlib.machinery.SourceFileLoader("bench_plugin", file)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module.plugin(lab, kuryr)


def plugins(lab, node: str) -> Path:
    """Directory of a node's CNI plugins."""
    return lab.machine(node).cni_times.parent / "bin"


def lists(lab, node: str) -> Path:
    """Directory of a node's CNI configuration lists."""
    return lab.machine(node).cni_times.parent / "net.d"


def replace(path: Path, write) -> None:
    """Write beside, then rename: the runtime must never see half a file."""
    new = path.parent / f".{path.name}.new"
    new.unlink(missing_ok=True)
    write(new)
    os.replace(new, path)
