"""Keystone, Neutron and Octavia: their configuration and their processes.

Neutron runs ML2/OVN, or ML2/OVS with the option, with all extensions that Kuryr may use. Octavia has the OVN provider;
with the option `amphora` also the amphora provider on no-op compute, which needs a message queue and a worker. Only
that and ML2/OVS have a message queue.

Each process has one log: what oslo.log and the WSGI server print.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import message_queue, places, settings as s, whole
from .failure import Failure
from .processes import Processes
from .settings import Settings
from .wire import request

REQUEST_LOG_FORMAT = "%(epoch) %(method) %(uri) %(status) %(msecs) %(uagent)"


@dataclass(frozen=True)
class Layout:
    """Where the services' files are: in the lab's state, or in a scratch directory while the database is made."""

    etc: Path
    run: Path
    state: Path
    venv: Path

    def configs(self, service: str) -> list[str]:
        """Return a service's --config-file arguments."""
        files = {
            "keystone": ["keystone.conf"],
            "neutron": ["neutron.conf", "ml2_conf.ini"],
            "octavia": ["octavia.conf"],
            "octavia-worker": ["octavia.conf", "octavia-worker.conf"],
        }[service]
        return [word for f in files for word in ("--config-file", str(self.etc / f))]


def layout(settings: Settings, venv: Path) -> Layout:
    """Return the layout of a running lab."""
    return Layout(settings.etc, settings.run, settings.state / "openstack", venv)


def configure(at: Layout, amphora: bool, root: Path, ml2: str = "ovn") -> None:
    """Write every configuration file."""
    for folder in (at.etc, at.run, at.state / "lock", at.state / "neutron"):
        folder.mkdir(parents=True, exist_ok=True)
    write = lambda name, text: (at.etc / name).write_text(text)  # noqa: E731
    queue = s.QUEUE_URL if amphora else "fake://"
    write(
        "keystone.conf",
        f"""[DEFAULT]
max_token_size = 512
[database]
connection = {database(at, "keystone")}
[token]
provider = fernet
expiration = 86400
[fernet_tokens]
key_repository = {at.etc}/fernet
[fernet_receipts]
key_repository = {at.etc}/fernet
[credential]
key_repository = {at.etc}/credential
[identity]
# The lab's passwords are no secrets, and each login costs this hash.
password_hash_rounds = 4
[cache]
enabled = true
backend = dogpile.cache.memory
""",
    )
    write(
        "neutron.conf",
        f"""[DEFAULT]
core_plugin = ml2
service_plugins = {"ovn-router" if ml2 == "ovn" else "router"},trunk,qos,segments,port_forwarding
auth_strategy = keystone
transport_url = {"fake://" if ml2 == "ovn" else s.QUEUE_URL}
rpc_workers = {0 if ml2 == "ovn" else 1}
api_paste_config = {at.venv}/etc/neutron/api-paste.ini
state_path = {at.state}/neutron
max_allowed_address_pair = 200
notify_nova_on_port_status_changes = false
notify_nova_on_port_data_changes = false
dhcp_agent_notification = false
[database]
connection = {database(at, "neutron")}
max_pool_size = 20
[oslo_concurrency]
lock_path = {at.state}/lock
[oslo_messaging_notifications]
driver = noop
[oslo_policy]
policy_file = {at.etc}/neutron-policy.yaml
[quotas]
{lines("quota_", " = -1", "network subnet port router floatingip security_group security_group_rule trunk")}
{middleware("neutron")}""",
    )
    write("neutron-policy.yaml", "")
    write("ml2_conf.ini", ml2_configuration(at, ml2))
    write(
        "octavia.conf",
        f"""[DEFAULT]
transport_url = {queue}
[api_settings]
auth_strategy = keystone
enabled_provider_drivers = {"ovn:OVN,amphora:Amphora on no-op drivers" if amphora else "ovn:OVN"}
default_provider_driver = ovn
api_base_uri = {s.OCTAVIA_URL}
allow_tls_terminated_listeners = true
[database]
connection = {database(at, "octavia")}
[driver_agent]
enabled_provider_agents = ovn
provider_agent_shutdown_timeout_seconds = 3
[oslo_messaging]
topic = octavia_prov
[oslo_messaging_notifications]
driver = noop
[controller_worker]
amp_flavor_id = 00000000-0000-0000-0000-000000000001
amp_image_tag = amphora
amp_boot_network_list =
compute_driver = compute_noop_driver
amphora_driver = amphora_noop_driver
image_driver = image_noop_driver
volume_driver = volume_noop_driver
network_driver = allowed_address_pairs_driver
statistics_drivers = stats_db
loadbalancer_topology = SINGLE
workers = 1
client_ca = {at.etc}/octavia-ca.pem
[certificates]
cert_manager = local_cert_manager
cert_generator = local_cert_generator
ca_certificate = {at.etc}/octavia-ca.pem
ca_private_key = {at.etc}/octavia-ca.key
ca_private_key_passphrase = lab
server_certs_key_passphrase = insecure-key-do-not-use-this-key
[health_manager]
heartbeat_key = lab
[quotas]
{lines("default_", "_quota = -1", "load_balancer listener pool member health_monitor l7policy l7rule")}
[service_auth]
{credentials("octavia")}
[neutron]
{credentials("octavia")}
[ovn]
ovn_nb_connection = unix:{at.run}/ovn-nb.sock
ovn_sb_connection = unix:{at.run}/ovn-sb.sock
{middleware("octavia")}""",
    )
    write("octavia-worker.conf", "[controller_worker]\nnetwork_driver = lab_driver\n")
    write("clouds.yaml", clouds())


