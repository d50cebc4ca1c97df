"""Figures of runs as Markdown, between two marks of a document."""
import re

from harness.expect import percentile

from . import phases

BEGIN, END = "<!-- written by bench/run: begin -->", "<!-- written by bench/run: end -->"


def into(document: str, text: str, marks: tuple[str, str] = (BEGIN, END)) -> str:
    """Return the document with what stands between the marks replaced."""
    begin, end = marks
    before, _, rest = document.partition(begin)
    after = rest.partition(end)[2]
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def markdown(results: list[dict]) -> str:
    """Return all tables."""
    gone = [line for result in results for line in left_out(result)]
    parts = ["![CNI ADD and pod start against ptp](benchmarks.svg)", machines(results), pods(results), starts(results), neutron(results), hits(results),
             *(part for result in results for part in of_kuryr(result)), network(results), traces(results), losses(results, gone)]
    return "\n\n".join(part for part in parts if part)


def machines(results: list[dict]) -> str:
    """Tell on what it was measured."""
    lines = []
    for result in results:
        machine, settings = result["machine"], result["settings"]
        modes = sorted({series["mode"] for series in result["series"].values()})
        lines.append(f"{machine['date']}: {machine['nodes']} nodes ({', '.join(modes)}), {machine['cores']} cores for everything, kernel {numbers(machine['kernel'])}, "
                     f"load average {machine['load'][0]:.1f} before and {machine['load'][1]:.1f} after; {settings['rounds']} rounds, "
                     f"{settings['serial']} pods one by one and bursts of {' and '.join(map(str, settings['bursts']))} per round.")
    return "\n".join(lines)


def numbers(kernel: str) -> str:
    """Return major, minor and patch of a kernel's name; what follows is the machine's own business."""
    return re.match(r"\d+(\.\d+){0,2}", kernel)[0]


def left_out(result: dict) -> list[str]:
    """Take calls of the runtime out of a result that are more than the pods they are said to be of, and tell which.

    Runs of before calls were told by pod counted what the runtime repeats for pods that were gone.
    """
    said, rounds, settings = [], result["settings"]["rounds"], result["settings"]
    for name, series in result["series"].items():
        pods = {"serial": rounds * settings["serial"], "cold": len(series.get("cold_running", []))}
        pods |= {f"burst{size}": rounds * size for size in settings["bursts"]}
        for part, most in pods.items():
            for field in (f"{part}_add", f"{part}_del"):
                if len(series.get(field, [])) > most:
                    said.append(f"- {name}: `{field}` is left out: {len(series.pop(field))} calls for {most} pods.")
    return said


def pods(results: list[dict]) -> str:
    """Compare the plugins, and each with ptp on the same nodes in the same run."""
    lines = ["### Pods", "", "| what | plugin | n | p50 | p99 | max | p50 to ptp |", "|---|---|---|---|---|---|---|"]
    sizes = sorted({size for result in results for size in result["settings"]["bursts"]})
    rows = [("CNI ADD, one by one", "serial_add", "ms")]
    rows += [(f"CNI ADD, burst of {size}", f"burst{size}_add", "ms") for size in sizes]
    rows += [("CNI ADD, nothing ready", "cold_add", "ms"), ("CNI DEL, one by one", "serial_del", "ms")]
    rows += [(f"CNI DEL, burst of {size}", f"burst{size}_del", "ms") for size in sizes]
    rows += [("pod create to Running, one by one", "serial_running", "s")]
    rows += [(f"pod create to Running, burst of {size}", f"burst{size}_running", "s") for size in sizes]
    rows += [(f"all {size} Running", f"burst{size}_all", "s") for size in sizes]
    rows += [("pod create to Running, nothing ready", "cold_running", "s")]
    for title, field, unit in rows:
        for result in results:
            for name, series in result["series"].items():
                values = series.get(field)
                if values:
                    reference = result["series"].get(f"ptp on {series['mode']}", {}).get(field)
                    ratio = f"{percentile(values, 0.5) / percentile(reference, 0.5):.2f}" if reference else "-"
                    lines.append(f"| {title} | {name} | {len(values)} | {percentile(values, 0.5):.2f} {unit} | {percentile(values, 0.99):.2f} {unit} | {max(values):.2f} {unit} | {ratio} |")
    return "\n".join(lines)


def starts(results: list[dict]) -> str:
    """Tell where the time of a pod's start goes."""
    lines = ["### Where the time of a pod's start goes", "", "Pods one by one, the median of each part; CNI is at work in one of them only.", "",
             f"| plugin | {' | '.join(phases.PARTS)} |", f"|---|{'---|' * len(phases.PARTS)}"]
    for result in results:
        for name, series in result["series"].items():
            parts = series.get("parts", {})
            if all(parts.get(part) for part in phases.PARTS):
                lines.append(f"| {name} | {' | '.join(f'{percentile(parts[part], 0.5):.1f} ms' for part in phases.PARTS)} |")
    return "\n".join(lines) if len(lines) > 6 else ""


def neutron(results: list[dict]) -> str:
    """Tell what bare calls take."""
    lines = ["### Bare Neutron", "", "What a plugin waits for that makes a port for each pod.", "", "| call | n | p50 | max |", "|---|---|---|---|"]
    titles = {"create": "make one port", "bulk_port": "make ten by one request, each", "delete": "delete one"}
    for key, title in titles.items():
        values = [value for result in results for value in result["neutron"].get(key, [])]
        if values:
            lines.append(f"| {title} | {len(values)} | {percentile(values, 0.5) * 1000:.0f} ms | {max(values) * 1000:.0f} ms |")
    return "\n".join(lines) if len(lines) > 6 else ""


