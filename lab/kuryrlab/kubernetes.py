"""The control plane of Kubernetes: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.

The API server listens on the LAN, so that a pod reaches it by that address through its router. Service addresses of
both families are allocated; there is no kube-proxy, Kuryr's agents serve them. The API server is on no node, so nobody
serves them to it: it asks the endpoints of webhooks itself. Every finished request leaves a line in the audit log.
"""

import json
import os
import ssl
import subprocess
from pathlib import Path

from . import places, settings as s
from .failure import Failure
from .pki import Pki
from .processes import Processes
from .settings import Settings
from .wire import request

AUDIT_POLICY = """apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules: [{level: Metadata}]
"""


class Kubernetes:
    """The control plane of one lab."""

    def __init__(self, settings: Settings, processes: Processes, root: Path, binaries: Path):
        self.settings, self.processes, self.binaries = settings, processes, binaries
        self.pki, self.place = Pki(settings, root), places.control(settings)
        self.context: ssl.SSLContext | None = None

    @property
    def audit_log(self) -> Path:
        return self.settings.log / "audit" / "audit.log"

    def start(self) -> str | None:
        """Start all four; pods are accepted when the default service account exists."""
        self.pki.create()
        started = self.start_etcd()
        started |= self.start_apiserver()
        for name, arguments in (
            ("kube-controller-manager", self.controller_manager()),
            ("kube-scheduler", self.scheduler()),
        ):
            started |= self.processes.start(name, self.place, [self.binaries / name] + arguments)
        self.processes.wait(
            "kube-controller-manager",
            lambda: self.call("GET", "/api/v1/namespaces/default/serviceaccounts/default"),
            300,
        )
        return "Kubernetes API" if started else None

    def start_etcd(self) -> bool:
        started = self.processes.start(
            "etcd",
            self.place,
            [
                self.binaries / "etcd",
                "--data-dir",
                self.settings.state / "etcd",
                "--listen-client-url",
                f"http://127.0.0.1:{s.ETCD_PORT}",
                "--listen-peer-url",
                f"http://127.0.0.1:{s.ETCD_PORT + 1}",
            ],
        )
        self.processes.wait(
            "etcd",
            lambda: request(self.place.netns, "GET", f"http://127.0.0.1:{s.ETCD_PORT}/health", timeout=5).status == 200,
            240,
        )
        return started

    def start_apiserver(self) -> bool:
        """Start the API server and wait until it is ready."""
        self.audit_log.parent.mkdir(parents=True, exist_ok=True)
        policy = self.pki.file("audit-policy.yaml")
        policy.write_text(AUDIT_POLICY)
        key = self.pki.file
        started = self.processes.start(
            "kube-apiserver",
            self.place,
            [
                self.binaries / "kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{s.ETCD_PORT}",
                "--bind-address=::",
                f"--advertise-address={s.CONTROL4}",
                f"--secure-port={s.API_PORT}",
                f"--cert-dir={self.settings.state}/apiserver",
                f"--tls-cert-file={key('apiserver.crt')}",
                f"--tls-private-key-file={key('apiserver.key')}",
                f"--client-ca-file={key('ca.crt')}",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key('service-accounts.pub')}",
                f"--service-account-signing-key-file={key('service-accounts.key')}",
                f"--service-cluster-ip-range={s.SERVICES4_CIDR},{s.SERVICES6_CIDR}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--enable-aggregator-routing=true",
                "--allow-privileged=true",
                f"--kubelet-client-certificate={key('apiserver-kubelet.crt')}",
                f"--kubelet-client-key={key('apiserver-kubelet.key')}",
                f"--kubelet-certificate-authority={key('ca.crt')}",
                "--kubelet-preferred-address-types=InternalIP",
                "--profiling=false",
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self.audit_log}",
                "--audit-log-maxsize=200",
                "--audit-log-maxbackup=2",
            ],
        )
        self.processes.wait("kube-apiserver", lambda: self.call("GET", "/readyz") is not None, 300)
        return started

    def controller_manager(self) -> list[str]:
        config, key = self.pki.file("controllers.kubeconfig"), self.pki.file
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.settings.state}/controllers",
            f"--root-ca-file={key('ca.crt')}",
            f"--service-account-private-key-file={key('service-accounts.key')}",
            f"--cluster-signing-cert-file={key('ca.crt')}",
            f"--cluster-signing-key-file={key('ca.key')}",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            f"--flex-volume-plugin-dir={self.settings.state}/flex",
            "--allocate-node-cidrs=false",
        ]

    def scheduler(self) -> list[str]:
        config = self.pki.file("scheduler.kubeconfig")
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.settings.state}/scheduler",
            "--leader-elect=false",
        ]

    def call(self, method: str, path: str, body=None, kind: str = "application/json", accept: tuple = ()):
        """Send one request as the admin and return the decoded answer (None for a status in `accept`).

        Raises OSError while the server is not there or refuses.
        """
        if self.context is None:
            self.context = ssl.create_default_context(cafile=str(self.pki.file("ca.crt")))
            self.context.load_cert_chain(self.pki.file("admin.crt"), self.pki.file("admin.key"))
        answer = request(
            self.place.netns, method, s.API_URL + path, body, {"Content-Type": kind}, context=self.context, timeout=45
        )
        if answer.status in accept:
            return None
        if answer.status >= 300:
            raise OSError(f"{method} {path}: {answer.status} {answer.body[:300].decode(errors='replace')}")
        return json.loads(answer.body) if answer.body[:1] in (b"{", b"[") else answer.body

    def kubectl(self, arguments: list[str]) -> list[str]:
        """Return the command line of kubectl as the admin."""
        env = {"KUBECONFIG": str(self.settings.kubeconfig), "TERM": os.environ.get("TERM", "dumb")}
        place = places.control(self.settings, "run")
        return places.command(
            place, [self.binaries / "kubectl"] + arguments, places.environment(self.settings, env), os.getcwd()
        )

    def apply(self, path: Path) -> None:
        """Apply a file or directory of manifests."""
        done = subprocess.run(
            self.kubectl(["apply", "--server-side", "--force-conflicts", "-f", str(path)]),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Failure(f"kubectl apply -f {path}: {done.stderr.strip()}")
