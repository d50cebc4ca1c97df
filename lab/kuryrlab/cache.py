"""What is downloaded or built, once: directories in the cache, each named by its version and a hash of what decides its
content.

An entry is complete when it holds the file `complete`; whatever lacks it is the rest of an interrupted build and is
built anew. Entries are built in their final place (a Python virtualenv cannot be moved) under a lock, so two labs never
build the same thing at once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .failure import Failure
from .steps import check_stop

COMPLETE = "complete"
# Longest time for one build command, and to wait for a command that holds a lock: a build at first, or a whole `up`.
BUILD_SECONDS, LOCK_SECONDS = 40 * 60, 60 * 60
# A command that is told to end has this long.
END_SECONDS = 10


@dataclass
class Entry:
    """One directory of the cache and how it is made."""

    what: str  # for people: "OpenStack in a virtualenv"
    path: Path
    build: Callable[[Path], None]  # fills the empty directory
    minutes: float = 1.0  # on two cores, for the doctor
    megabytes: int = 100  # on disk
    download: int = 0  # MB over the network

    def ready(self) -> bool:
        """Tell whether nothing is to be done."""
        return (self.path / COMPLETE).exists()

    def make(self) -> Path:
        """Build the entry unless it is there, and return its directory."""
        if self.ready():
            return self.path
        with locked(self.path.with_name(self.path.name + ".lock")):
            if not self.ready():
                if self.path.exists():
                    shutil.rmtree(self.path)
                self.path.mkdir(parents=True)
                self.build(self.path)
                (self.path / COMPLETE).touch()
        return self.path


def digest(*parts: object) -> str:
    """Return a short hash of strings and of the contents of files."""
    h = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else str(part).encode()
        h.update(len(data).to_bytes(8, "big") + data)
    return h.hexdigest()[:12]


@contextmanager
def locked(path: Path, seconds: float = LOCK_SECONDS):
    """Hold an exclusive lock on a file.

    Raises Failure if another command holds it for longer than this.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  waiting: another command holds {path}", flush=True)
            wait_for(f, path, seconds)
        yield


def wait_for(file, path: Path, seconds: float) -> None:
    """Take a lock that another command holds, as soon as it is free."""
    end = time.monotonic() + seconds
    while True:
        check_stop()
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Failure(
                    f"another command has held {path} for {seconds / 60:.0f} minutes",
                    fix=f"see who: fuser -v {path}; end it, then try again",
                ) from None
            time.sleep(0.1)


def execute(
    command: list, log: Path, env: dict | None = None, cwd: Path | None = None, what: str | None = None
) -> None:
    """Run a build command with its output in a log.

    Raises Failure with the end of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(c) for c in command]
    with open(log, "ab") as out:
        out.write(("$ " + " ".join(words) + "\n").encode())
        out.flush()
        try:
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=cwd
            )
        except FileNotFoundError as e:
            raise Failure(f"{words[0]} is not installed", fix=str(e)) from e
    try:
        code = finished(child)
    except Failure as e:
        e.log = e.log or log
        raise
    if code != 0:
        raise Failure(what or f"{os.path.basename(words[0])} ended with {code}", log)


def finished(child: subprocess.Popen, seconds: float = BUILD_SECONDS) -> int:
    """Wait for a child and return its exit code; end it when the user wants to stop.

    Raises Failure if it takes longer than this.
    """
    end = time.monotonic() + seconds
    try:
        while child.poll() is None:
            check_stop()
            if time.monotonic() > end:
                raise Failure(f"{' '.join(map(str, child.args))[:100]}: no end after {seconds / 60:.0f} minutes")
            time.sleep(0.02)
    except Failure:
        child.terminate()
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    return child.returncode
