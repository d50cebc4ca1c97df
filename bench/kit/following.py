"""Figures about Services as Markdown. Every part may be missing: each can be measured alone."""
from collections.abc import Iterator

from harness.expect import percentile

MARKS = ("<!-- written by bench/services: begin -->", "<!-- written by bench/services: end -->")
KURYR, PROXY, OCTAVIA = "kuryr", "kube-proxy", "octavia"
# What it should be, by the figures that the project set itself: seconds, a ratio, MiB of an agent and of its maps.
FOLLOWED, RATIO, AGENT, MAPS = 0.1, 1.1, 20, 32
BALANCED = {"": "a Service of two ports and ten endpoints, until all of it is ACTIVE", "more_": "ten endpoints more"}
WAYS = {"kuryr": "Kuryr", "stepwise": "one call after the other"}


def markdown(result: dict) -> str:
    """Return all tables."""
    parts = ["![Services: following, connecting, load balancers](benchmarks-services.svg)", machines(result), changes(result), connects(result), memory(result), balancers(result),
             losses(result)]
    return "\n\n".join(part for part in parts if part)


def machines(result: dict) -> str:
    """Tell on what each part was measured."""
    lines = []
    for part, samples in result.items():
        found, settings = samples["machine"], samples["settings"]
        services = f"; each Service has both families and {settings['endpoints']} endpoints in each" if "connects" in samples else ""
        lines.append(f"- {part}, {found['date']}: {found['nodes']} nodes, {found['cores']} cores for everything, kernel {found['kernel']}, load average {found['load'][0]:.1f} before "
                     f"and {found['load'][1]:.1f} after{services}.")
    return "\n".join(lines)


def changes(result: dict) -> str:
    """Tell how soon clients follow."""
    followed = {part: samples for part, samples in result.items() if samples.get("busy")}
    if not followed:
        return ""
    lines = ["### From a written EndpointSlice to the first connection", "",
             "From the API server's answer until a client on the slowest node is connected; its Service had no endpoint before, or was created then, after its EndpointSlice. kube-proxy: one client, on the only machine on which it runs.", "",
             "| by | at Services | meanwhile | n | p50 | p99 | max |", "|---|---|---|---|---|---|---|"]
    for part, samples in followed.items():
        last = samples["settings"]["sizes"][-1]
        churn = f"{samples['churn']:.0f} other slices change per second"
        for what, values in (("nothing else changes", samples["quiet"]), (churn, samples["busy"]), (f"a new Service, {churn}", samples["created"])):
            lines.append(f"| {part} | {last:,} | {what} | {len(values)} | {spread(values, 1e3, 'ms')} |")
    return "\n".join(lines)


def spread(values: list[float], scale: float, unit: str) -> str:
    """Return median, 99th percentile and greatest value as cells."""
    if not values:
        return "- | - | -"
    return " | ".join(f"{scale * value:.1f} {unit}" for value in (percentile(values, 0.5), percentile(values, 0.99), max(values)))


def connects(result: dict) -> str:
    """Compare connections by a Service with direct ones of the same run, in turns."""
    connected = {part: samples["connects"] for part, samples in result.items() if samples.get("connects")}
    if not connected:
        return ""
    lines = ["### Connecting", "",
             "By TCP to the control plane, over a link of one kind; direct connections and those through the Service take turns. The client is Python, whose part is in all of them. "
             "Direct: by the same process, whose cgroup has Kuryr's programs; without: by one in the same network that has neither. kube-proxy: from a place without Kuryr, with its rules.", "",
             "| by | Services | family | without | direct p50 | by the Service p50 | ratio p50 | ratio p99 |", "|---|---|---|---|---|---|---|---|"]
    for part, sizes in connected.items():
        for size, found in sizes.items():
            for family in (4, 6):
                direct, through, bare = found[f"direct{family}"], found[f"service{family}"], found.get(f"bare{family}")
                without = f"{1e6 * percentile(bare, 0.5):.1f} µs" if bare else "-"
                lines.append(f"| {part} | {int(size):,} | IPv{family} | {without} | {1e6 * percentile(direct, 0.5):.1f} µs | {1e6 * percentile(through, 0.5):.1f} µs | "
                             f"{ratio(direct, through, 0.5):.2f} | {ratio(direct, through, 0.99):.2f} |")
    return "\n".join(lines)


def ratio(direct: list[float], through: list[float], share: float) -> float:
    return percentile(through, share) / percentile(direct, share)


