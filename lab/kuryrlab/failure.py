"""How a step of the lab fails: one sentence, what to do about it, and the end of the log that tells more."""

from pathlib import Path

TAIL_LINES = 25


class Failure(Exception):
    """A step did not work; `log` is the file whose end explains it."""

    def __init__(self, what: str, log: Path | str | None = None, fix: str | None = None):
        super().__init__(what)
        self.what, self.log, self.fix = what, Path(log) if log else None, fix

    def text(self) -> str:
        """Return the whole message, log tail included."""
        lines = [self.what]
        if self.fix:
            lines.append(f"  -> {self.fix}")
        if self.log and self.log.exists():
            lines.append(f"  the end of {self.log}:")
            lines += [f"  | {line}" for line in tail(self.log)]
        return "\n".join(lines)


def tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a file, reading no more than its last 64 KiB."""
    with open(path, "rb") as f:
        f.seek(0, 2)
        f.seek(max(0, f.tell() - 65536))
        return f.read().decode(errors="replace").splitlines()[-lines:]
