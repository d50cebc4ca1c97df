"""The results as a part of docs/conformance.md."""
from collections import Counter

from . import specs
from .outcome import FAILED, PASSED, Outcome

BEGIN, END = "<!-- written by conformance/run: begin -->", "<!-- written by conformance/run: end -->"
# So much of what a spec said that did not pass.
SAID_CHARACTERS = 200
MARKS = {PASSED: "passed", FAILED: "**failed**", "skipped": "**skipped itself**", None: "**did not run**"}


def into(document: str, text: str) -> str:
    """Return the document with what stands between the marks replaced."""
    before, _, rest = document.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def markdown(run: dict, wanted: list[str], left_out: list[specs.LeftOut], policies: int, outcomes: dict[str, Outcome]) -> str:
    """Return the tables: the run, what is left out and why, each spec."""
    excepted = {one for entry in left_out for one in entry.specs}
    told = {name: one for name, one in outcomes.items() if name not in excepted}
    parts = [facts(run, told), counts(wanted, left_out, policies, outcomes), exceptions(left_out), each(run, wanted, left_out, outcomes)]
    return "\n\n".join(part for part in parts if part)


def facts(run: dict, outcomes: dict[str, Outcome]) -> str:
    """Tell what was run on what."""
    seconds = sum(one.seconds for one in outcomes.values())
    spent = f"{seconds / 60:.0f} minutes in specs, {run['parallel']} at a time" + (f", in {run['runs']} runs" if run.get("runs", 1) > 1 else "")
    elsewhere = Counter(nodes for one in outcomes.values() if (nodes := other_nodes(run, one)))
    others = "".join(f", {nodes} for {number} of the specs" for nodes, number in sorted(elsewhere.items()))
    return (f"{run['date']}: Kubernetes {run['kubernetes']} with its own suite of the same version; {run['nodes']} nodes ({run['kinds']}){others}, "
            f"{run['cores']} cores for everything, kernel {run['kernel']}; {spent}.")


def other_nodes(run: dict, one: Outcome) -> int | None:
    """Return how many nodes a spec ran on, unless they were as many as is said of all."""
    return one.nodes if one.nodes != run["nodes"] else None


def counts(wanted: list[str], left_out: list[specs.LeftOut], policies: int, outcomes: dict[str, Outcome]) -> str:
    """Tell how many passed."""
    excepted = {one for entry in left_out for one in entry.specs}
    conformance = [one for one in wanted if specs.is_conformance(one)]
    others = [one for one in wanted if not specs.is_conformance(one)]
    lines = ["| `[sig-network]` | specs | passed | failed | not run | left out, with a reason |", "|---|---|---|---|---|---|"]
    for name, group in (("Conformance", conformance), ("others", others)):
        ran = [outcomes[one] for one in group if one in outcomes and one not in excepted]
        passed = sum(one.state == PASSED for one in ran)
        beside = sum(one in excepted for one in group)
        lines.append(f"| {name} | {len(group)} | {passed} | {len(ran) - passed} | {len(group) - len(ran) - beside} | {beside} |")
    return "\n".join(lines) + f"\n\nNot counted: {policies} specs about network policies, which Kuryr does not have yet."


def exceptions(left_out: list[specs.LeftOut]) -> str:
    """List what is left out, by reason."""
    lines = ["| left out because it | specs | why |", "|---|---|---|"]
    for reason, meaning in specs.REASONS.items():
        for entry in left_out:
            if entry.reason == reason:
                lines.append(f"| {meaning} | {'<br>'.join(map(cell, entry.specs))} | {cell(entry.why)} |")
    return "\n".join(lines) if left_out else ""


def each(run: dict, wanted: list[str], left_out: list[specs.LeftOut], outcomes: dict[str, Outcome]) -> str:
    """List every spec that is to pass, Conformance first."""
    excepted = {one for entry in left_out for one in entry.specs}
    lines = ["| spec | | seconds |", "|---|---|---|"]
    for one in sorted((one for one in wanted if one not in excepted), key=lambda one: (not specs.is_conformance(one), one)):
        outcome = outcomes.get(one)
        remark = f", {outcome.remark}" if outcome and outcome.remark else ""
        remark += f", on {nodes} nodes" if outcome and (nodes := other_nodes(run, outcome)) else ""
        remark += f": {cell(outcome.said[:SAID_CHARACTERS])}" if outcome and outcome.said else ""
        seconds = f"{outcome.seconds:.0f}" if outcome else ""
        lines.append(f"| {cell(one.removeprefix(specs.GROUP))} | {MARKS[outcome.state if outcome else None]}{remark} | {seconds} |")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Return a text that may stand in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")