def memory(result: dict) -> str:
    """Tell what it takes."""
    lines = []
    if KURYR in result:
        samples = result[KURYR]
        last, endpoints = samples["settings"]["sizes"][-1], samples["settings"]["endpoints"]
        lines += ["### Memory", "", f"RSS of an agent, and what the kernel accounts for the maps that it has open (`memlock` in `/proc/PID/fdinfo`); full: {last:,} Services of both "
                  f"families, {last * endpoints:,} endpoints in each family.", "", "| node | RSS before | RSS full | RSS for Services | RSS after churn | RSS a minute after a start | most of that start | maps before | maps full |", "|---|---|---|---|---|---|---|---|---|"]
        for node, full in samples["full"].items():
            empty, after, started = (samples[when][node] for when in ("empty", "after", "started"))
            sizes = [empty["now"], full["now"], full["now"] - empty["now"], after["now"], started["now"], started["most"], total(empty), total(full)]
            lines.append(f"| {node} | {' | '.join(f'{size:.1f} MiB' for size in sizes)} |")
        lines += ["", "| map (greatest five, first node) | memory full |", "|---|---|"]
        first = next(iter(samples["full"].values()))
        for one in sorted(first["maps"], key=lambda one: -one["mib"])[:5]:
            lines.append(f"| {one['name']} (at most {one['max']:,}) | {one['mib']:.1f} MiB |")
    if PROXY in result:
        samples = result[PROXY]
        began = ", ".join(f"{seconds:.1f} s at {int(size):,}" for size, seconds in samples["began"].items())
        lines += ["", f"kube-proxy at the same Services: RSS {samples['memory']['now']:.0f} MiB, at most {samples['memory']['most']:.0f} MiB, without the kernel's rules. From its start until it serves: {began}."]
    return "\n".join(lines).strip()


def total(found: dict) -> float:
    return sum(one["mib"] for one in found["maps"])


def balancers(result: dict) -> str:
    """Compare load balancers that Kuryr has made with those made step by step."""
    if OCTAVIA not in result:
        return ""
    lines = ["### Load balancers", "", "By provider ovn, from the API server's answer, or the first call to Octavia, until the load balancer is ACTIVE with everything; both ways take turns. Step by step: as "
             "upstream's controller makes them, which waits before each call until the load balancer is ACTIVE again; it looks once a second, here it is looked every 0.2 s.", "",
             "| what | by | n | changes of Octavia | p50 | max |", "|---|---|---|---|---|---|"]
    for prefix, what in BALANCED.items():
        for way, name in WAYS.items():
            found = result[OCTAVIA][way]
            seconds, made = [one[f"{prefix}seconds"] for one in found], sorted({one[f"{prefix}changes"] for one in found})
            lines.append(f"| {what} | {name} | {len(found)} | {' or '.join(map(str, made))} | {percentile(seconds, 0.5):.1f} s | {max(seconds):.1f} s |")
    return "\n".join(lines)


def losses(result: dict) -> str:
    """Tell where it is not what it should be."""
    lines = [f"- {part}: {failure}" for part, samples in result.items() for failure in samples["failures"]]
    if KURYR in result:
        lines += losses_of_kuryr(result[KURYR])
    lines += [f"- Not measured: {part}." for part in (KURYR, PROXY, OCTAVIA) if part not in result]
    return "\n".join(["### Losses", "", "Against what was aimed at: 100 ms, 1.1 times, 20 MiB and 32 MiB.", "", *(lines or ["None."])])


def losses_of_kuryr(samples: dict) -> list[str]:
    """Hold Kuryr against what was aimed at."""
    lines, busy, created = [], samples["busy"], samples["created"]
    if busy and percentile(busy, 0.99) > FOLLOWED:
        lines.append(f"- p99 of following under churn is {1e3 * percentile(busy, 0.99):.0f} ms, not {1e3 * FOLLOWED:.0f} ms.")
    if created and percentile(created, 0.99) > FOLLOWED:
        lines.append(f"- p99 of a new Service under churn is {1e3 * percentile(created, 0.99):.0f} ms, not {1e3 * FOLLOWED:.0f} ms.")
    for size, found in samples["connects"].items():
        for family in (4, 6):
            by = ratio(found[f"direct{family}"], found[f"service{family}"], 0.5)
            if by > RATIO:
                lines.append(f"- At {int(size):,} Services connecting by IPv{family} takes {by:.2f} times a direct connection, not {RATIO}.")
    for node, full in samples["full"].items():
        if full["now"] > AGENT:
            without = samples["empty"][node]["now"]
            lines.append(f"- The agent of {node} holds {full['now']:.0f} MiB, not {AGENT} MiB; without Services it holds {without:.0f}.")
        if total(full) > MAPS:
            lines.append(f"- The maps of {node} take {total(full):.0f} MiB, not {MAPS} MiB.")
    return lines


def rows(result: dict) -> Iterator[tuple[str, str, list[float]]]:
    """Yield what the picture shows: title, whose it is, milliseconds."""
    for part, samples in result.items():
        if samples.get("busy"):
            yield f"first connection under churn: {part}", part, scaled(samples["busy"])
    sizes = sorted({int(size) for samples in result.values() for size in samples.get("connects", {})})
    for size in sizes:
        for part, samples in result.items():
            found = {int(name): values for name, values in samples.get("connects", {}).items()}.get(size)
            if found:
                yield f"connecting directly, {size:,} Services: {part}", "direct", scaled(found["direct4"])
                yield f"connecting by a Service of {size:,}: {part}", part, scaled(found["service4"])
    for prefix, what in BALANCED.items() if OCTAVIA in result else ():
        for way, name in WAYS.items():
            yield f"{'load balancer' if not prefix else what}: {name}", way, scaled([one[f"{prefix}seconds"] for one in result[OCTAVIA][way]])


def scaled(values: list[float]) -> list[float]:
    """Return milliseconds of seconds, for a logarithmic scale: a client may be there before the API server's answer is."""
    return [max(1e3 * value, 0.01) for value in values]
