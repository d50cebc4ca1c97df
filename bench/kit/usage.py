"""What Kuryr's processes used, and what they say of themselves."""
import os
import re
from pathlib import Path

from kuryrlab.wire import request

CONTROLLER_METRICS, AGENT_METRICS = 9654, 9655
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def processes(kuryr) -> dict[str, dict]:
    """Return CPU seconds so far and memory in MiB, now and at most, of each of Kuryr's processes that runs."""
    found = {}
    for name in kuryr.everyone():
        pid = kuryr.lab.processes.pid(kuryr.process(name))
        if not pid:
            continue
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = {"cpu": (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), **memory(pid)}
    return found


def memory(pid: int) -> dict[str, float]:
    """Return the memory of a process in MiB, now and at most."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {"now": mib(status, "VmRSS"), "most": mib(status, "VmHWM")}


def maps(pid: int) -> list[dict]:
    """Return the eBPF maps that a process has open, each once: its name, how many entries fit, and what the kernel accounts for it in MiB."""
    found = {}
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            fields = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if "map_id" in fields:
            one = {name: int(fields[name]) for name in ("map_type", "key_size", "value_size", "max_entries", "memlock")}
            name = f"type {one['map_type']}, {one['key_size']} -> {one['value_size']} bytes"
            found[int(fields["map_id"])] = {"name": name, "max": one["max_entries"], "mib": one["memlock"] / (1 << 20)}
    return list(found.values())


def mib(status: dict, field: str) -> float:
    return int(status[field].split()[0]) / 1024


def metrics(kuryr, name: str) -> dict[tuple[str, str], float]:
    """Return the metrics of a process: (name, labels) to value; nothing if it does not run."""
    place, port = ("cp", CONTROLLER_METRICS) if name == "controller" else (name, AGENT_METRICS)
    try:
        text = request(kuryr.lab.settings.netns(place), "GET", f"http://127.0.0.1:{port}/metrics", timeout=10).body.decode()
    except OSError:
        return {}
    lines = filter(None, map(SAMPLE.match, text.splitlines()))
    return {(line[1], line[2] or ""): float(line[3]) for line in lines}


def agents(kuryr) -> dict[tuple[str, str], float]:
    """Return the metrics of all agents, summed."""
    total: dict[tuple[str, str], float] = {}
    for node in kuryr.lab.nodes:
        for key, value in metrics(kuryr, node).items():
            total[key] = total.get(key, 0) + value
    return total


def difference(before: dict, after: dict) -> dict:
    """Return what was added; a process that began anew counts from nothing."""
    return {key: value - before.get(key, 0) if value >= before.get(key, 0) else value for key, value in after.items()}


def ports_taken(added: dict) -> dict[str, int]:
    """Return where pods got their ports from: ready, waited, held."""
    found = {}
    for (name, labels), value in added.items():
        if name == "kuryr_agent_ports_taken_total":
            found[re.search(r'source="(\w+)"', labels)[1]] = int(value)
    return found


def stages(added: dict) -> dict[str, dict]:
    """Return the stages of ADD: number, mean in milliseconds, and the bound below which half of them, and 99 of 100, are."""
    found: dict[str, dict] = {}
    buckets: dict[str, list] = {}
    for (name, labels), value in added.items():
        if name.startswith("kuryr_agent_add_stage_seconds"):
            stage = re.search(r'stage="(\w+)"', labels)[1]
        elif name.startswith("kuryr_agent_request_seconds") and 'verb="ADD"' in labels and 'code="0"' in labels:
            stage = "all of it"
        else:
            continue
        entry = found.setdefault(stage, {})
        if name.endswith("_count"):
            entry["n"] = int(value)
        elif name.endswith("_sum"):
            entry["sum"] = value
        else:
            buckets.setdefault(stage, []).append((float(re.search(r'le="([^"]+)"', labels)[1].replace("+Inf", "inf")), value))
    for stage, entry in found.items():
        entry["mean_ms"] = 1000 * entry.pop("sum", 0) / max(1, entry.get("n", 0))
        for share in (50, 99):
            reached = [bound for bound, count in sorted(buckets.get(stage, [])) if count >= entry.get("n", 0) * share / 100]
            entry[f"p{share}_below_ms"] = 1000 * reached[0] if reached else None
    return found
