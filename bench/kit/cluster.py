"""Pods by the API server, seen through a watch: when each was made, ran, and was gone."""
import http.client
import json
import sys
import threading
import time

from harness.kubernetes import Kubernetes, path

NAMESPACE, LABEL = "bench", "bench"
IMAGE = "localhost/kuryr-lab/busybox:1"
# A pod that is not Running by then is a failure, not a slow pod.
POD_SECONDS = 240


class Late(Exception):
    """Something did not happen in time."""


class Cluster:
    """The pods of the benchmark, in a namespace of their own."""

    def __init__(self, lab):
        self.kube, self.changed = Kubernetes(lab), threading.Condition()
        self.created, self.scheduled, self.running, self.gone, self.ended, self.followers = {}, {}, {}, {}, {}, []
        if not self.kube.get("Namespace", NAMESPACE):
            self.kube.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.clear()
        version = self.kube.call("GET", path("Pod", NAMESPACE))["metadata"]["resourceVersion"]
        threading.Thread(target=self.follow, args=(version,), daemon=True).start()

    def follow(self, version: str) -> None:
        """Note every event from a version on; a stream that ends is taken up where it ended."""
        while True:
            connection = self.kube.connect()
            connection.sock.settimeout(None)
            try:
                connection.request("GET", f"{path('Pod', NAMESPACE)}?watch=1&resourceVersion={version}")
                for line in connection.getresponse():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        print(f"the watch of pods ended: {event['object'].get('message')}", file=sys.stderr, flush=True)
                        return
                    version = event["object"]["metadata"]["resourceVersion"]
                    self.note(event, time.time())
            except (OSError, ValueError, http.client.HTTPException):
                time.sleep(0.1)
            finally:
                connection.close()

    def note(self, event: dict, now: float) -> None:
        """Note what an event says of a pod: seconds since 1970."""
        pod = event["object"]
        name, status = pod["metadata"]["name"], pod.get("status", {})
        with self.changed:
            if event["type"] == "DELETED":
                self.gone.setdefault(name, now)
            elif status.get("phase") == "Running":
                self.running.setdefault(name, now)
            elif status.get("phase") in ("Succeeded", "Failed"):
                self.ended.setdefault(name, now)
            if pod["spec"].get("nodeName"):
                self.scheduled.setdefault(name, now)
            self.changed.notify_all()
        for follower in self.followers:
            follower(event, now)

    def wait(self, seen: dict, names: list[str], seconds: float = POD_SECONDS) -> None:
        """Wait until something was seen of all of these pods."""
        with self.changed:
            if not self.changed.wait_for(lambda: all(name in seen for name in names), seconds):
                raise Late(f"after {seconds} s still waiting for {[n for n in names if n not in seen][:5]}")

    def run(self, places: dict[str, str | None]) -> list[float]:
        """Create pods on the nodes that are named for them, or where the scheduler wants, and return the seconds until each is Running."""
        for name, node in places.items():
            self.created[name] = time.time()
            self.kube.create(manifest(name, node))
        self.wait(self.running, list(places))
        return [self.running[name] - self.created[name] for name in places]

    def delete(self, names: list[str]) -> None:
        """Delete pods and wait until they are gone."""
        for name in names:
            self.kube.delete("Pod", name, NAMESPACE)
        self.wait(self.gone, names)

    def clear(self) -> None:
        """Remove everything, also what an earlier run left."""
        for kind in ("Deployment", "Job"):
            prefix = "/apis/apps/v1" if kind == "Deployment" else "/apis/batch/v1"
            options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
            self.kube.call("DELETE", f"{prefix}/namespaces/{NAMESPACE}/{kind.lower()}s", options)
        self.kube.call("DELETE", f"{path('Pod', NAMESPACE)}?gracePeriodSeconds=1")
        end = time.monotonic() + POD_SECONDS
        while self.kube.objects("Pod", NAMESPACE):
            if time.monotonic() > end:
                raise Late("pods of an earlier run do not go")
            time.sleep(0.5)


def spec(node: str | None, command: str) -> dict:
    """Return what a pod of the benchmark is: the smallest that starts, ends at once when told to, and mounts nothing."""
    container = {"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", command]}
    found = {"terminationGracePeriodSeconds": 5, "automountServiceAccountToken": False, "containers": [container]}
    return found | ({"nodeName": node} if node else {})


def manifest(name: str, node: str | None) -> dict:
    """Return a pod that stays."""
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {"app": LABEL}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec(node, "trap exit TERM; sleep 3600 & wait")}
