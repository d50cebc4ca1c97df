"""What breaks meanwhile, and how it is made good again. Everything that is random comes from the seed.

A fault is a function that breaks something and makes it good before it returns.
"""
import random
import time
from collections.abc import Callable, Iterator

from harness.scenario import World

# A crash loop has pauses of a few seconds at first.
DOWN_SECONDS = (0, 8)
# An outage of the cloud: shorter than the time in which a pool runs dry, or longer.
OUTAGE_SECONDS = (60, 180)
# No outage takes a greater share of the whole run.
OUTAGE_SHARE = 1 / 6
# The first one of a run that is long enough for it: no pool lasts so long, and no token is as fresh afterwards.
LONG_OUTAGE_SECONDS = 600


class Faults:
    """The faults of one run."""

    def __init__(self, world: World, seconds: float, seed: int, first_outage: float | None = None):
        self.world, self.seconds, self.random = world, seconds, random.Random(seed)
        self.first_outage = first_outage or (LONG_OUTAGE_SECONDS if seconds * OUTAGE_SHARE >= LONG_OUTAGE_SECONDS else None)

    def sequence(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Return names and faults without end: each once, in any order, then each once again."""
        faults = self.all(self.first_outage)
        while True:
            self.random.shuffle(faults)
            yield from faults
            faults = self.all()

    def all(self, outage: float | None = None) -> list[tuple[str, Callable[[], None]]]:
        """Return all faults, each with the part that it hits chosen, and with an outage of Neutron that lasts so long."""
        node, chassis = self.random.choice(self.world.lab.nodes), self.random.choice([c.name for c in self.world.lab.settings.chassis])
        agents, daemons = list(self.world.lab.nodes), self.world.lab.parts.switches.daemons
        outage = outage or min(self.random.uniform(*OUTAGE_SECONDS), self.seconds * OUTAGE_SHARE)
        return [
            ("the controller is killed", lambda: self.kill(["controller"])),
            (f"the agent of {node} is killed", lambda: self.kill([node])),
            ("the controller and all agents are killed", lambda: self.kill(["controller", *agents])),
            (f"Open vSwitch of {chassis} is restarted", lambda: self.restart(chassis, daemons[:2])),
            (f"{daemons[-1]} of {chassis} is restarted", lambda: self.restart(chassis, daemons[2:])),
            (f"Neutron is away for {outage:.0f} s", lambda: self.outage(outage)),
        ]

    def kill(self, names: list[str]) -> None:
        """Kill processes of Kuryr as a crash would, and start them again."""
        for name in names:
            self.world.kuryr.kill(name)
        time.sleep(self.random.uniform(*DOWN_SECONDS))
        for name in names:
            self.world.kuryr.start(name)

    def restart(self, chassis: str, daemons: tuple[str, ...]) -> None:
        """Restart daemons of a machine's switch."""
        for daemon in reversed(daemons):
            self.world.lab.processes.stop(f"{chassis}-{daemon}")
        self.world.lab.start_switch(chassis)

    def outage(self, seconds: float) -> None:
        """Take Neutron away for a while."""
        self.world.lab.stop_neutron()
        try:
            time.sleep(seconds)
        finally:
            self.world.lab.start_neutron()
