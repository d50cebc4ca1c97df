"""What the scenarios share: the lab's places, clients of both APIs, Kuryr's processes, traffic, expectations.

- `expect`: expectations and bounded waits;
- `lab`: where things of the lab are, and commands in its places;
- `kubernetes`, `openstack`: small clients, from inside the lab's network;
- `kuryr`: Kuryr as a user installs and configures it, and its processes;
- `pods`: pods of a scenario, their namespaces and ports;
- `groups`: security groups that pods get by configuration;
- `traffic`: connections between places, with every loss counted;
- `clients`: clients of Services, and endpoints that answer with their names;
- `services`: who answers at a Service, and the network of ClusterIPs;
- `kernel`: what a node's kernel has of Services;
- `scenario`: steps, clean-up, counts;
- `logs`: keeping them when something failed.
"""
from . import lab as lab  # first: it makes the lab's own package importable
