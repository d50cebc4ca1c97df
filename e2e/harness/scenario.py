"""Steps, clean-up and counts of a scenario."""
import re
import time
import traceback
from contextlib import contextmanager

from .expect import Unmet, shorten, until
from .kubernetes import Kubernetes
from .kuryr import POOL, Kuryr
from .lab import Lab
from .openstack import NODE_OWNER, Neutron
from .pods import READY_SECONDS, Pod, deployment, manifest

# Longest time until a port that no node knows of is found and deleted.
LOST_SECONDS = 240
# The same until what was deleted is gone; several times what it takes.
GONE_SECONDS = 240


class Ended(Exception):
    """A step failed; the rest of the scenario makes no sense."""


class Report:
    """What passed and what failed."""

    def __init__(self):
        self.start, self.passed, self.failed, self.failures, self.left_out = time.monotonic(), 0, 0, [], []

    def line(self, mark: str, text: str, seconds: float) -> None:
        """Print one line with the time since the start and the time it took."""
        print(f"{time.monotonic() - self.start:7.1f}s  {mark:<6} {text}  ({seconds:.1f} s)", flush=True)

    def count(self, name: str, seconds: float, error: str | None) -> None:
        """Count and print one step."""
        if error is None:
            self.passed += 1
            self.line("ok", name, seconds)
            return
        self.failed += 1
        self.failures.append(f"{name}: {shorten(error.splitlines()[-1] if error else '', 200)}")
        self.line("FAILED", name, seconds)
        for line in error.splitlines():
            print(f"          | {line}", flush=True)

    def leave_out(self, name: str, needs: set[str]) -> None:
        """Say that something was not tried, as the lab has no node of the kinds that it needs; it counts as nothing."""
        self.left_out.append(name)
        print(f"{time.monotonic() - self.start:7.1f}s  not for this kind: {name} needs {' and '.join(sorted(needs))}", flush=True)

    def snapshot(self) -> tuple[int, int, int, int]:
        """Return where the counts stand."""
        return self.passed, self.failed, len(self.failures), len(self.left_out)

    def go_back_to(self, snapshot: tuple[int, int, int, int]) -> None:
        """Forget what was counted since."""
        self.passed, self.failed, failures, left_out = snapshot
        del self.failures[failures:]
        del self.left_out[left_out:]

    def summary(self) -> str:
        return f"{self.passed} passed, {self.failed} failed"


def wait_removed(lab: Lab) -> None:
    """Wait until the namespaces of scenarios that were deleted are gone."""
    kube = Kubernetes(lab)

    def going() -> list[str]:
        namespaces = [n["metadata"] for n in kube.objects("Namespace")]
        return [n["name"] for n in namespaces if n["name"].startswith("e2e-") and "deletionTimestamp" in n]
    until("the scenarios' namespaces are gone", lambda: not going(), GONE_SECONDS, 0.5, why=going)