def ml2_configuration(at: Layout, ml2: str) -> str:
    """Return ml2_conf.ini: OVN over Geneve, or Neutron's Open vSwitch agents over VXLAN."""
    tunnel, mechanism = ("geneve", "ovn") if ml2 == "ovn" else ("vxlan", "openvswitch")
    common = f"""[ml2]
type_drivers = flat,vlan,{tunnel}
project_network_types = {tunnel}
tenant_network_types = {tunnel}
mechanism_drivers = {mechanism}
extension_drivers = port_security,qos,tag_ports_during_bulk_creation
overlay_ip_version = 4
[ml2_type_{tunnel}]
vni_ranges = 1:65535
[ml2_type_flat]
flat_networks = {s.PHYSICAL_NETWORK}
[ml2_type_vlan]
network_vlan_ranges = {s.PHYSICAL_NETWORK}:1000:1999
[securitygroup]
enable_security_group = true
"""
    if ml2 != "ovn":
        return common
    return f"""{common}[ml2_type_geneve]
max_header_size = 38
[ovn]
ovn_nb_connection = unix:{at.run}/ovn-nb.sock
ovn_sb_connection = unix:{at.run}/ovn-sb.sock
ovn_metadata_enabled = false
enable_distributed_floating_ip = false
"""


def database(at: Layout, name: str) -> str:
    return f"mysql+pymysql://root@localhost/{name}?unix_socket={at.run}/mariadb.sock&charset=utf8mb4"


def lines(before: str, after: str, names: str) -> str:
    return "\n".join(before + name + after for name in names.split())


def credentials(user: str) -> str:
    """Return how a service logs in."""
    return f"""auth_url = {s.KEYSTONE_URL}
auth_type = password
project_domain_id = default
user_domain_id = default
project_name = service
username = {user}
password = {s.SERVICE_PASSWORD}
region_name = {s.REGION}"""


def middleware(user: str) -> str:
    """Return how a service checks tokens."""
    return f"""[keystone_authtoken]
www_authenticate_uri = {s.KEYSTONE_URL}
service_token_roles = service
service_token_roles_required = true
token_cache_time = 300
{credentials(user)}
"""


def clouds() -> str:
    """Return clouds.yaml with the admin and every user."""
    users = {"admin": ("admin", s.ADMIN_PASSWORD), **s.USERS}
    return "clouds:\n" + "".join(
        f"""  {user}:
    auth: {{auth_url: "{s.KEYSTONE_URL}", username: {user}, password: {password}, project_name: {project},
           user_domain_name: Default, project_domain_name: Default}}
    region_name: {s.REGION}
    identity_api_version: 3
"""
        for user, (project, password) in users.items()
    )


def environment(at: Layout) -> dict:
    """Return what the services need in their environment."""
    return {
        "PATH": f"{at.venv}/bin:{at.run}/bin:{places.PATH}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "OS_KEYSTONE_CONFIG_DIR": str(at.etc),
    }


def wsgi(
    at: Layout, address: str, module: str, count: int, arguments: list[str], request_log: Path | None = None
) -> list[str]:
    """Return the command line of an API server; an address with a slash is a unix socket."""
    words = [
        f"{at.venv}/bin/python",
        "-c",
        "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])",
        "--http-socket",
        address,
        "--module",
        module,
        "--processes",
        str(count),
        "--threads",
        "1",
        "--master",
        "--die-on-term",
        "--lazy-apps",
        "--enable-threads",
        "--need-app",
        "--add-header",
        "Connection: close",
        "--buffer-size",
        "65535",
        "--post-buffering",
        "65536",
        "--listen",
        "100",
        "--worker-reload-mercy",
        "3",
    ]
    words += (
        ["--req-logger", f"file:{request_log}", "--log-format", REQUEST_LOG_FORMAT]
        if request_log
        else ["--disable-logging"]
    )
    return words + ["--pyargv", " ".join(arguments)]


