"""Runs specs, a few in each call of the suite, and once more what failed while Open vSwitch itself crashed."""
import json
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kuryrlab import golang, places
from kuryrlab.lab import Lab

from . import outcome, specs, suite
from .outcome import FAILED, Outcome

# So many specs share one call: its start takes some seconds, and what it found is known only at its end.
TOGETHER = 10
# Longest time of a call, of one spec, and how long the suite may take to end after it was asked to.
SPEC_SECONDS, END_SECONDS = 900, 120
PROVIDER = ("--provider=skeleton", "--dns-domain=cluster.local", "--disable-log-dump")
CRASHED = "run again: the switch had crashed"


class Rounds:
    """The runs of the suite on one lab."""

    def __init__(self, lab: Lab, folder: Path, logs: Path, crashes: Callable[[], int], say: Callable[[Outcome], None], together: int = TOGETHER):
        self.lab, self.folder, self.logs, self.crashes, self.say, self.together = lab, folder, logs, crashes, say, together
        self.outcomes: dict[str, Outcome] = {}
        self.lock, self.number = threading.Lock(), 0
        self.children: list[subprocess.Popen] = []
        self.stopped = False
        logs.mkdir(parents=True, exist_ok=True)

    def run(self, chosen: list[str], parallel: int, keep: Callable[[], None], until: float) -> None:
        """Run specs, so many calls at a time, those that must be alone after the others; begin none after a time of the monotonic clock.

        `keep` is called after each call.
        """
        alone = [one for one in chosen if specs.runs_alone(one)]
        beside = [one for one in chosen if not specs.runs_alone(one)]

        def fairly(some: list[str]) -> None:
            if time.monotonic() < until:
                self.fairly(some)
                keep()

        for group, workers in ((beside, parallel), (alone, 1)):
            with ThreadPoolExecutor(workers) as pool:
                begun = [pool.submit(fairly, some) for some in parts(group, workers, self.together)]
                try:
                    # Results are asked for so that an error is not lost.
                    for one in begun:
                        one.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    self.stop()
                    raise

    def stop(self) -> None:
        """Ask the calls that are under way to end, and begin no other; they clean up behind themselves."""
        self.stopped = True
        for child in list(self.children):
            child.terminate()

    def fairly(self, some: list[str]) -> None:
        """Run specs in one call; those that fail once more, if the switch crashed meanwhile."""
        before = self.crashes()
        found = self.call(some)
        failed = [one for one in some if one not in found or found[one].state == FAILED]
        if failed and not self.stopped and self.crashes() > before:
            again = self.call(failed)
            for one in again.values():
                one.remark = CRASHED
            found |= again
        for one in found.values():
            self.say(one)
        with self.lock:
            self.outcomes |= found

    def call(self, some: list[str]) -> dict[str, Outcome]:
        """Call the suite for some specs and return what became of those that it tells of."""
        with self.lock:
            self.number += 1
            name = f"{self.number:03}"
        report, log = self.logs / f"{name}.json", self.logs / f"{name}.log"
        report.unlink(missing_ok=True)
        seconds = SPEC_SECONDS * len(some)
        config = self.lab.settings.kubeconfig
        words = suite.command(self.folder, report, *PROVIDER, f"--kubeconfig={config}", f"--num-nodes={len(self.lab.settings.nodes)}",
                              f"--kubectl-path={golang.entry(self.lab.settings).path}/kubectl", f"--e2e-output-dir={self.logs}",
                              f"--ginkgo.timeout={seconds}s", *specs.focus(some))
        place = places.control(self.lab.settings, "run")
        with open(log, "wb") as out:
            child = subprocess.Popen(places.command(place, words, places.environment(self.lab.settings), str(self.folder)), stdin=subprocess.DEVNULL,
                                     stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
            self.children.append(child)
            try:
                child.wait(seconds + END_SECONDS)
            except subprocess.TimeoutExpired:
                child.terminate()
                end(child)
            finally:
                self.children.remove(child)
        return outcome.of_report(json.loads(report.read_text()), some, len(self.lab.settings.nodes)) if report.exists() else {}


def listed(folder: Path, logs: Path) -> list[str]:
    """Return the texts of all specs of the suite, in its order."""
    logs.mkdir(parents=True, exist_ok=True)
    report = logs / "list.json"
    words = [word for word in suite.command(folder, report, "--ginkgo.dry-run", *PROVIDER) if word != "--ginkgo.v"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=suite.LIST_SECONDS, cwd=folder)
    if done.returncode:
        raise OSError(f"the suite does not list its specs: {(done.stdout + done.stderr)[-1000:]}")
    return specs.of_report(json.loads(report.read_text()))


def end(child: subprocess.Popen) -> None:
    """Wait until the suite has cleaned up behind itself, and end it if it takes too long."""
    try:
        child.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def parts(some: list[str], workers: int, together: int = TOGETHER) -> list[list[str]]:
    """Return the specs in parts of which each is run by one call, of neighbours, as even as can be for so many workers.

    Where others can go on beside it, what takes ten minutes is begun first and alone, and what takes minutes shares calls with
    few: otherwise all wait for one call in the end.
    """
    if workers == 1:
        return chunks(some, together)
    quick, slow, slowest = ([one for one in some if specs.length(one) == length] for length in range(3))
    size = max(1, min(together, -(-len(quick) // workers)))
    return chunks(slowest, 1) + chunks(quick, size) + chunks(slow, max(1, together // 4))


def chunks(some: list[str], size: int) -> list[list[str]]:
    """Return neighbours in lists of this size."""
    return [some[at:at + size] for at in range(0, len(some), size)]
