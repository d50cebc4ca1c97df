"""What is kept of the runs: facts about them and what became of each spec. A run that goes on with an earlier one adds to it, whichever lab it is on."""
import json
from dataclasses import dataclass, field
from pathlib import Path

from . import outcome
from .outcome import PASSED, Outcome


@dataclass
class Results:
    """Facts about the runs, by name, and the outcomes by spec."""

    run: dict = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what was kept; nothing is there before the first run."""
        kept = json.loads(path.read_text()) if path.exists() else {"run": {}, "outcomes": []}
        return cls(kept["run"], outcome.from_json(kept["outcomes"]))

    def text(self) -> str:
        """Return what is to be kept."""
        return json.dumps({"run": self.run, "outcomes": outcome.as_json(self.outcomes)}, indent=1) + "\n"

    def begin(self, wanted: list[str], **facts) -> None:
        """Note that another run begins; what is not wanted any more is forgotten."""
        self.run |= facts | {"runs": self.run.get("runs", 0) + 1}
        self.outcomes = {name: one for name, one in self.outcomes.items() if name in wanted}

    def on(self, nodes: int, kinds: set[str]) -> None:
        """Note that a lab with so many nodes of these kinds is used, too: what is said of all specs is the smallest lab."""
        kinds = kinds.union(self.run["kinds"].split(", ") if self.run.get("kinds") else ())
        self.run |= {"nodes": min(nodes, self.run.get("nodes", nodes)), "kinds": ", ".join(sorted(kinds))}

    def passed(self) -> set[str]:
        """Return the specs that have passed."""
        return {name for name, one in self.outcomes.items() if one.state == PASSED}
