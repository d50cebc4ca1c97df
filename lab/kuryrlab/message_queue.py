"""RabbitMQ, for those that need it: Octavia's amphora worker, Neutron's agents."""

import socket
from pathlib import Path

from . import places, settings as s
from .processes import Processes
from .settings import Settings
from .wire import in_netns

PORT, EPMD_PORT, DISTRIBUTION_PORT = 5672, 4369, 25672


def start(settings: Settings, processes: Processes, root: Path) -> str | None:
    """Start RabbitMQ on the control plane's address and wait until it listens."""
    place = places.control(settings).with_usr(root)
    folder = settings.state / "rabbitmq"
    folder.mkdir(parents=True, exist_ok=True)
    # Agents are on other machines, and the user guest is refused there otherwise.
    (folder / "rabbitmq.conf").write_text("loopback_users = none\n")
    env = {"ERL_EPMD_PORT": EPMD_PORT, "ERL_EPMD_ADDRESS": "127.0.0.1"}
    processes.start("epmd", place, ["epmd"], env)
    started = processes.start(
        "rabbitmq",
        place,
        ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
        {
            **env,
            "HOME": folder,
            "RABBITMQ_NODENAME": "lab@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": s.CONTROL4,
            "RABBITMQ_NODE_PORT": PORT,
            "RABBITMQ_DIST_PORT": DISTRIBUTION_PORT,
            "RABBITMQ_MNESIA_BASE": folder / "mnesia",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": folder / "pid",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": folder / "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none",
        },
    )
    processes.wait("rabbitmq", lambda: listening(place.netns), 300)
    return "RabbitMQ" if started else None


def listening(netns: str) -> bool:
    """Tell whether the queue accepts connections."""
    in_netns(netns, lambda: socket.create_connection((s.CONTROL4, PORT), timeout=2)).close()
    return True
