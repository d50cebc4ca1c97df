"""kube-proxy in its mode nftables, of the Kubernetes that the lab runs, beside nothing of Kuryr's: on the lab's external side, whose link is like the nodes'.

It is compiled from Kubernetes' modules into the lab's cache, once, and has its defaults, but for limits of connection tracking that only the machine's own
network namespace can have.
"""
import json
import time
from pathlib import Path

from harness.expect import until
from harness.lab import Lab
from kuryrlab import cgroups, golang, places, settings as names
from kuryrlab.cache import Entry, digest, execute

from . import usage

SOURCES = Path(__file__).resolve().parent.parent / "proxy"
PACKAGE, NAME, PLACE = "k8s.io/kubernetes/cmd/kube-proxy", "kube-proxy", "ext"
TABLES = ("ip", "ip6")
ROUTES = (f"{names.SERVICES4_CIDR} via {names.CONTROL4}", f"{names.SERVICES6_CIDR} via {names.CONTROL6}")
# Until all Services are served by one that has just begun.
SERVED_SECONDS = 300
CLEAN_SECONDS = 60


def entry(settings: names.Settings) -> Entry:
    """Describe the directory with the program."""
    path = settings.cache / f"kube-proxy-{names.KUBERNETES_VERSION}-{digest(*[SOURCES / file for file in ('go.mod', 'go.sum', 'programs.go')])}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry("kube-proxy", path, lambda target: build(settings, target, log), minutes=2, megabytes=70, download=20)


def build(settings: names.Settings, target: Path, log: Path) -> None:
    """Compile kube-proxy into `target`."""
    log.unlink(missing_ok=True)
    stamp = f"-s -w -X k8s.io/component-base/version.gitVersion={names.KUBERNETES_VERSION}"
    words = [golang.compiler(settings), "build", "-trimpath", "-ldflags", stamp, "-o", target / NAME, PACKAGE]
    execute(words, log, golang.environment(settings), SOURCES, what="kube-proxy did not build")


class Proxy:
    """One that can be started and stopped; it is in the way of no node."""

    def __init__(self, lab: Lab):
        self.lab, self.program, self.begun = lab, entry(lab.settings).make() / NAME, False
        self.place = places.Place(lab.settings, lab.settings.netns(PLACE), cgroups.CONTROL_LEAF, usr=lab.parts.network.root)

    def configuration(self) -> dict:
        """Return what its file says."""
        return {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables", "hostnameOverride": self.lab.nodes[-1],
            "clientConnection": {"kubeconfig": str(self.lab.settings.kubeconfig)}, "clusterCIDR": f"{names.PODS4_CIDR},{names.PODS6_CIDR}",
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }

    def start(self, served) -> float:
        """Start it, wait until `served()`, and return how many seconds that took."""
        file = self.lab.settings.etc / "kube-proxy.json"
        file.write_text(json.dumps(self.configuration()))
        # Without a route nothing is sent, and so nothing translated.
        self.lab.parts.network.ip(PLACE, [f"route replace {route}" for route in ROUTES])
        self.begun = True
        begin = time.monotonic()
        self.lab.processes.start(NAME, self.place, [self.program, "--config", file])
        log = self.lab.processes.log(NAME)
        until("kube-proxy serves", served, SERVED_SECONDS, why=lambda: log.read_text(errors="replace")[-500:])
        return time.monotonic() - begin

    def memory(self) -> dict:
        """Return its memory in MiB, now and at most."""
        return usage.memory(self.lab.processes.pid(NAME))

    def stop(self) -> None:
        """Stop it if it was started, and take away what it has left in the kernel."""
        if not self.begun:
            return
        self.begun = False
        self.lab.processes.stop(NAME)
        for family in TABLES:
            words = places.command(self.place, ["nft", "delete", "table", family, NAME], places.environment(self.lab.settings))
            Lab.checked(words, CLEAN_SECONDS, check=False)
        self.lab.parts.network.ip(PLACE, [f"route del {route}" for route in ROUTES])