def hits(results: list[dict]) -> str:
    """Tell how many pods found a port ready, and what each pod cost."""
    lines = ["### Ready ports, calls, and what they cost", "",
             "Calls in the time from the first pod until the pools are full again; reads of the state are among them. Seconds of the processor are those of the controller "
             "and of all agents together.", "",
             "| part | pods | found a port ready | Neutron calls a pod | Kubernetes calls a pod: controller, agents | CPU a pod: controller, agents |", "|---|---|---|---|---|---|"]
    for result in results:
        for phase in result["kuryr"]["phases"]:
            pods, taken = max(1, phase["pods"]), phase["taken"]
            asked = taken.get("ready", 0) + taken.get("waited", 0)
            hit = f"{100 * taken.get('ready', 0) / asked:.1f} %" if asked else "-"
            calls = {who: sum(found.values()) for who, found in phase["kubernetes"].items()}
            cpu = phase["cpu"]
            agents = sum(used for name, used in cpu.items() if name != "controller")
            lines.append(f"| {phase['what']} | {phase['pods']} | {hit} | {sum(phase['neutron'].values()) / pods:.2f} | "
                         f"{calls.get('kuryr-controller', 0) / pods:.1f}, {calls.get('kuryr-daemon', 0) / pods:.1f} | "
                         f"{1000 * cpu.get('controller', 0) / pods:.0f} ms, {1000 * agents / pods:.0f} ms |")
    return "\n".join(lines)


def of_kuryr(result: dict) -> list[str]:
    """Tell where the time of an ADD goes and what memory Kuryr needs."""
    phases = result["kuryr"]["phases"]
    serial = [phase for phase in phases if phase["what"].startswith("one by one")]
    if not serial:
        return []
    lines = ["### Where the time of an ADD goes", "", "In the agent, pods one by one, the last round. The histogram tells bounds, not figures.", "",
             "| stage | n | mean | half below | 99 of 100 below |", "|---|---|---|---|---|"]
    for stage, found in serial[-1]["stages"].items():
        bounds = [f"{found[key]:g} ms" if found.get(key) else "-" for key in ("p50_below_ms", "p99_below_ms")]
        lines.append(f"| {stage} | {found.get('n', 0)} | {found['mean_ms']:.2f} ms | {' | '.join(bounds)} |")
    memory: dict[str, float] = {}
    for phase in phases:
        for name, found in phase["memory"].items():
            memory[name] = max(memory.get(name, 0), found["most"])
    told = ", ".join(f"{'controller' if name == 'controller' else f'agent of {name}'} {most:.0f} MiB" for name, most in sorted(memory.items()))
    return ["\n".join(lines), f"Memory at most: {told}."]


def network(results: list[dict]) -> str:
    """Compare the network of pods with that of their uplinks."""
    lines = ["### The network of pods", "", "Between two nodes: a TCP connection, and datagrams one after the other. The uplink's own: from the same namespace that the pod's traffic leaves through.", "",
             "| between | throughput p50 | to the uplink's | round trip p50 | p99 | to the uplink's |", "|---|---|---|---|---|---|"]
    for result in results:
        for mode, found in result["wire"].items():
            fast = {what: percentile(found[what]["megabits"], 0.5) for what in ("pods", "uplinks")}
            slow = {what: percentile(found[what]["round_trip"], 0.5) for what in ("pods", "uplinks")}
            for what in ("pods", "uplinks"):
                lines.append(f"| {what} on {mode} | {fast[what]:.0f} Mbit/s | {fast[what] / fast['uplinks']:.2f} | {slow[what] * 1e6:.0f} us | "
                             f"{percentile(found[what]['round_trip'], 0.99) * 1e6:.0f} us | {slow[what] / slow['uplinks']:.2f} |")
    return "\n".join(lines) if len(lines) > 6 else ""


def traces(results: list[dict]) -> str:
    """Tell what came of the recorded traces."""
    found = next((result["traces"] for result in results if result["traces"]), [])
    if not found:
        return ""
    lines = ["### Recorded traces", "",
             "`crates/planning/traces`, replayed against today's plans with a Neutron that takes 0.3 s for a port (`crates/planning/replay`).", "",
             "| trace | pools | pods | found a port ready | longest wait | calls to Neutron a pod |", "|---|---|---|---|---|---|"]
    for row in found:
        lines.append(f"| {row['trace']} | {row['pools']} | {row['pods']} | {row['ready_percent']:.1f} % | {row['longest_wait_seconds']:.1f} s | {row['calls_per_pod']:.2f} |")
    return "\n".join(lines)


def losses(results: list[dict], gone: list[str]) -> str:
    """Tell what failed, and where Kuryr is slower than ptp."""
    lines = []
    for result in results:
        for name, series in result["series"].items():
            if series["failed"]:
                lines.append(f"- {name}: {series['failed']} ADDs failed.")
            reference = result["series"].get(f"ptp on {series['mode']}")
            if series["plugin"] == "ptp" or not reference:
                continue
            for field, values in series.items():
                if isinstance(values, list) and values and reference.get(field):
                    for share, title in ((0.5, "p50"), (0.99, "p99")):
                        ratio = percentile(values, share) / percentile(reference[field], share)
                        if ratio > 1.05:
                            lines.append(f"- {name}: {title} of `{field}` is {ratio:.2f} times ptp's.")
        lines += [f"- {note}" for note in result["notes"]]
    return "\n".join(["### Losses", "", "Where it takes more than 5 % longer than `ptp`, and what failed.", "", *(lines + gone or ["None."])])
