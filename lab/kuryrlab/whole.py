"""Files that are there whole or not at all, also when the lab is interrupted while one is made: whoever finds one may use
it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def made(path: Path) -> Iterator[Path]:
    """Give the name under which to make a file; it gets its own name when it was made without an error."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    yield new
    new.replace(path)


def write(path: Path, text: str) -> None:
    """Write a file."""
    with made(path) as new:
        new.write_text(text)
