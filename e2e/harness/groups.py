"""Security groups that pods get by Kuryr's configuration, as a scenario wants them."""
from .expect import until
from .scenario import World

FILL_SECONDS = 240


def one_port_for_pods(world: World, name: str, port: int) -> str:
    """Make a group that admits one TCP port, have Kuryr give it to pods, and return its id; taken back at the end of the scenario."""
    rules = [{"direction": "egress", "ethertype": e} for e in ("IPv4", "IPv6")]
    rules += [{"direction": "ingress", "ethertype": e, "protocol": "tcp", "port_range_min": port, "port_range_max": port} for e in ("IPv4", "IPv6")]
    group = world.cloud.create_group(name, rules)["id"]
    world.finally_do(lambda: take_back(world, group))
    world.kuryr.configure("controller", neutron_defaults={"pod_security_groups": group})
    world.kuryr.restart("controller")
    return group


def wait_for_ports(world: World, group: str, count: int = 3) -> None:
    """Wait until every node has so many ready ports with a group."""
    for node in world.lab.nodes:
        until(f"{node} has ready ports with the group", lambda node=node: len(ready_with(world, node, group)) >= count, FILL_SECONDS,
              why=lambda node=node: world.kuryr.describe(node))


def ready_with(world: World, node: str, group: str) -> list[str]:
    """Return the ready ports of a node whose class has the group."""
    found = world.kuryr.node(node)
    classes = {name for name, entry in (found["spec"].get("classes") or {}).items() if group in entry["securityGroups"]}
    ports = found["spec"].get("ports") or {}
    return [port for port in (found["status"].get("ready") or {}) if ports.get(port, {}).get("class") in classes]


def take_back(world: World, group: str) -> None:
    """Give the pods their ordinary groups again, and delete the group when no port has it."""
    world.remove_namespace()
    world.kuryr.restore()
    until("no port has the group", lambda: not [p for p in world.our_ports() if group in p["security_groups"]], 240)
    world.cloud.delete_group(group)
