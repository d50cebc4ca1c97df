"""Expectations and bounded waits: what fails says what was expected, what was seen, and for how long it was waited."""
import time


class Unmet(Exception):
    """An expectation did not hold; the message is for people."""


def expect(holds: object, message: str) -> None:
    """Fail with a message unless something holds."""
    if not holds:
        raise Unmet(message)


def expect_equal(got: object, wanted: object, what: str) -> None:
    """Fail with both values unless they are equal."""
    if got != wanted:
        raise Unmet(f"{what}: expected {wanted!r}, got {got!r}")


def expect_in(part: object, whole, what: str) -> None:
    """Fail with the whole unless it contains the part."""
    if part not in whole:
        raise Unmet(f"{what}: {part!r} is not in {shorten(whole)}")


def until(what: str, probe, seconds: float, every: float = 0.1, why=None):
    """Wait until `probe()` is true and return its value.

    Unmet exceptions and unreachable endpoints count as "not yet". `why()` is asked at the end for what there is instead.
    """
    end, last = time.monotonic() + seconds, None
    while True:
        try:
            value = probe()
            if value:
                return value
        except (Unmet, OSError) as error:
            last = error
        if time.monotonic() >= end:
            more = f"; {last}" if last else ""
            raise Unmet(f"{what}: not within {seconds:.0f} s{more}" + (f"; {shorten(why())}" if why else ""))
        time.sleep(every)


def holds_for(what: str, probe, seconds: float, every: float = 0.2) -> None:
    """Fail as soon as `probe()` is false within a time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not probe():
            raise Unmet(f"{what}: did not stay so for {seconds:.0f} s")
        time.sleep(every)


def shorten(value: object, limit: int = 600) -> str:
    """Return a value as text of readable length."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[:limit] + f"... ({len(text)} characters)"


def percentile(values, share: float) -> float:
    """Return the value below which a share of the values lies (0.5: the median), between two of them by linear interpolation."""
    ordered = sorted(values)
    rank = share * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)
