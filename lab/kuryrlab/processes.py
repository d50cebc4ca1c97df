"""The lab's daemons: started in a place, remembered, stopped.

A record says who a process is by more than its number: the machine's boot and the process's start time must agree, so
neither a reboot nor a reused number makes the lab touch a stranger.
"""

import json
import math
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from . import places, whole
from .failure import Failure
from .settings import Settings
from .steps import until


@dataclass
class Record:
    """Who a daemon is."""

    name: str
    pid: int
    start: int  # clock ticks since boot, /proc/PID/stat field 22
    boot: str
    log: str
    command: list

    def alive(self) -> bool:
        """Tell whether the very process that was recorded is still there."""
        return self.boot == boot_id() and start_time(self.pid) == self.start


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int, proc: str = "/proc") -> int | None:
    """Return when a process started, or None if there is none or only its corpse."""
    try:
        text = Path(proc, str(pid), "stat").read_text()
    except OSError:
        return None
    rest = text.rpartition(")")[2].split()  # the name before may contain anything
    return None if rest[0] in "ZX" else int(rest[19])


class Processes:
    """All daemons of one lab."""

    def __init__(self, settings: Settings):
        self.settings, self.folder = settings, settings.run / "processes"

    def read(self, name: str) -> Record | None:
        """Return a record, whether or not its process lives."""
        try:
            return Record(**json.loads((self.folder / f"{name}.json").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def names(self) -> list[str]:
        """Return the names of all records."""
        return sorted(p.stem for p in self.folder.glob("*.json"))

    def pid(self, name: str) -> int | None:
        """Return the process id of a living daemon."""
        record = self.read(name)
        return record.pid if record and record.alive() else None

    def alive(self, name: str) -> bool:
        return self.pid(name) is not None

    def log(self, name: str) -> Path:
        return self.settings.log / f"{name}.log"

    def start(
        self, name: str, place: places.Place, argv: list, env: dict | None = None, cwd: str | None = None
    ) -> bool:
        """Start a daemon unless it runs; tell whether it was started."""
        if self.alive(name):
            return False
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        words = places.command(place, argv, places.environment(self.settings, env), cwd)
        with open(log, "ab") as out:
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, cwd="/"
            )
        children.append(child)
        record = Record(name, child.pid, start_time(child.pid) or 0, boot_id(), str(log), [str(a) for a in argv])
        whole.write(self.folder / f"{name}.json", json.dumps(asdict(record)))
        return True

    def wait(self, name: str, probe, seconds: float = 60):
        """Wait until a daemon serves, and return what `probe` returned.

        Raises Failure with the end of its log.
        """
        return until(f"{name} is ready", probe, seconds, log=self.log(name), alive=lambda: self.alive(name))

    def stop(self, name: str, seconds: float = 15, how: int = signal.SIGTERM, again: float = math.inf) -> bool:
        """Ask a daemon to end, insist after `seconds`, forget it; tell whether it lived.

        MariaDB and OVSDB miss a signal while they start, so it may be repeated every `again` seconds.
        """
        record, lived = self.read(name), False
        if record and record.alive():
            lived = True
            send(record.pid, how)
            end, repeat = time.monotonic() + seconds, time.monotonic() + again
            while record.alive() and time.monotonic() < end:
                time.sleep(0.05)
                if time.monotonic() > repeat:
                    send(record.pid, how)
                    repeat = time.monotonic() + again
            # The rest of its group, and itself if it would not go; the group's number is taken as long as it has
            # members.
            try:
                os.killpg(record.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            while record.alive():
                time.sleep(0.02)
                if time.monotonic() > end + 60:
                    raise Failure(f"{name} ({record.pid}) survives SIGKILL")
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        return lived


# Kept so that a daemon that ends at once is reaped, and not taken for a living one.
children: list[subprocess.Popen] = []


def send(pid: int, how: int) -> None:
    """Send a signal; a process that is gone meanwhile is fine."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        pass
