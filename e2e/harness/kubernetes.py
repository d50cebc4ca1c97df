"""A small client of the lab's API server: objects as plain dictionaries, from inside the control plane's namespace."""
import http.client
import json
import socket
import ssl
import threading
from urllib.parse import quote, urlencode

from kuryrlab import settings as names
from kuryrlab.wire import in_netns

from .expect import Unmet, until
from .lab import Lab

# kind -> (prefix, plural, namespaced)
KINDS = {
    "Pod": ("/api/v1", "pods", True), "Namespace": ("/api/v1", "namespaces", False), "Node": ("/api/v1", "nodes", False),
    "Service": ("/api/v1", "services", True), "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices", True),
    "Event": ("/api/v1", "events", True), "ServiceAccount": ("/api/v1", "serviceaccounts", True), "Lease": ("/apis/coordination.k8s.io/v1", "leases", True),
    "ConfigMap": ("/api/v1", "configmaps", True),
    "Deployment": ("/apis/apps/v1", "deployments", True), "ReplicaSet": ("/apis/apps/v1", "replicasets", True),
    "KuryrNode": ("/apis/kuryr.openstack.org/v1alpha1", "kuryrnodes", False), "KuryrPort": ("/apis/openstack.org/v1", "kuryrports", True),
    "KuryrLoadBalancer": ("/apis/openstack.org/v1", "kuryrloadbalancers", True),
    "ValidatingAdmissionPolicy": ("/apis/admissionregistration.k8s.io/v1", "validatingadmissionpolicies", False),
    "ValidatingWebhookConfiguration": ("/apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", False),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
}
JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
TIMEOUT_SECONDS = 60


class Refused(Unmet):
    """The API server answered with an error."""

    def __init__(self, status: int, message: str):
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


class Kubernetes:
    """The API server as one user: the admin by certificate, anybody else by token."""

    def __init__(self, lab: Lab, token: str | None = None):
        self.netns, self.token, self.local = lab.settings.netns("cp"), token, threading.local()
        folder = lab.settings.etc / "kubernetes"
        self.context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        if not token:
            self.context.load_cert_chain(folder / "admin.crt", folder / "admin.key")

    def call(self, method: str, path: str, body=None, content_type: str = "application/json") -> dict:
        """Send one request. Reading may happen on an old connection, and again if the server had closed that meanwhile; writing must not happen twice."""
        headers = {"Content-Type": content_type, "User-Agent": "e2e-harness"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        data = json.dumps(body).encode() if body is not None else None
        for fresh in (False, True):
            connection = None if fresh or method != "GET" else getattr(self.local, "connection", None)
            reused = connection is not None
            connection = connection or self.connect()
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.local.connection = None
                if reused:
                    continue
                raise OSError(f"{method} {path}: {error!r}") from error
            self.local.connection = connection
            decoded = json.loads(text) if text[:1] == b"{" else {"text": text.decode(errors="replace")}
            if answer.status >= 300:
                raise Refused(answer.status, f"{method} {path.partition('?')[0]}: {decoded.get('message') or decoded.get('text')}")
            return decoded
        raise OSError(f"{method} {path}: connection lost twice")

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection from inside the control plane's namespace."""
        address = (names.CONTROL4, names.API_PORT)
        connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_SECONDS)
        plain = in_netns(self.netns, lambda: socket.create_connection(address, timeout=TIMEOUT_SECONDS))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock = self.context.wrap_socket(plain, server_hostname=names.CONTROL4)
        return connection

    def ready(self) -> bool:
        """Tell whether the server says that it is ready."""
        try:
            return self.call("GET", "/readyz").get("text") == "ok"
        except (OSError, Refused):
            return False

    def get(self, kind: str, name: str, namespace: str | None = None) -> dict | None:
        """Return an object, or None if there is none."""
        try:
            return self.call("GET", path(kind, namespace, name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def objects(self, kind: str, namespace: str | None = None, labels: str | None = None, fields: str | None = None) -> list[dict]:
        """Return all objects of a kind."""
        query = {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}
        return self.call("GET", path(kind, namespace) + (f"?{urlencode(query)}" if query else ""))["items"]

    def create(self, manifest: dict) -> dict:
        """Create an object."""
        return self.call("POST", path(manifest["kind"], manifest["metadata"].get("namespace")), manifest)

    def patch(self, kind: str, name: str, patch, namespace: str | None = None, subresource: str = "") -> dict:
        """Change an object: a list is a JSON patch, a dictionary a merge patch."""
        target = path(kind, namespace, name) + (f"/{subresource}" if subresource else "")
        return self.call("PATCH", target, patch, JSON_PATCH if isinstance(patch, list) else MERGE_PATCH)

    def delete(self, kind: str, name: str, namespace: str | None = None, grace: int | None = None) -> None:
        """Delete an object; one that is not there is deleted."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1"} | ({"gracePeriodSeconds": grace} if grace is not None else {})
        try:
            self.call("DELETE", path(kind, namespace, name), options)
        except Refused as refused:
            if refused.status != 404:
                raise

    def wait_gone(self, kind: str, name: str, namespace: str | None, seconds: float) -> None:
        """Wait until an object is not there any more."""
        until(f"{kind} {name} is gone", lambda: self.get(kind, name, namespace) is None, seconds)

    def token_for(self, account: str, namespace: str, node: str | None = None, hours: int = 24) -> str:
        """Return a token of a service account, bound to a Node if one is named."""
        spec: dict = {"expirationSeconds": hours * 3600, "audiences": None}
        if node:
            spec["boundObjectRef"] = {"kind": "Node", "apiVersion": "v1", "name": node, "uid": self.get("Node", node)["metadata"]["uid"]}
        request = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {k: v for k, v in spec.items() if v is not None}}
        return self.call("POST", path("ServiceAccount", namespace, account) + "/token", request)["status"]["token"]

    def events(self, namespace: str, name: str, kind: str = "Pod") -> list[str]:
        """Return the Events about an object as `Type Reason: message`."""
        found = self.objects("Event", namespace, fields=f"involvedObject.name={name},involvedObject.kind={kind}")
        return [f"{e['type']} {e['reason']}: {e.get('message', '')}" for e in found]


def path(kind: str, namespace: str | None = None, name: str | None = None) -> str:
    """Return the path of a collection or an object."""
    prefix, plural, namespaced = KINDS[kind]
    inside = f"/namespaces/{namespace}" if namespaced and namespace else ""
    return f"{prefix}{inside}/{plural}" + (f"/{quote(name)}" if name else "")
