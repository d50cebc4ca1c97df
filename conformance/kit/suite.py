"""The suite: Kubernetes' end-to-end tests and the programs of their images, built from the Go modules of the version that the lab runs, once,
into the lab's cache.
"""
import re
import shutil
import subprocess
from pathlib import Path

from kuryrlab import golang
from kuryrlab.cache import Entry, digest, execute
from kuryrlab.failure import Failure
from kuryrlab.settings import KUBERNETES_VERSION, Settings

SOURCES = Path(__file__).resolve().parent.parent / "suite"
MODULE = "k8s.io/kubernetes/test"
TESTS = "e2e.test"
# Programs of images, and the package of each.
PROGRAMS = {"agnhost": f"{MODULE}/images/agnhost", "regression-issue-74839": f"{MODULE}/images/regression-issue-74839"}
# What agnhost serves TLS with, of its sources.
CERTIFICATES = ("localhost.crt", "localhost.key")
LIST_SECONDS = 120


def entry(settings: Settings) -> Entry:
    """Describe the directory with the tests and the programs."""
    path = settings.cache / f"conformance-{KUBERNETES_VERSION}-{digest(*[SOURCES / f for f in ('go.mod', 'go.sum', 'programs.go')])}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry("Kubernetes' end-to-end tests", path, lambda p: build(settings, p, log), minutes=6, megabytes=700, download=60)


def build(settings: Settings, target: Path, log: Path) -> None:
    """Compile tests and programs into `target`."""
    log.unlink(missing_ok=True)
    stamp = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES_VERSION}"
    common = ["-trimpath", "-ldflags", stamp]
    go, env = golang.compiler(settings), golang.environment(settings)
    # Nobody here changes what `go vet` would find, in two thousand packages.
    execute([go, "test", "-c", "-vet=off", *common, "-o", target / TESTS, f"{MODULE}/e2e"], log, env, SOURCES, what="Kubernetes' end-to-end tests did not build")
    for name, package in PROGRAMS.items():
        execute([go, "build", *common, "-o", target / name, package], log, env, SOURCES, what=f"{name} did not build")
    sources = Path(env["GOMODCACHE"]) / f"k8s.io/kubernetes@{KUBERNETES_VERSION}" / "test/images/agnhost/porter"
    for name in CERTIFICATES:
        shutil.copyfile(sources / name, target / name)


def images(folder: Path) -> set[str]:
    """Return the names of all images that the suite of this version may ask for."""
    done = subprocess.run([folder / TESTS, "--list-images"], capture_output=True, text=True, timeout=LIST_SECONDS, cwd=folder)
    if done.returncode:
        raise Failure(f"{TESTS} --list-images: {done.stderr.strip()[-500:]}")
    return set(re.findall(r"^\S+/\S+:\S+$", done.stdout, re.M))


def command(folder: Path, report: Path, *more: str) -> list[str]:
    """Return the command line of the suite, which leaves its report in a file."""
    return [str(folder / TESTS), f"--ginkgo.json-report={report}", "--ginkgo.no-color", "--ginkgo.v", *more]
