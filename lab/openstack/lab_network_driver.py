"""Octavia's network driver for the lab's amphora worker.

The lab has no compute service, so no amphora exists that could be plugged: those calls do nothing. The port of a load balancer's address and
its security group are real Neutron objects, made as Octavia makes them anywhere.
"""
from octavia.network.drivers.neutron import allowed_address_pairs
from octavia.network.drivers.noop_driver import driver


class LabNetworkDriver(driver.NoopNetworkDriver):
    """No-op except for the address of the load balancer."""

    def __init__(self):
        super().__init__()
        self._neutron = allowed_address_pairs.AllowedAddressPairsDriver()

    def allocate_vip(self, load_balancer):
        return self._neutron.allocate_vip(load_balancer)

    def deallocate_vip(self, vip):
        return self._neutron.deallocate_vip(vip)

    def update_vip(self, load_balancer, for_delete=False):
        return self._neutron.update_vip(load_balancer, for_delete)

    def update_vip_sg(self, load_balancer, vip):
        return self._neutron.update_vip_sg(load_balancer, vip)
