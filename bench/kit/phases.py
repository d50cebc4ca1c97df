"""Where the time goes from a pod's creation until it runs: who is at work is told by the runtime's log and its calls of CNI."""
import re
from collections import defaultdict
from datetime import datetime

# Parts of a pod's start, each from the end of the one before.
PARTS = ("until ADD", "ADD", "until the sandbox runs", "until the container runs", "until that is told")
LINE = re.compile(r'^time="([^"]+)" level=info msg="(.*)"$')
SANDBOX = re.compile(r"^RunPodSandbox for .*?\bName:([^,]+),.*?\bNamespace:([^,]+),.* returns sandbox id \\\"(\w+)")
MADE = re.compile(r"^CreateContainer within sandbox \\\"(\w+)\\\" .* returns container id \\\"(\w+)")
STARTED = re.compile(r"^StartContainer for \\\"(\w+)\\\" returns successfully")


def seconds(time: str) -> float:
    """Return a time of the runtime's log, which has nanoseconds, in seconds since 1970."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", time).replace("Z", "+00:00")).timestamp()


def of_runtime(text: str, namespace: str) -> dict[str, dict[str, float]]:
    """Return when the sandboxes of a namespace's pods ran, and when their first containers did, by containerd's log."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    sandboxes, containers = {}, {}
    for line in text.splitlines():
        parts = LINE.match(line)
        if not parts:
            continue
        time, message = parts.groups()
        if sandbox := SANDBOX.match(message):
            if sandbox[2] == namespace:
                sandboxes[sandbox[3]] = sandbox[1]
                found[sandbox[1]]["sandbox"] = seconds(time)
        elif made := MADE.match(message):
            containers[made[2]] = sandboxes.get(made[1])
        elif (started := STARTED.match(message)) and containers.get(started[1]):
            found[containers[started[1]]].setdefault("container", seconds(time))
    return dict(found)


def of_pods(created: dict, running: dict, adds: dict, runtime: dict) -> dict[str, list[float]]:
    """Return milliseconds of each part, of the pods of which all is known; `adds`: begin and end."""
    parts: dict[str, list[float]] = {part: [] for part in PARTS}
    for name, begin in created.items():
        known = runtime.get(name, {})
        if name not in running or name not in adds or len(known) < 2:
            continue
        times = [begin, *adds[name], known["sandbox"], known["container"], running[name]]
        for part, before, after in zip(PARTS, times, times[1:]):
            parts[part].append(1000 * (after - before))
    return parts
