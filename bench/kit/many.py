"""Thousands of Services and their EndpointSlices, written by hand: no pod is behind them but where it is asked for."""
import http.client
import ipaddress
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from harness.expect import until
from harness.kubernetes import Kubernetes, Refused, path

NAMESPACE, NAME_LABEL = "bench-services", "kubernetes.io/service-name"
PORT, TARGET = 80, 18080
# Writers at the same time: more do not make the lab's API server faster.
WRITERS = 6
# The API server closes a connection that nothing was asked over for 90 s.
IDLE_SECONDS = 60
# Until all of it is deleted, of which the API server does a part in the time of one request.
SECONDS = 600
TIMED_OUT = 504
# RFC 5180.
BACKGROUND6 = ipaddress.IPv6Address("2001:2::")


class Writer:
    """Writes over connections that stay open, one for each thread: a handshake per write would be half of the time."""

    def __init__(self, kube: Kubernetes):
        self.kube, self.local = kube, threading.local()

    def write(self, method: str, where: str, body: dict) -> tuple[dict, float]:
        """Send one request; return the answer and when it was there (seconds of the monotonic clock)."""
        connection = self.connection()
        connection.request(method, where, json.dumps(body), {"Content-Type": "application/json", "User-Agent": "bench"})
        answer = connection.getresponse()
        text, at = answer.read(), time.monotonic()
        self.local.used = at
        if answer.status >= 300:
            raise Refused(answer.status, f"{method} {where}: {text[:300].decode(errors='replace')}")
        return json.loads(text), at

    def connection(self) -> http.client.HTTPConnection:
        """Return this thread's connection, a new one in place of one that was idle for long."""
        if time.monotonic() - getattr(self.local, "used", float("-inf")) > IDLE_SECONDS:
            if hasattr(self.local, "connection"):
                self.local.connection.close()
            self.local.connection = self.kube.connect()
        return self.local.connection


def service(name: str, address: str | None = None) -> dict:
    """Return a Service without a selector: of both families, or with this address alone."""
    chosen = {"clusterIP": address, "ipFamilies": ["IPv6" if ":" in address else "IPv4"]} if address else {"ipFamilyPolicy": "RequireDualStack"}
    spec = {"ports": [{"name": "x", "port": PORT, "protocol": "TCP"}], **chosen}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def endpoint_slice(name: str, family: int, addresses: list[str], port: int = TARGET) -> dict:
    """Return the slice of one family."""
    endpoints = [{"addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False}} for address in addresses]
    metadata = {"name": f"{name}-{family}", "namespace": NAMESPACE, "labels": {NAME_LABEL: name, "endpointslice.kubernetes.io/managed-by": "bench"}}
    ports = [{"name": "x", "port": port, "protocol": "TCP"}]
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": f"IPv{family}", "endpoints": endpoints, "ports": ports}


def slice_path(name: str, family: int) -> str:
    return path("EndpointSlice", NAMESPACE, f"{name}-{family}")


def background(number: int, endpoints: int, turn: int = 0) -> dict[int, list[str]]:
    """Return endpoints of a Service of the crowd, by family; addresses that nobody has (RFC 2544, RFC 5180)."""
    first = number * endpoints + turn
    four = [f"198.{18 + (one >> 16 & 1)}.{one >> 8 & 255}.{one & 255}" for one in range(first, first + endpoints)]
    return {4: four, 6: [str(BACKGROUND6 + one) for one in range(first + 1, first + endpoints + 1)]}


class Crowd:
    """The Services that are there beside those that are looked at."""

    def __init__(self, kube: Kubernetes, endpoints: int):
        self.kube, self.endpoints, self.writer, self.count = kube, endpoints, Writer(kube), 0
        self.clear()
        kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})

    def grow(self, count: int) -> float:
        """Have so many of them; return how many seconds it took."""
        begin = time.monotonic()
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(self.add, range(self.count, count)))
        self.count = max(self.count, count)
        return time.monotonic() - begin

    def add(self, number: int) -> None:
        self.make(f"s{number}", background(number, self.endpoints))

    def make(self, name: str, endpoints: dict[int, list[str]], port: int = TARGET) -> list[str]:
        """Make one Service with endpoints; return its addresses."""
        made, _ = self.writer.write("POST", path("Service", NAMESPACE), service(name))
        for family, addresses in endpoints.items():
            self.writer.write("POST", path("EndpointSlice", NAMESPACE), endpoint_slice(name, family, addresses, port))
        return made["spec"]["clusterIPs"]

    def create(self, name: str, address: str, endpoint: str) -> float:
        """Make one Service with this address, its endpoint first; return when the API server had answered."""
        self.writer.write("POST", path("EndpointSlice", NAMESPACE), endpoint_slice(name, 6 if ":" in address else 4, [endpoint]))
        return self.writer.write("POST", path("Service", NAMESPACE), service(name, address))[1]

    def change(self, turn: int) -> None:
        """Exchange an endpoint of one of them."""
        number, family = random.randrange(self.count), random.choice((4, 6))
        self.put(f"s{number}", family, background(number, self.endpoints, 1 + turn % 3)[family])

    def put(self, name: str, family: int, addresses: list[str], port: int = TARGET) -> float:
        """Write the endpoints of a family; return when the API server had answered."""
        return self.writer.write("PUT", slice_path(name, family), endpoint_slice(name, family, addresses, port))[1]

    def clear(self) -> None:
        """Remove everything, also what an earlier run left."""
        for kind in ("EndpointSlice", "Service"):
            until(f"every {kind} is deleted", lambda: self.deleted(kind), SECONDS, 1)
        self.kube.delete("Namespace", NAMESPACE)
        self.kube.wait_gone("Namespace", NAMESPACE, None, SECONDS)


    def deleted(self, kind: str) -> bool:
        """Delete all of a kind; tell whether the API server came to its end."""
        if self.kube.get("Namespace", NAMESPACE):
            try:
                self.kube.call("DELETE", f"{path(kind, NAMESPACE)}?gracePeriodSeconds=0")
            except Refused as refused:
                if refused.status != TIMED_OUT:
                    raise
                return False
        return True


class Churn:
    """Changes of the crowd in the background, at a rate, as far as the API server follows."""

    def __init__(self, crowd: Crowd, rate: float):
        self.crowd, self.rate, self.stopping, self.done, self.seconds = crowd, rate, threading.Event(), 0, 0.0
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> "Churn":
        self.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stopping.set()
        self.thread.join(timeout=30)

    def run(self) -> None:
        begin = time.monotonic()
        while not self.stopping.is_set():
            self.crowd.change(self.done)
            self.done += 1
            self.seconds = time.monotonic() - begin
            self.stopping.wait(max(0.0, self.done / self.rate - self.seconds))
