"""What became of each spec."""
import re
from dataclasses import asdict, dataclass

from . import specs

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
MESSAGE_CHARACTERS = 400


@dataclass
class Outcome:
    """How a spec ended: one of `PASSED`, `FAILED`, `SKIPPED` (by itself); what it said, if it did not pass; a remark of ours; how many nodes the lab had, where that was kept."""

    spec: str
    state: str
    seconds: float
    said: str = ""
    remark: str = ""
    nodes: int | None = None


def of_report(report: list, chosen: list[str], nodes: int | None = None) -> dict[str, Outcome]:
    """Return the outcomes of the chosen specs on so many nodes; those that the report does not tell of, or says nothing about, are missing."""
    found = {}
    for suite in report:
        for spec in suite.get("SpecReports") or []:
            name = specs.text(spec) if spec.get("LeafNodeType") == "It" else ""
            said = (spec.get("Failure") or {}).get("Message", "")
            # Specs that were not chosen are in the report, too, as skipped and without a word.
            if name in chosen and (spec["State"] != SKIPPED or said):
                state = spec["State"] if spec["State"] in (PASSED, SKIPPED) else FAILED
                found[name] = Outcome(name, state, spec.get("RunTime", 0) / 1e9, "" if state == PASSED else shortened(said or spec["State"]), nodes=nodes)
    return found


def shortened(said: str) -> str:
    """Return the beginning of a message on one line."""
    return re.sub(r"\s+", " ", said).strip()[:MESSAGE_CHARACTERS]


def as_json(outcomes: dict[str, Outcome]) -> list[dict]:
    """Return what can be written as JSON."""
    return [asdict(one) for one in outcomes.values()]


def from_json(listed: list[dict]) -> dict[str, Outcome]:
    """Return what was written."""
    return {one["spec"]: Outcome(**one) for one in listed}


def problems(wanted: list[str], left_out: list[specs.LeftOut], larger: dict[str, int], outcomes: dict[str, Outcome]) -> list[str]:
    """Return everything that keeps a run from being good: what did not pass, what skipped itself without being listed, what did not run.

    Of what did not run `larger` says whether more nodes are needed for it than for others.
    """
    excepted = {one for entry in left_out for one in entry.specs}
    told = []
    for one in wanted:
        outcome = outcomes.get(one)
        if one in excepted:
            continue
        if outcome is None:
            told.append(f"did not run: {one}" + (f": needs {larger[one]} nodes" if one in larger else ""))
        elif outcome.state != PASSED:
            told.append(f"{outcome.state}: {one}: {outcome.said}")
    return told
