"""What has to be true at the end: nothing leaked, nothing doubled, nothing lost."""
import json
import subprocess

from harness.expect import Unmet, expect, expect_equal
from harness.kuryr import POOL
from harness.openstack import POD_OWNER, Octavia
from harness.pods import Pod
from harness.scenario import World


def ports_are_pools_and_pods(world: World, pods: list[str]) -> bool:
    """Check that Neutron's ports are those of the pools and those of the running pods; fail with what differs."""
    neutron = {port["id"]: port for port in world.our_ports()}
    offered = {node: world.kuryr.node(node)["spec"].get("ports") or {} for node in world.lab.nodes}
    claims = {node: world.kuryr.claims(node) for node in world.lab.nodes}
    known = [port for ports in offered.values() for port in ports]
    expect_equal(len(known), len(set(known)), "ports that are offered to one node only")
    expect(neutron.keys() == set(known), f"in Neutron and known to no node: {sorted(neutron.keys() - set(known))}; known and not in Neutron: {sorted(set(known) - neutron.keys())}")
    for node in world.lab.nodes:
        expect(claims[node].keys() <= offered[node].keys(), f"claims of {node} on ports that are not offered: {sorted(claims[node].keys() - offered[node].keys())}")
        free = offered[node].keys() - claims[node].keys()
        if len(free) > POOL["ports_pool_max"]:
            raise Unmet(f"the pool of {node} has {len(free)} ports; {who_names(world, [offered[node][port] for port in free])}")
    claimed = {port: f"{claim['namespace']}/{claim['name']}" for of_node in claims.values() for port, claim in of_node.items()}
    expect_equal(sorted(claimed.values()), sorted(f"{world.namespace}/{name}" for name in pods), "pods with a claim")
    free = len(known) - len(claimed)
    expect_equal(len(neutron), free + len(pods), "Neutron's ports against pools and running pods")
    each_pod_has_its_port(world, pods, {pod: neutron[port] for port, pod in claimed.items()})
    return True


def who_names(world: World, ports: list[dict]) -> str:
    """Return what names the addresses of ports, so that they are not given to other pods."""
    there = [(kind, one) for kind in ("EndpointSlice", "KuryrLoadBalancer") for one in world.kube.objects(kind)]
    there += [(f"member, {one['provisioning_status']}", one) for one in members(world)]
    addresses = [one["address"] for port in ports for one in port["addresses"]]
    # With its quotation marks: an address may be the beginning of another.
    found = {address: [what for what, one in there if json.dumps(address) in json.dumps(one)] for address in addresses}
    return f"of their addresses are named: {({address: who for address, who in found.items() if who}) or 'none'}"


def members(world: World) -> list[dict]:
    """Return Octavia's members, if there is an Octavia."""
    if world.lab.settings.options.ml2 != "ovn":
        return []
    octavia = Octavia(world.lab)
    pools = [pool["id"] for pool in octavia.call("GET", "/pools")["pools"]]
    return [member for pool in pools for member in octavia.call("GET", f"/pools/{pool}/members")["members"]]


def each_pod_has_its_port(world: World, pods: list[str], ports: dict[str, dict]) -> None:
    """Check that the addresses of each pod are those of the port that it has a claim on."""
    for name in pods:
        pod = Pod(world.lab, world.kube, world.namespace, name)
        expect_equal(sorted(pod.addresses), sorted(ip["ip_address"] for ip in ports[pod.reference]["fixed_ips"]), f"addresses of {name}")


def pods_reach_each_other(world: World, pods: list[str]) -> bool:
    """Check that each pod is reached by the next one, in both families; fail with the pairs that are not, and what is known of them."""
    here = [Pod(world.lab, world.kube, world.namespace, name) for name in pods]
    failures = []
    for source, target in zip(here, here[1:] + here[:1]):
        for address in target.addresses:
            try:
                source.get(address)
            except OSError as error:
                neighbours = subprocess.run(["nsenter", f"--net={source.netns}", "ip", "neigh"], capture_output=True, text=True, timeout=10, check=False).stdout.split("\n")
                failures.append(f"{source.name} ({source.node}) -> {target.name} ({target.node}) at {address}: {error}; its port is {target.port(world.cloud)['status']}; {'; '.join(neighbours)}")
    expect(not failures, f"{len(failures)} of {2 * len(here)}: " + "\n".join(failures[:6]))
    return True


def nothing_is_left(world: World) -> bool:
    """Check that only the pools are there; fail with what is left."""
    expect(ports_are_pools_and_pods(world, []), "pools")
    strays = [port["id"] for port in world.cloud.ports(project_id=world.cloud.project, device_owner=POD_OWNER) if not port["tags"]]
    expect(not strays, f"ports without tags: {strays}")
    for node in world.lab.nodes:
        ends = [line.split(":")[1].split("@")[0].strip() for line in world.lab.on_node(node, ["ip", "-o", "link"]).splitlines()]
        left = [name for name in ends if name.startswith("krp")]
        expect(not left, f"links of pods on {node}: {left}")
    for node in filter(world.lab.nested, world.lab.nodes):
        on_trunk, known = set(world.cloud.subports(world.lab.trunk(node))), set(world.kuryr.node(node)["spec"].get("ports") or {})
        expect(on_trunk == known, f"the trunk of {node} has {sorted(on_trunk - known)} too much and lacks {sorted(known - on_trunk)}")
    return True


class Journal:
    """The logs of Kuryr's processes since a moment, across their restarts."""

    def __init__(self, world: World):
        self.kuryr = world.kuryr
        self.begin = {name: (size(self.before(name)), size(self.kuryr.log_file(name))) for name in self.kuryr.everyone()}

    def before(self, name: str):
        """Return the file with what was logged before the last start."""
        return self.kuryr.log_file(name).with_suffix(".before.log")

    def lines(self, name: str) -> list[str]:
        """Return what a process has logged since."""
        old, now = self.begin[name]
        earlier = self.before(name).read_bytes() if self.before(name).exists() else b""
        # What the log had at the beginning is at the beginning of what was put away since.
        text = earlier[old:] + (self.kuryr.log_file(name).read_bytes() if self.kuryr.log_file(name).exists() else b"")
        return text[now:].decode(errors="replace").splitlines()

    def panics(self) -> list[str]:
        """Return the lines by which a process told that an invariant of its own was broken."""
        return [f"{name}: {line}" for name in self.kuryr.everyone() for line in self.lines(name) if "panicked at" in line]


def size(file) -> int:
    return file.stat().st_size if file.exists() else 0


def memory_mib(world: World) -> dict[str, int]:
    """Return the resident memory of Kuryr's processes."""
    found = {}
    for name in world.kuryr.everyone():
        with open(f"/proc/{world.lab.processes.pid(world.kuryr.process(name))}/status") as status:
            found[name] = next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024
    return found
