"""ML2/OVS: Neutron's own agents on the same switches, as many clouds have them.

- an Open vSwitch agent on each chassis, with VXLAN tunnels and the native firewall (`firewall_driver = openvswitch`), or
  on nodes, if it is asked for, with iptables on a bridge before br-int (`iptables_hybrid`);
- on the hypervisor an L3 agent for the router: a legacy one, source translation by iptables. Its namespaces are in a
  mount namespace of its own, so nobody else sees them and they end with it.

Agents get their work by a message queue and report on it; a port is ACTIVE when its agent has said so, nothing in the
switch's database tells it. There is no DHCP agent (no subnet of the lab needs one) and nobody who sends router
advertisements (radvd is a stand-in), hence no SLAAC subnets.
"""

import threading
from pathlib import Path

from . import debian, message_queue, openstack, places, settings as s
from .failure import Failure
from .ovs import Switches
from .processes import Processes
from .resources import Neutron
from .settings import Chassis, Settings
from .steps import until
from .wire import request

AGENT, L3_AGENT = "neutron-agent", "l3-agent"
REGISTER_SECONDS, ROUTER_SECONDS = 300, 300
# Names by which the agents call them; in Debian they are alternatives.
XTABLES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
# The L3 agent starts radvd for every router with an IPv6 subnet, also when there is nothing to advertise, and gives the
# router up without it. This one only stays: the file for its pid follows -p, and the agent looks for the router's id in
# the command.
RADVD = """(exec </dev/null >/dev/null 2>&1; while sleep 3600; do :; done) & pid=$!
while [ $# -gt 0 ]; do [ "$1" = -p ] && echo $pid >"$2"; shift; done
exit
:"""
PRIVSEP = ("", "_dhcp_release", "_ovs_vsctl", "_namespace", "_conntrack", "_link")


class Ml2Ovs(Switches):
    """The switches of a lab with Neutron's agents."""

    daemons = Switches.daemons + (AGENT,)

    def __init__(self, settings: Settings, processes: Processes, root: Path, venv: Path):
        super().__init__(settings, processes, root)
        self.at, self.tools = openstack.layout(settings, venv), settings.run / "agent-bin"

    def start_central(self) -> str | None:
        """Start the message queue."""
        return message_queue.start(self.settings, self.processes, self.root)

    def start_controller(self, n: Chassis) -> bool:
        """Start the agents of a chassis; they wait for the queue and for Neutron themselves."""
        self.write_tools()
        started = self.start_agent(n, AGENT, "neutron-openvswitch-agent", places.on_node(self.settings, n))
        if n in self.settings.hypervisors:
            private = self.settings.node_run(n) / "l3"
            (private / "netns").mkdir(parents=True, exist_ok=True)
            alone = places.Place(self.settings, self.settings.netns(n.name), f"{n.name}/daemons", private_run=private)
            started |= self.start_agent(n, L3_AGENT, "neutron-l3-agent", alone)
        return started

    def start_agent(self, n: Chassis, name: str, program: str, place: places.Place) -> bool:
        """Start one agent."""
        file = self.settings.node_state(n) / "neutron-agent.ini"
        file.write_text(self.configuration(n))
        words = [f"{self.at.venv}/bin/python", f"{self.at.venv}/bin/{program}", "--config-file", file]
        environment = openstack.environment(self.at)
        environment["OVS_RUNDIR"] = self.run(n)  # ovs-vsctl is called without a database
        environment["PATH"] = f"{self.tools}:{environment['PATH']}"
        return self.processes.start(f"{n.name}-{name}", place, words, environment)

    def configuration(self, n: Chassis) -> str:
        """Return the file of a chassis' agents."""
        state = self.settings.node_state(n) / "neutron"
        helpers = "".join(
            f"[privsep{kind}]\nhelper_command = {self.at.venv}/bin/privsep-helper\n" for kind in PRIVSEP
        )
        return f"""[DEFAULT]
host = {n.hostname}
transport_url = {s.QUEUE_URL}
# A question that is asked before Neutron listens is lost.
rpc_response_timeout = 10
state_path = {state}
interface_driver = openvswitch
agent_mode = legacy
enable_metadata_proxy = false
[ovs]
ovsdb_connection = unix:{self.run(n)}/db.sock
datapath_type = netdev
bridge_mappings = {s.PHYSICAL_NETWORK}:br-ex
local_ip = {n.tunnel4}
[agent]
tunnel_types = vxlan
root_helper = env
report_interval = 5
[securitygroup]
firewall_driver = {self.firewall(n)}
enable_ipset = false
[oslo_concurrency]
lock_path = {state}/lock
{helpers}"""

    def firewall(self, n: Chassis) -> str:
        """Return the driver by which a chassis' agent filters; the server is plugged without a bridge in between."""
        on_bridge = self.settings.options.firewall == "iptables" and n not in self.settings.hypervisors
        return "iptables_hybrid" if on_bridge else "openvswitch"

    def write_tools(self) -> None:
        """Write scripts by which the agents find iptables and the like."""
        modules = next(self.root.glob("usr/lib/*-linux-gnu/xtables"))
        for name in XTABLES:
            program = " ".join(debian.tool(self.root, name.replace("tables", "tables-nft", 1)))
            self.write_tool(name, f"XTABLES_LIBDIR={modules} exec {program}")
        # An agent looks for the name in the process's command line, so the shell stays what it is.
        self.write_tool("radvd", RADVD)
        self.write_tool("ovsdb-client", f"setpriv --pdeathsig KILL {' '.join(debian.tool(self.root, 'ovsdb-client'))}")

    def write_tool(self, name: str, command: str) -> None:
        """Write one script; agents that run meanwhile see the old one or the new one."""
        self.tools.mkdir(parents=True, exist_ok=True)
        new = self.tools / f".{name}.{threading.get_ident()}"
        new.write_text(f'#!/bin/sh\n{command} "$@"\n')
        new.chmod(0o755)
        new.replace(self.tools / name)

    def wait_registered(self, neutron: Neutron) -> None:
        """Wait until Neutron knows every agent: ports can be bound only then."""
        wanted = {(c.hostname, "Open vSwitch agent") for c in self.settings.chassis}
        wanted |= {(h.hostname, "L3 agent") for h in self.settings.hypervisors}

        def all_alive() -> bool:
            agents = neutron.call("GET", "/agents")["agents"]
            return wanted <= {(a["host"], a["agent_type"]) for a in agents if a["alive"]}

        log = self.log(self.settings.hypervisors[0])
        until("Neutron's agents have reported", all_alive, REGISTER_SECONDS, 0.5, log)

    def wait_router(self) -> str | None:
        """Wait until the server reaches the outside through the router."""
        log = self.processes.log(f"{self.settings.hypervisors[0].name}-{L3_AGENT}")
        url = f"http://{s.INTERNET4}:{s.HTTP_PORT}/"
        netns = self.settings.netns("server")
        until("the router works", lambda: request(netns, "GET", url, timeout=2).status == 200, ROUTER_SECONDS, 0.5, log)
        return None

    def carries(self, n: Chassis, link: str, port: str) -> bool:
        """Tell whether Neutron calls a port ACTIVE."""
        try:
            neutron = Neutron(self.settings.netns("cp"))
            return neutron.call("GET", f"/ports/{port}")["port"]["status"] == "ACTIVE"
        except Failure:
            return False  # while Neutron has just begun to answer
