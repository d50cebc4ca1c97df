"""What Octavia should have for Services without selector, from the Services and EndpointSlices alone; written from docs/services.md and sharing nothing with Kuryr."""

SHARED = "loadbalancer.openstack.org/load-balancer-id"
METHOD = "loadbalancer.openstack.org/lb-method"
INTERNAL = "service.beta.kubernetes.io/openstack-internal-load-balancer"
# Provider ovn keeps clients at their members by the algorithm.
DEFAULT_METHOD, AFFINE_METHOD = "SOURCE_IP_PORT", "SOURCE_IP"


def named(service):
    """Return the name of a Service's load balancer."""
    return f"{service['metadata']['namespace']}/{service['metadata']['name']}"


def annotation(service, name):
    """Return an annotation of a Service, or None."""
    return service["metadata"].get("annotations", {}).get(name)


def is_internal(service):
    """Tell whether a Service wants no floating IP."""
    return annotation(service, INTERNAL) == "true"


def places(services, balancers):
    """Return for each load balancer, by its id, the Services that are served there; and the Services whose own one is missing."""
    own = {found["name"]: found["id"] for found in balancers}
    served, missing = {found["id"]: [] for found in balancers}, []
    for service in services:
        place = annotation(service, SHARED) or own.get(named(service))
        if place in served:
            served[place].append(service)
        else:
            missing.append(named(service))
    return served, missing


def listeners(services, balancer, subnets, slices):
    """Return what should be on a load balancer: by protocol and port, as `shown` returns it."""
    vips = [balancer["vip_address"]] + [vip["ip_address"] for vip in balancer["additional_vips"]]
    families = {6 if ":" in vip else 4 for vip in vips}
    wanted = {}
    for service in services:
        is_guest, is_affine = balancer["name"] != named(service), service["spec"]["sessionAffinity"] == "ClientIP"
        said = {6 if family == "IPv6" else 4 for family in service["spec"]["ipFamilies"]}
        for port in service["spec"]["ports"]:
            members = members_of(port, [found for found in slices if found["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]], families & said, subnets)
            wanted[port["protocol"], port["port"]] = {
                "name": f"{named(service)}:{port['protocol']}:{port['port']}", "guest": is_guest, "pools": 1,
                "method": AFFINE_METHOD if is_affine else annotation(service, METHOD) or DEFAULT_METHOD, "sticky": False, "members": members}
    return wanted


def members_of(port, slices, families, subnets):
    """Return the members of a port: address, port, subnet, weight."""
    ready, last = set(), set()
    for found in slices:
        family = 6 if found["addressType"] == "IPv6" else 4
        numbers = [to["port"] for to in found["ports"] if to["name"] == port["name"] and to["protocol"] == port["protocol"]]
        if family not in families or not numbers:
            continue
        for endpoint in found["endpoints"] or []:
            conditions, members = endpoint["conditions"], {(address, numbers[0], subnets[family], 1) for address in endpoint["addresses"]}
            if conditions.get("ready", True):
                ready |= members
            elif conditions.get("serving") and conditions.get("terminating"):
                last |= members
    return ready or (set() if any_ready(slices) else last)


def any_ready(slices):
    """Tell whether a Service has a ready endpoint, of whatever port and family."""
    return any(endpoint["conditions"].get("ready", True) for found in slices for endpoint in found["endpoints"] or [])


def shown(octavia, balancer, cluster_tag):
    """Return what is on a load balancer, by protocol and port; raise if two listeners have one, or something is not ACTIVE or not tagged."""
    found, wrong = {}, []
    pools = {pool["id"]: pool for pool in octavia.call("GET", f"/pools?loadbalancer_id={balancer['id']}")["pools"]}
    for listener in octavia.call("GET", f"/listeners?loadbalancer_id={balancer['id']}")["listeners"]:
        at, pool = (listener["protocol"], listener["protocol_port"]), pools.get(listener["default_pool_id"])
        if at in found or not pool:
            wrong.append(f"{at}: {'twice' if at in found else 'without pool'}")
            continue
        members = octavia.call("GET", f"/pools/{pool['id']}/members")["members"]
        for part in [listener, pool, *members]:
            if part["provisioning_status"] != "ACTIVE" or cluster_tag not in part["tags"]:
                wrong.append(f"{part['name']}: {part['provisioning_status']} {part['tags']}")
        if pool["name"] != listener["name"]:
            wrong.append(f"{listener['name']} has pool {pool['name']}")
        found[at] = {"name": listener["name"], "guest": "kuryr-guest" in listener["tags"], "pools": sum(other["name"] == listener["name"] for other in pools.values()),
                     "method": pool["lb_algorithm"], "sticky": bool(pool["session_persistence"]),
                     "members": {(member["address"], member["protocol_port"], member["subnet_id"], member["weight"]) for member in members}}
    if len(pools) != len(found):
        wrong.append(f"{len(pools)} pools of {len(found)} listeners: {sorted(pool['name'] for pool in pools.values())}")
    return found, wrong


def differences(services, slices, octavia, floating_ips, subnets, cluster_tag):
    """Return what in Octavia, of floating IPs and in the Services' status is not as it should be; empty if all is."""
    balancers = [found for found in octavia.load_balancers() if services_of(found, services) or cluster_tag in found["tags"]]
    served, missing = places(services, balancers)
    wrong = [f"{name} is served nowhere" for name in missing]
    by_port = {floating["port_id"]: floating["floating_ip_address"] for floating in floating_ips if floating["port_id"]}
    for balancer in balancers:
        name, guests = balancer["name"], served[balancer["id"]]
        if balancer["provisioning_status"] != "ACTIVE":
            wrong.append(f"{name} is {balancer['provisioning_status']}")
            continue
        if not guests:
            wrong.append(f"{name} serves nobody")
        wanted, (found, more) = listeners(guests, balancer, subnets, slices), shown(octavia, balancer, cluster_tag)
        wrong += [f"{name}: {text}" for text in more]
        wrong += [f"{name} {at}: wanted {wanted.get(at)}, found {found.get(at)}" for at in sorted(wanted.keys() | found.keys()) if wanted.get(at) != found.get(at)]
        wrong += addresses(balancer, guests, by_port)
    names = [found["name"] for found in balancers]
    wrong += [f"{name} is there {names.count(name)} times" for name in set(names) if names.count(name) > 1]
    return wrong


def services_of(balancer, services):
    """Return the Services that a load balancer is named after."""
    return [service for service in services if named(service) == balancer["name"]]


def addresses(balancer, guests, by_port):
    """Return what is wrong with a load balancer's floating IP and with what Services tell of it."""
    wrong, floating = [], by_port.get(balancer["vip_port_id"])
    for service in guests:
        is_own = named(service) == balancer["name"]
        if is_own and is_internal(service) == bool(floating):
            wrong.append(f"{balancer['name']} has floating IP {floating}")
        vips = [balancer["vip_address"]] + [vip["ip_address"] for vip in balancer["additional_vips"]]
        said = service["spec"]["ipFamilies"]
        wanted = [floating if floating and vip == balancer["vip_address"] else vip for vip in vips if ("IPv6" if ":" in vip else "IPv4") in said]
        told = [entry["ip"] for entry in service["status"]["loadBalancer"].get("ingress", [])]
        if told != wanted:
            wrong.append(f"{named(service)} tells {told}, wanted {wanted}")
    return wrong
