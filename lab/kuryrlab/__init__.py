"""The lab: a real Kubernetes and a real OpenStack network on one machine.

In the order of the flow:

- settings: names, addresses, paths and options of one lab;
- failure: how a step says what went wrong and whose log tells more;
- doctor: can this machine carry it, and what has to be downloaded;
- cache, debian, golang, python: what is downloaded or built, once per version;
- whole: files that are there whole or not at all;
- steps: a graph of steps, run in parallel;
- cgroups, places, processes: where a process runs, and how it is remembered;
- network: namespaces, the LAN between them;
- vm, nested: namespaces plugged as Neutron ports, nodes that are virtual machines;
- wire: HTTP from inside a namespace;
- database, identity, openstack, message_queue, resources: the OpenStack side;
- ovs, ovn, ml2ovs: the switches, and what makes Neutron's ports work on them;
- pki, kubernetes, image, node: the Kubernetes side;
- server, answer: the machine that stands for a VM, and the external side;
- kuryr: Kuryr itself, run as a user would run it;
- guest: a kernel of its own, for what the machine's lacks;
- power: a node is switched off and on;
- dns: CoreDNS, for who wants names;
- lab, tools, up, down, status, commands: what the commands do.
"""