class World:
    """What the steps of one scenario work with."""

    def __init__(self, lab: Lab, name: str, report: Report, keep: bool = False):
        self.lab, self.name, self.report, self.keep = lab, name, report, keep
        self.namespace = f"e2e-{re.sub(r'[^a-z0-9-]', '-', name)}"
        self.kube = Kubernetes(lab)
        self.cloud, self.admin_cloud, self.other_cloud = Neutron(lab), Neutron(lab, "admin"), Neutron(lab, "other")
        self.kuryr = Kuryr(lab, self.kube)
        self.last, self.failed, self.tag = [], False, None

    # --- steps ----------------------------------------------------------------------------------------

    @contextmanager
    def step(self, what: str):
        """Run the block as one counted step; a failure ends the scenario."""
        begin, error = time.monotonic(), None
        try:
            yield
        except (Unmet, OSError) as unmet:
            error = str(unmet) or repr(unmet)
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception:
            error = traceback.format_exc()
        self.report.count(f"{self.name}: {what}", time.monotonic() - begin, error)
        if error is not None:
            self.failed = True
            raise Ended(what)

    def has(self, what: str, *kinds: str) -> bool:
        """Tell whether the lab has nodes of these kinds; where it has not, what needs them is left out, and said to be."""
        needs = set(kinds) - self.lab.kinds
        if needs:
            self.report.leave_out(f"{self.name}: {what}", needs)
        return not needs

    def finally_do(self, action) -> None:
        """Run an action at the end of the scenario, last registered first, whatever happened."""
        self.last.append(action)

    def begin(self) -> None:
        """Make the scenario's namespace, empty; bring back what of the lab has ended by itself."""
        for notice in self.lab.revive():
            print(f"          note: {notice}", flush=True)
        self.remove_namespace()
        self.kube.wait_gone("Namespace", self.namespace, None, GONE_SECONDS)
        self.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        until("the default service account exists", lambda: self.kube.get("ServiceAccount", "default", self.namespace), 90)

    def end(self) -> None:
        """Take everything back: what the steps registered, the namespace, changed settings, stopped processes."""
        problems = []
        actions = [self.remove_namespace] if not (self.keep and self.failed) else []
        for action in list(reversed(self.last)) + [self.notice_crashes, self.restore_kuryr] + actions + [self.settle]:
            try:
                action()
            except (Unmet, OSError) as unmet:
                problems.append(str(unmet) or repr(unmet))
            except Exception:
                # What follows has to be taken back all the same, and the other scenarios are to run.
                problems.append(traceback.format_exc())
        if problems:
            self.report.count(f"{self.name}: clean-up", 0, "\n".join(problems))

    def notice_crashes(self) -> None:
        """Bring back what of the lab has ended by itself, and say so: it explains failures that are not Kuryr's."""
        if said := self.lab.revive():
            raise Unmet("\n".join(said))

    def remove_namespace(self) -> None:
        """Delete the scenario's namespace, and wait until its pods are gone.

        Kubernetes takes five seconds before it looks at the rest; `wait_removed` waits for that, once for all scenarios.
        """
        found = self.kube.get("Namespace", self.namespace)
        if not found:
            return
        if "deletionTimestamp" not in found["metadata"]:
            self.kube.delete("Namespace", self.namespace)   # from now on nobody makes a pod in it

        def without_pods() -> bool:
            names = [pod["metadata"]["name"] for pod in self.kube.objects("Pod", self.namespace)]
            for name in names:
                self.kube.delete("Pod", name, self.namespace, 0)
            return not names
        until(f"no pod is left in {self.namespace}", without_pods, GONE_SECONDS)

    def remove_pods(self) -> None:
        """Delete the scenario's pods, and wait."""
        names = [pod["metadata"]["name"] for pod in self.kube.objects("Pod", self.namespace)]
        for name in names:
            self.kube.delete("Pod", name, self.namespace, 0)
        for name in names:
            self.kube.wait_gone("Pod", name, self.namespace, GONE_SECONDS)

    def restore_kuryr(self) -> None:
        """Give Kuryr its ordinary settings and processes."""
        self.kuryr.restore()

    def settle(self) -> None:
        """Wait until pools are filled, no claim is left over, and no port of ours is left that no node knows of."""
        self.kuryr.wait_ready()
        if not self.keep:
            for node in self.lab.nodes:
                until(f"no claims are left on {node}", lambda node=node: not self.claims_of_this(node), GONE_SECONDS, why=lambda node=node: self.kuryr.describe(node))
            # Ports on their way to a node, or out of Neutron, are of nobody for a moment; the controller looks for lost ones when it lists again.
            until("no port of ours is lost", lambda: not self.lost_ports(), LOST_SECONDS, 1, why=lambda: [(port["id"], port["name"], port["device_owner"]) for port in self.lost_ports()])

    def lost_ports(self) -> list[dict]:
        """Return the ports of ours in Neutron that no KuryrNode is offered, has as its own or has given to a pod."""
        ours, known = self.all_our_ports(), set()
        for record in self.kube.objects("KuryrNode"):
            spec, status = record.get("spec", {}), record.get("status", {})
            known |= set(spec.get("ports") or {}) | set(status.get("claims") or {}) | {(spec.get("ownPort") or {}).get("id")}
        return [port for port in ours if port["id"] not in known]

    def claims_of_this(self, node: str) -> dict:
        """Return the claims of this scenario's pods."""
        return {port: claim for port, claim in self.kuryr.claims(node).items() if claim["namespace"] == self.namespace}

    # --- making things --------------------------------------------------------------------------------

    def pod(self, name: str, node: str | None = None, wait: bool = True, seconds: float = READY_SECONDS, **how) -> Pod:
        """Create a pod and, unless told otherwise, wait until it is Ready."""
        self.kube.create(manifest(name, self.namespace, node, **how))
        pod = Pod(self.lab, self.kube, self.namespace, name)
        return pod.wait_ready(seconds) if wait else pod

    def deployment(self, name: str, replicas: int, **how) -> None:
        """Create a Deployment."""
        self.kube.create(deployment(name, self.namespace, replicas, **how))

    def scale(self, name: str, replicas: int) -> None:
        """Change the size of a Deployment."""
        self.kube.patch("Deployment", name, {"spec": {"replicas": replicas}}, self.namespace)

    def pods(self, name: str) -> list[Pod]:
        """Return the pods of a Deployment."""
        return [Pod(self.lab, self.kube, self.namespace, pod["metadata"]["name"]) for pod in self.kube.objects("Pod", self.namespace, labels=f"set={name}")]

    def wait_pods(self, name: str, count: int, seconds: float) -> list[Pod]:
        """Wait until a Deployment has so many Ready pods and no others."""
        def all_ready():
            pods = self.kube.objects("Pod", self.namespace, labels=f"set={name}")
            ready = [p for p in pods if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))]
            return len(ready) == len(pods) == count or None
        until(f"{count} pods of {name} are Ready", lambda: all_ready() or count == 0 and not self.pods(name), seconds, 0.2,
              why=lambda: [pod.describe() for pod in self.pods(name) if not pod.ready()][:3])
        return self.pods(name)

    # --- counting ports -------------------------------------------------------------------------------

    def our_ports(self) -> list[dict]:
        """Return the ports of this cluster's Kuryr in Neutron that are for pods: of its project and with its tag."""
        return [port for port in self.all_our_ports() if port["device_owner"] != NODE_OWNER]

    def node_ports(self) -> list[dict]:
        """Return the ports of this cluster's Kuryr in Neutron by which nodes themselves are in the pods' network."""
        return [port for port in self.all_our_ports() if port["device_owner"] == NODE_OWNER]

    def all_our_ports(self) -> list[dict]:
        """Return every port of this cluster's Kuryr in Neutron."""
        return self.cloud.ours(self.cluster_tag)

    @property
    def cluster_tag(self) -> str:
        """The tag of all that this cluster's Kuryr makes."""
        if not self.tag:
            self.tag = f"kuryr-cluster:{self.kube.get('Namespace', 'kube-system')['metadata']['uid']}"
        return self.tag

    def pool_limit(self) -> int:
        """Return how many ports the pools of all nodes may hold together."""
        return POOL["ports_pool_max"] * len(self.lab.nodes)
