"""A graph of steps: each starts when those it needs are done, independent ones run side by side, and each says how long
it took.

After a failure, or Ctrl-C, nothing new starts; what is running comes to its end, so that no step is left half done
without a record.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass

from .failure import Failure


@dataclass
class Step:
    """One step; `action` may return a remark that is printed behind the time, or None for "nothing was to be done"."""

    name: str
    action: Callable[[], str | None]
    needs: tuple[str, ...] = ()


class Printer:
    """Lines with the time since the start, whole even when several threads speak."""

    def __init__(self):
        self.start, self.lock = time.monotonic(), threading.Lock()

    def say(self, text: str) -> None:
        """Print one line."""
        with self.lock:
            print(f"{time.monotonic() - self.start:6.1f}s  {text}", flush=True)


stopping = threading.Event()


def check_stop() -> None:
    """Raise Failure if the user wants to stop; called in every wait."""
    if stopping.is_set():
        raise Failure("stopped by the user")


def run(steps: list[Step], printer: Printer, threads: int = 12) -> None:
    """Run all steps.

    Raises Failure of the first step that failed, after the running ones ended.
    """
    names = {s.name for s in steps}
    for s in steps:
        unknown = set(s.needs) - names
        assert not unknown, f"{s.name} needs unknown steps {unknown}"
    waiting, done, running, failed, interrupted = list(steps), set(), {}, None, False
    with ThreadPoolExecutor(threads) as pool:
        while running or (waiting and not failed):
            if not failed and not stopping.is_set():
                for s in [s for s in waiting if done.issuperset(s.needs)]:
                    waiting.remove(s)
                    running[pool.submit(timed, s, printer)] = s
            if not running:
                assert stopping.is_set(), f"steps wait for each other: {[s.name for s in waiting]}"
                break
            try:
                finished, _ = wait(running, return_when=FIRST_COMPLETED, timeout=0.5)
            except KeyboardInterrupt:
                interrupted = True
                stopping.set()
                printer.say("stopping: waiting for what has begun (`up` or `down` goes on from here)")
                continue
            for future in finished:
                s = running.pop(future)
                error = future.exception()
                if error is None:
                    done.add(s.name)
                    continue
                if not stopping.is_set():
                    printer.say(f"FAILED {s.name}: {error.text() if isinstance(error, Failure) else repr(error)}")
                failed = failed or error
                stopping.set()
    if interrupted:
        raise KeyboardInterrupt
    if failed:
        raise failed


def timed(step: Step, printer: Printer) -> None:
    """Run one step and print its line."""
    begin = time.monotonic()
    remark = step.action()
    took = time.monotonic() - begin
    if remark is None:
        return
    printer.say(f"{step.name}: {remark + ', ' if remark else ''}{took:.1f} s")


def until(
    what: str,
    probe: Callable[[], object],
    seconds: float,
    every: float = 0.1,
    log=None,
    alive: Callable[[], bool] | None = None,
):
    """Wait until `probe` returns something true, and return it; exceptions of an endpoint that is not there yet count
    as false.

    Raises Failure with the end of `log` when the time is over, or at once when `alive` says that nobody is there to
    wait for.
    """
    end = time.monotonic() + seconds
    last = None
    while True:
        check_stop()
        try:
            value = probe()
            if value:
                return value
        except (OSError, ValueError) as e:
            last = e
        if alive and not alive():
            raise Failure(f"{what}: the process ended", log)
        if time.monotonic() > end:
            raise Failure(f"{what}: not after {seconds:.0f} s" + (f" ({last})" if last else ""), log)
        time.sleep(every)
