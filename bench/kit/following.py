"""Figures about Services as Markdown."""
from harness.expect import percentile

MARKS = ("<!-- written by bench/services: begin -->", "<!-- written by bench/services: end -->")
# What it should be, by the figures that the project set itself: seconds, a ratio, MiB of an agent and of its maps.
FOLLOWED, RATIO, AGENT, MAPS = 0.1, 1.1, 20, 32


def markdown(result: dict) -> str:
    """Return all tables."""
    return "\n\n".join([machine(result), changes(result), connects(result), memory(result), losses(result)])


def machine(result: dict) -> str:
    """Tell on what it was measured."""
    found, settings = result["machine"], result["settings"]
    return (f"{found['date']}: {found['nodes']} nodes, {found['cores']} cores for everything, kernel {found['kernel']}, load average {found['load'][0]:.1f} before and "
            f"{found['load'][1]:.1f} after; each Service has both families and {settings['endpoints']} endpoints in each.")


def changes(result: dict) -> str:
    """Tell how soon clients follow."""
    last = result["settings"]["sizes"][-1]
    lines = ["### From a written EndpointSlice to the first connection", "",
             "From the API server's answer until a client on the slowest node is connected; its Service had no endpoint before.", "",
             f"| at {last:,} Services | n | p50 | p99 | max |", "|---|---|---|---|---|"]
    for what, values in (("nothing else changes", result["quiet"]), (f"{result['churn']:.0f} other slices change per second", result["busy"])):
        lines.append(f"| {what} | {len(values)} | {spread(values, 1e3, 'ms')} |")
    return "\n".join(lines)


def spread(values: list[float], scale: float, unit: str) -> str:
    """Return median, 99th percentile and greatest value as cells."""
    if not values:
        return "- | - | -"
    return " | ".join(f"{scale * value:.1f} {unit}" for value in (percentile(values, 0.5), percentile(values, 0.99), max(values)))


def connects(result: dict) -> str:
    """Compare connections by a Service with direct ones of the same run, in turns."""
    lines = ["### Connecting", "", "By TCP, from a process of a node to the control plane; direct connections and those through the Service take turns. The client is Python, whose part is in both.", "",
             "| Services | family | direct p50 | by the Service p50 | ratio p50 | ratio p99 |", "|---|---|---|---|---|---|"]
    for size, found in result["connects"].items():
        for family in (4, 6):
            direct, through = found[f"direct{family}"], found[f"service{family}"]
            p50, p99 = ratio(direct, through, 0.5), ratio(direct, through, 0.99)
            lines.append(f"| {int(size):,} | IPv{family} | {1e6 * percentile(direct, 0.5):.1f} µs | {1e6 * percentile(through, 0.5):.1f} µs | {p50:.2f} | {p99:.2f} |")
    return "\n".join(lines)


def ratio(direct: list[float], through: list[float], share: float) -> float:
    return percentile(through, share) / percentile(direct, share)


def memory(result: dict) -> str:
    """Tell what it takes."""
    settings = result["settings"]
    last = settings["sizes"][-1]
    lines = ["### Memory", "", f"RSS of an agent, and what the kernel accounts for the maps that it has open (`memlock` in `/proc/PID/fdinfo`); full: {last:,} Services of both families, "
             f"{last * settings['endpoints']:,} endpoints.", "", "| node | RSS before | RSS full | most | RSS after churn | maps before | maps full |", "|---|---|---|---|---|---|---|"]
    for node, full in result["full"].items():
        empty, after = result["empty"][node], result["after"][node]
        lines.append(f"| {node} | {empty['now']:.1f} MiB | {full['now']:.1f} MiB | {after['most']:.1f} MiB | {after['now']:.1f} MiB | {total(empty):.1f} MiB | {total(full):.1f} MiB |")
    lines += ["", "| map (greatest five, first node) | memory full |", "|---|---|"]
    first = next(iter(result["full"].values()))
    for one in sorted(first["maps"], key=lambda one: -one["mib"])[:5]:
        lines.append(f"| {one['name']} (at most {one['max']:,}) | {one['mib']:.1f} MiB |")
    return "\n".join(lines)


def total(found: dict) -> float:
    return sum(one["mib"] for one in found["maps"])


def losses(result: dict) -> str:
    """Tell where it is not what it should be."""
    lines = [f"- {failure}" for failure in result["failures"]]
    busy = result["busy"]
    if busy and percentile(busy, 0.99) > FOLLOWED:
        lines.append(f"- p99 of following under churn is {1e3 * percentile(busy, 0.99):.0f} ms, not {1e3 * FOLLOWED:.0f} ms.")
    for size, found in result["connects"].items():
        for family in (4, 6):
            by = ratio(found[f"direct{family}"], found[f"service{family}"], 0.5)
            if by > RATIO:
                lines.append(f"- At {int(size):,} Services connecting by IPv{family} takes {by:.2f} times a direct connection, not {RATIO}.")
    for node, full in result["full"].items():
        if full["now"] > AGENT:
            lines.append(f"- The agent of {node} holds {full['now']:.0f} MiB, not {AGENT} MiB.")
        if total(full) > MAPS:
            lines.append(f"- The maps of {node} take {total(full):.0f} MiB, not {MAPS} MiB.")
    lines.append("- Not compared with kube-proxy.")
    return "\n".join(["### Losses", "", "Against what was aimed at: 100 ms, 1.1 times, 20 MiB and 32 MiB.", "", *lines])
