"""Which lab runs which specs: most run on one of two nodes, and what needs more of them on another, where nothing else runs."""
from dataclasses import dataclass

from .specs import NODES


@dataclass(frozen=True)
class Share:
    """What one lab runs, and how many nodes it has."""

    nodes: int
    specs: tuple[str, ...]


def shares(to_run: list[str], larger: dict[str, int]) -> list[Share]:
    """Return what labs made for the run have to run, in this order; `larger` says how many nodes specs need that need more than the others.

    The second lab is always the same, large enough for all of them, whichever are to run: the number of a lab's nodes is for good.
    """
    both = [Share(NODES, enough(to_run, larger, NODES)), Share(max(larger.values(), default=NODES), tuple(one for one in to_run if one in larger))]
    return [share for share in both if share.specs]


def enough(to_run: list[str], larger: dict[str, int], nodes: int) -> tuple[str, ...]:
    """Return the specs for which so many nodes are enough."""
    return tuple(one for one in to_run if larger.get(one, NODES) <= nodes)
