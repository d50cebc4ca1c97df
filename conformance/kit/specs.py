"""Which specs there are, and which of them are not expected to pass.

A spec is known by its full text, labels included. All that begin with `[sig-network]` are taken but those about network policies, which Kuryr
does not have yet. `exceptions.toml` lists what is left out, each with one of the reasons below, where a Conformance spec may not stand, and what needs
more nodes than the other specs. An entry that fits no spec, or another number of specs than it says, is an error: a new version of the suite cannot slip
anything past.
"""
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from kuryrlab.failure import Failure
from kuryrlab.settings import MAXIMUM_NODES

EXCEPTIONS = Path(__file__).resolve().parent.parent / "exceptions.toml"
GROUP = "[sig-network] "
POLICIES = re.compile(r"\[sig-network\] (?:Netpol|NetworkPolicy|ClusterNetworkPolicy)\b")
CONFORMANCE, SERIAL = "[Conformance]", ("[Serial]", "[Disruptive]")
# What takes minutes, and what takes ten of them: five rolling updates with a minute for each pod, ten thousand Services one after the other.
SLOW, SLOWEST = "[Slow]", ("during rolling update", "maximum number of services per cluster")
# So many nodes are enough for all specs but those of which the list says how many they need.
NODES = 2
# The reasons that an exception may have, by the word in the list.
REASONS = {
    "cloud": "needs a cloud provider",
    "kernel": "the kernel lacks what it needs",
    "program": "looks into another program that does not run here (kube-proxy, an API server that is a pod)",
}


@dataclass(frozen=True)
class LeftOut:
    """An entry of the list: which specs, and why."""

    specs: tuple[str, ...]
    reason: str
    why: str


def is_conformance(spec: str) -> bool:
    """Tell whether a spec is one that every cluster has to pass."""
    return CONFORMANCE in spec


def turn(spec: str) -> tuple[int, int]:
    """Return what specs are ordered by: Conformance first, and what takes long last, so that a run that is ended early has run as many as can be."""
    return int(not is_conformance(spec)), length(spec)


def length(spec: str) -> int:
    """Return 0 for a spec that takes seconds, 1 for one that takes minutes, 2 for one that takes ten of them."""
    return 2 if any(words in spec for words in SLOWEST) else int(SLOW in spec)


def runs_alone(spec: str) -> bool:
    """Tell whether nothing else may run beside a spec."""
    return any(word in spec for word in SERIAL)


def of_report(report: list) -> list[str]:
    """Return the texts of all specs that a report of the suite knows, run or not, in its order."""
    specs = [spec for suite in report for spec in suite.get("SpecReports") or [] if spec.get("LeafNodeType") == "It"]
    return [text(spec) for spec in specs]


def text(spec: dict) -> str:
    """Return a spec's full text, as the suite's options for choosing specs see it."""
    return " ".join([*(spec.get("ContainerHierarchyTexts") or []), spec["LeafNodeText"]])


def taken(every: list[str]) -> list[str]:
    """Return the specs that are to pass or to be excepted."""
    return sorted(one for one in every if one.startswith(GROUP) and not POLICIES.match(one))


def about_policies(every: list[str]) -> list[str]:
    """Return the specs of the group that are not taken."""
    return sorted(one for one in every if one.startswith(GROUP) and POLICIES.match(one))


def exceptions(listed: str, specs: list[str]) -> list[LeftOut]:
    """Read the list and find the specs of each exception.

    Raises Failure with all that is wrong with the list.
    """
    return read(listed, specs)[0]


def larger(listed: str, specs: list[str]) -> dict[str, int]:
    """Read the list and return how many nodes specs need that need more than the others.

    Raises Failure with all that is wrong with the list.
    """
    return read(listed, specs)[1]


def read(listed: str, specs: list[str]) -> tuple[list[LeftOut], dict[str, int]]:
    """Return what is left out, and how many nodes specs need."""
    entries, problems = tomllib.loads(listed), []
    left_out = [excepted(entry, specs, problems) for entry in entries.get("exception", [])]
    nodes = [needing(entry, specs, problems) for entry in entries.get("larger", [])]
    every = [one for entry in left_out for one in entry.specs] + [one for entry in nodes for one in entry]
    problems += [f"{one!r} is listed twice" for one in dict.fromkeys(every) if every.count(one) > 1]
    if problems:
        raise Failure("exceptions.toml: " + "; ".join(problems), fix="correct the entries; e2e.test --list-tests shows the specs")
    return left_out, {one: number for entry in nodes for one, number in entry.items()}


def excepted(entry: dict, specs: list[str], problems: list[str]) -> LeftOut:
    """Return an exception, and add what is wrong with it to the problems."""
    found, reason = fitting(entry, specs, problems), entry.get("reason")
    if reason not in REASONS:
        problems.append(f"{entry.get('contains')!r}: the reason {reason!r} is none of {', '.join(REASONS)}")
    problems += [f"{one!r} is a Conformance spec" for one in found if is_conformance(one)]
    return LeftOut(found, reason, entry.get("why"))


def needing(entry: dict, specs: list[str], problems: list[str]) -> dict[str, int]:
    """Return how many nodes the specs of an entry need, and add what is wrong with it to the problems."""
    found, nodes = fitting(entry, specs, problems), entry.get("nodes")
    if not isinstance(nodes, int) or not NODES < nodes <= MAXIMUM_NODES:
        problems.append(f"{entry.get('contains')!r}: {nodes!r} nodes are not more than {NODES} and at most {MAXIMUM_NODES}")
    return dict.fromkeys(found, nodes)


def fitting(entry: dict, specs: list[str], problems: list[str]) -> tuple[str, ...]:
    """Return the specs of an entry of either kind, and add what is wrong with it to the problems."""
    pattern, why, wanted = (entry.get(key) for key in ("contains", "why", "specs"))
    found = tuple(one for one in specs if pattern and pattern in one)
    if not why:
        problems.append(f"{pattern!r}: no `why`")
    if len(found) != wanted:
        problems.append(f"{pattern!r} is in {len(found)} specs, and `specs` says {wanted}")
    return found


def focus(chosen: list[str]) -> list[str]:
    """Return the options by which the suite runs these specs and no others."""
    return [f"--ginkgo.focus={re.escape(one)}$" for one in chosen]
