"""Crashes of Open vSwitch itself, which say nothing about Kuryr.

Open vSwitch 3.1 can die of an assertion in its userspace connection tracking (lib/conntrack.c, conn_update_state).
"""
from .lab import Lab


def crashes(lab: Lab) -> int:
    """Return how often the lab has started an ovs-vswitchd again after a crash."""
    logs = lab.settings.log.glob("*-vswitchd.log*")
    return sum(log.read_text(errors="replace").count("; starting it again") for log in logs)