class OpenStack:
    """The running services of a lab."""

    def __init__(self, settings: Settings, processes: Processes, root: Path, venv: Path):
        self.settings, self.processes, self.root, self.at = settings, processes, root, layout(settings, venv)
        self.place = places.control(settings)

    def request_log(self, service: str) -> Path:
        """A line per request: epoch, method, uri, status, milliseconds, user agent."""
        return self.settings.log / f"{service}-requests.log"

    def start_keystone(self) -> str | None:
        """Start Keystone and wait until it answers."""
        words = wsgi(
            self.at,
            f"{s.CONTROL4}:{s.KEYSTONE_PORT}",
            "keystone.wsgi.api:application",
            1,
            [],
            self.request_log("keystone"),
        )
        started = self.processes.start("keystone", self.place, words, environment(self.at))
        self.processes.wait("keystone", lambda: self.get(s.KEYSTONE_URL), 300)
        return "Keystone" if started else None

    def start_neutron(self) -> str | None:
        """Start Neutron's API and its worker: for OVN's maintenance, or for what agents ask."""
        words = wsgi(
            self.at,
            f"{s.CONTROL4}:{s.NEUTRON_PORT}",
            "neutron.wsgi.api:application",
            2,
            self.at.configs("neutron"),
            self.request_log("neutron"),
        )
        # Neutron keeps its start time in a file there, named by a process number; an old one must not be found.
        scratch = self.settings.state / "tmp" / "neutron"
        if not self.processes.alive("neutron"):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        started = self.processes.start("neutron", self.place, words, {**environment(self.at), "TMPDIR": scratch})
        # Agents ask the one at once; the other needs the API's view of OVN.
        if self.settings.options.ml2 == "ovs":
            started |= self.start_neutron_worker()
        self.processes.wait("neutron", lambda: self.get(s.NEUTRON_URL + "/"), 450)
        started |= self.start_neutron_worker()
        return "Neutron" if started else None

    def start_neutron_worker(self) -> bool:
        """Start what runs beside Neutron's API; tell whether it was started."""
        name, program = self.neutron_worker()
        words = [f"{self.at.venv}/bin/python", f"{self.at.venv}/bin/{program}"] + self.at.configs("neutron")
        return self.processes.start(name, self.place, words, environment(self.at))

    def neutron_worker(self) -> tuple[str, str]:
        """Return the name and the program of what runs beside Neutron's API."""
        if self.settings.options.ml2 == "ovn":
            return "neutron-maintenance", "neutron-ovn-maintenance-worker"
        return "neutron-rpc", "neutron-rpc-server"

    def stop_neutron(self) -> None:
        """Stop Neutron's processes, as an outage."""
        for name in ("neutron", self.neutron_worker()[0]):
            self.processes.stop(name)

    def start_octavia(self) -> str | None:
        """Start Octavia's API and driver agent, with the option also the worker and its message queue."""
        # The sockets between the two have fixed names below /var/run/octavia.
        private = self.settings.run / "octavia-run"
        (private / "octavia").mkdir(parents=True, exist_ok=True)
        inside = places.Place(self.settings, self.place.netns, self.place.leaf, private_run=private)
        agent = [f"{self.at.venv}/bin/python", f"{self.at.venv}/bin/octavia-driver-agent"] + self.at.configs("octavia")
        started = self.processes.start("octavia-agent", inside, agent, environment(self.at))
        words = wsgi(
            self.at,
            f"{s.CONTROL4}:{s.OCTAVIA_PORT}",
            "octavia.wsgi.api:application",
            1,
            self.at.configs("octavia"),
            self.request_log("octavia"),
        )
        started |= self.processes.start("octavia", inside, words, environment(self.at))
        if self.settings.options.amphora:
            started |= self.start_worker()
        self.processes.wait("octavia", lambda: self.get(s.OCTAVIA_URL + "/"), 450)
        self.processes.wait("octavia-agent", lambda: (private / "octavia/get.sock").exists(), 240)
        return "Octavia" if started else None

    def start_worker(self) -> bool:
        """Start RabbitMQ and the amphora worker."""
        message_queue.start(self.settings, self.processes, self.root)
        key, certificate = self.at.etc / "octavia-ca.key", self.at.etc / "octavia-ca.pem"
        if not certificate.exists():
            from .debian import tool

            with whole.made(certificate) as new:
                words = ["req", "-x509", "-newkey", "rsa:2048", "-days", "3650", "-subj", "/CN=lab", "-passout", "pass:lab"]
                words += ["-config", f"{self.root}/etc/ssl/openssl.cnf", "-keyout", key, "-out", new]
                done = subprocess.run(tool(self.root, "openssl") + words, capture_output=True, text=True)
                if done.returncode:
                    raise Failure(f"openssl: {done.stderr}")
        worker = [f"{self.at.venv}/bin/python", f"{self.at.venv}/bin/octavia-worker"] + self.at.configs(
            "octavia-worker"
        )
        return self.processes.start("octavia-worker", self.place, worker, environment(self.at))

    def get(self, url: str) -> bool:
        """Tell whether an API answers at all."""
        return request(self.place.netns, "GET", url, timeout=3).status < 500

    def cli(self, arguments: list[str], cloud: str) -> list[str]:
        """Return the command line of the openstack client."""
        env = {
            "OS_CLIENT_CONFIG_FILE": str(self.settings.clouds),
            "OS_CLOUD": cloud,
            "PYTHONWARNINGS": "ignore",
            "TERM": os.environ.get("TERM", "dumb"),
        }
        place = places.control(self.settings, "run")
        return places.command(
            place,
            [f"{self.at.venv}/bin/python", f"{self.at.venv}/bin/openstack"] + arguments,
            places.environment(self.settings, env),
        )
