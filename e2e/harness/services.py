"""Who answers at a Service: asked again and again, each answer held against the address that was asked. And the network of ClusterIPs, where Octavia serves them."""
from kuryrlab import settings

from .clients import Client, Failed
from .expect import expect_equal, until
from .lab import Lab

ECHO_SERVICE_PORT = 7
# With two endpoints one of them is missed once in a million times.
TIMES = 20
# Generous: what the agent needs is measured elsewhere.
FOLLOWED_SECONDS = 45
# Several times what load balancers take to go.
GONE_SECONDS = 240


def address(spec: dict, family: int) -> str:
    """Return a Service's address of a family."""
    return next(ip for ip in spec["clusterIPs"] if (":" in ip) == (family == 6))


def asked_twice(client: Client, verb: str, **arguments):
    """Ask by a datagram, and once more if no answer comes: the switch may lose one (see `harness/traffic.py`); whoever is refused was told so."""
    try:
        return client.ask(verb, **arguments)
    except Failed as failed:
        if failed.how != "timeout":
            raise
        return client.ask(verb, **arguments)


def names(client: Client, verb: str, at: str, times: int = TIMES, port: int = ECHO_SERVICE_PORT) -> set:
    """Return who answered at a Service; every answer has to come from the Service's address.

    Verbs are `connected` and `send` for datagrams, by sockets that are connected or not, and `stream` for TCP.
    """
    ask = client.ask if verb == "stream" else lambda verb, **arguments: asked_twice(client, verb, **arguments)
    found = [ask(verb, address=at, port=port) for _ in range(times)]
    expect_equal({peer for peer, _ in found}, {at}, f"address from which {verb} was answered")
    return {name for _, name in found}


def reaches(client: Client, at: str, port: int, expected: set) -> None:
    """Wait until exactly these endpoints answer.

    Each family of a Service has an EndpointSlice of its own, and Kubernetes limits how many it writes a second: one may be behind the other.
    """
    until(f"{client.name} reaches {expected} at {at}", lambda: names(client, "connected", at, TIMES, port) == expected, FOLLOWED_SECONDS)


def families_of_host(lab: Lab, node: str) -> tuple:
    """Return the families by which processes of a node reach pods of other nodes: a virtual machine with a trunk does by IPv6 only, see lab/README.md."""
    return (4, 6) if not lab.nested(node) or lab.among_pods(node) else (6,)


def from_outside(lab: Lab, node: str, at: str) -> list:
    """Return the namespaces of machines that are no nodes, reach a node's address and can be answered by pods through it.

    The router translates what pods send in IPv4: it leads nobody to a virtual machine that is among them, and pods do not reach a virtual machine with
    a trunk, which is beyond it. The server is on the pods' network; its own packets come translated in IPv4, and as they are in IPv6.
    """
    if ":" in at:
        places = ("ext", "server")
    elif lab.among_pods(node):
        places = ("server",)
    else:
        places = () if lab.nested(node) else ("ext", "server")
    return [lab.netns(place) for place in places]


def service_network(world) -> dict[int, str]:
    """Make the network of ClusterIPs, on the pods' router, until the scenario ends; return the subnets' ids by family."""
    cloud, router, subnets = world.cloud, world.lab.facts["router"], {}
    network = cloud.call("POST", "/networks", {"network": {"name": "e2e-services"}})["network"]["id"]
    world.finally_do(lambda: remove_service_network(world, network, subnets))
    for family, prefix in ((4, settings.SERVICES4_CIDR), (6, settings.SERVICES6_CIDR)):
        subnet = {"network_id": network, "ip_version": family, "cidr": prefix, "enable_dhcp": False}
        # Kubernetes gives the first addresses away; the router takes the last one.
        subnet["gateway_ip"] = {4: prefix.replace(".0.0/16", ".255.254"), 6: prefix.replace("/112", "fffe")}[family]
        subnets[family] = cloud.call("POST", "/subnets", {"subnet": subnet})["subnet"]["id"]
        cloud.call("PUT", f"/routers/{router}/add_router_interface", {"subnet_id": subnets[family]})
    return subnets


def remove_service_network(world, network: str, subnets: dict[int, str]) -> None:
    """Delete the scenario's Services, whose load balancers have addresses there, and then the network."""
    for found in world.kube.objects("Service", world.namespace):
        world.kube.delete("Service", found["metadata"]["name"], world.namespace)

    def is_gone() -> bool:
        # Refused as long as anything has an address there.
        for subnet in subnets.values():
            world.cloud.call("PUT", f"/routers/{world.lab.facts['router']}/remove_router_interface", {"subnet_id": subnet}, accept=(404,))
        world.cloud.call("DELETE", f"/networks/{network}", accept=(404,))
        return True
    until("the network of ClusterIPs is gone", is_gone, GONE_SECONDS, 1)
