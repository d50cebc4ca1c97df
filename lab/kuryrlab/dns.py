"""Names of the cluster: CoreDNS in pods, behind the Service whose addresses every pod has in its resolv.conf.

Not part of `up`, whose pods are those of whoever uses the lab: its own would hold ports, and be there in every count of them.
"""

from . import golang, image, settings as s
from .failure import Failure
from .lab import Lab
from .node import NodeMachine
from .steps import until

NAMESPACE, NAME = "kube-system", "coredns"
SECONDS = 240


def start(lab: Lab, outside: str = "") -> None:
    """Bring CoreDNS up and wait until all of its pods are ready; Kuryr has to run, as they are pods like others. Questions
    about names outside of the cluster go to the server `outside`, if there is one.
    """
    program = golang.dns_entry(lab.settings).make() / "coredns"
    for machine in lab.machines.values():
        give(lab, machine, program)
    filled = (s.LAB / "dns" / "manifests.yaml").read_text()
    forward = f"forward . {outside}" if outside else ""
    for word, value in (("ADDRESS4", s.DNS4), ("ADDRESS6", s.DNS6), ("IMAGE", s.DNS_IMAGE), ("OUTSIDE", forward)):
        filled = filled.replace(word, value)
    file = lab.settings.etc / "dns.yaml"
    file.write_text(filled)
    lab.kubernetes.apply(file)
    try:
        until("CoreDNS is ready", lambda: ready(lab), SECONDS, every=0.2)
    except Failure as e:
        raise Failure(
            f"CoreDNS did not get ready in {SECONDS} s", fix=f"lab kubectl -n {NAMESPACE} describe pods; does Kuryr run?"
        ) from e


def ready(lab: Lab) -> bool:
    """Tell whether every pod that is wanted is ready, and none of another version is left."""
    found = lab.kubernetes.call("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}", accept=(404,))
    if not found:
        return False
    status, wanted = found.get("status", {}), found["spec"]["replicas"]
    counts = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")}
    return status.get("observedGeneration", 0) >= found["metadata"]["generation"] and counts == {wanted}


def stop(lab: Lab) -> None:
    """Take CoreDNS away again."""
    for path in (
        f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}",
        f"/api/v1/namespaces/{NAMESPACE}/services/kube-dns",
    ):
        lab.kubernetes.call("DELETE", path, {"propagationPolicy": "Foreground"}, accept=(404,))
    until("CoreDNS is gone", lambda: not pods(lab), SECONDS, every=0.2)


def pods(lab: Lab) -> list[dict]:
    """Return its pods, those that are going as well."""
    path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=k8s-app%3Dkube-dns"
    return lab.kubernetes.call("GET", path)["items"]


def give(lab: Lab, machine: NodeMachine, program) -> None:
    """Give a node the image."""
    archive = machine.state / "dns-image.tar"
    machine.import_image(s.DNS_IMAGE, lambda: image.write_program(archive, s.DNS_IMAGE, program), archive)
    archive.unlink(missing_ok=True)
