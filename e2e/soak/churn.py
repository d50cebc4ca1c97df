"""Pods that come and go, in a thread of its own, whatever else happens."""
import random
import threading

from harness.expect import Unmet
from harness.pods import manifest
from harness.scenario import World

# Pods that are wanted at a time; the number changes every so often, so that pools have to grow and to shrink.
LEAST, MOST, CHANGE_SECONDS = 4, 24, 30
# Between two changes of one pod.
STEP_SECONDS = 0.7
# Steps in a row that may fail: the API server is never taken away, but the machine may be busy.
FAILURES_MAX = 10


class Churn:
    """Creates and deletes pods while the block runs."""

    def __init__(self, world: World, seed: int):
        self.world, self.random, self.stopping = world, random.Random(seed), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.made, self.alive, self.failures, self.error = 0, [], 0, None

    def __enter__(self) -> "Churn":
        self.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the pods as they are now."""
        self.stopping.set()
        self.thread.join(timeout=60)

    def check(self) -> None:
        """Fail if no pods come and go any more."""
        if self.error:
            raise Unmet(f"pods do not come and go any more: {self.error}")

    def run(self) -> None:
        """Go towards a number of pods, then towards another."""
        wanted, since = LEAST, 0.0
        while not self.stopping.wait(STEP_SECONDS):
            since += STEP_SECONDS
            if since >= CHANGE_SECONDS:
                wanted, since = self.random.randint(LEAST, MOST), 0.0
            try:
                self.step(wanted)
                self.failures = 0
            except (Unmet, OSError) as error:
                self.failures += 1
                if self.failures >= FAILURES_MAX:
                    self.error = error
                    return

    def step(self, wanted: int) -> None:
        """Create a pod if there are too few, delete one if there are too many, replace one otherwise."""
        if len(self.alive) >= wanted:
            # Any: some are deleted before they have a network.
            victim = self.random.choice(self.alive)
            self.world.kube.delete("Pod", victim, self.world.namespace, self.random.choice((None, 0)))
            self.alive.remove(victim)
        if len(self.alive) < wanted:
            name = f"pod-{self.made}"
            self.made += 1
            self.world.kube.create(manifest(name, self.world.namespace))
            self.alive.append(name)
