"""Certificates of the cluster: one authority, server and client certificates, the key of service accounts, kubeconfig
files.
"""

import base64
import secrets
import subprocess
from pathlib import Path

from . import debian, settings as s, whole
from .failure import Failure
from .settings import Settings

DAYS = "3650"


class Pki:
    """The files below etc/kubernetes."""

    def __init__(self, settings: Settings, root: Path):
        self.settings, self.root = settings, root
        self.folder = settings.etc / "kubernetes"

    def file(self, name: str) -> Path:
        return self.folder / name

    def create(self) -> None:
        """Make whatever is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.file("ca.crt").exists():
            self.key("ca")
            with whole.made(self.file("ca.crt")) as new:
                self.openssl("req", "-x509", "-new", "-key", "ca.key", "-days", DAYS, "-subj", "/CN=kuryr-lab", "-out", new.name)
        if not self.file("service-accounts.pub").exists():
            self.openssl("genrsa", "-out", "service-accounts.key", "2048")
            with whole.made(self.file("service-accounts.pub")) as new:
                self.openssl("rsa", "-in", "service-accounts.key", "-pubout", "-out", new.name)
        first = s.SERVICES4_CIDR.rsplit(".", 1)[0] + ".1"
        names = [
            "IP:127.0.0.1",
            "IP:::1",
            f"IP:{s.CONTROL4}",
            f"IP:{s.CONTROL6}",
            f"IP:{first}",
            "IP:" + s.SERVICES6_CIDR.split("/")[0] + "1",
        ]
        names += ["DNS:localhost", "DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc"]
        self.certificate("apiserver", "/CN=kube-apiserver", "serverAuth", names)
        self.certificate("apiserver-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client", "clientAuth")
        for name, subject in (
            ("admin", "/O=system:masters/CN=admin"),
            ("controllers", "/CN=system:kube-controller-manager"),
            ("scheduler", "/CN=system:kube-scheduler"),
        ):
            self.certificate(name, subject, "clientAuth")
            self.kubeconfig(name)
        for n in self.settings.nodes:
            self.certificate(n.name, f"/O=system:nodes/CN=system:node:{n.name}", "clientAuth")
            self.certificate(
                f"{n.name}-serving",
                f"/O=system:nodes/CN=system:node:{n.name}",
                "serverAuth",
                ["IP:127.0.0.1", f"IP:{n.lan4}", f"IP:{n.lan6}", f"DNS:{n.name}"],
            )
            self.kubeconfig(n.name)

    def certificate(self, name: str, subject: str, usage: str, names: list[str] = ()) -> None:
        """Make a key and a certificate signed by the authority."""
        if self.file(f"{name}.crt").exists():
            return
        self.key(name)
        self.openssl("req", "-new", "-key", f"{name}.key", "-subj", subject, "-out", f"{name}.csr")
        extensions = [f"extendedKeyUsage={usage}"] + ([f"subjectAltName={','.join(names)}"] if names else [])
        self.file(f"{name}.ext").write_text("\n".join(extensions) + "\n")
        with whole.made(self.file(f"{name}.crt")) as new:
            sign = ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", DAYS]
            self.openssl(*sign, "-set_serial", serial(), "-extfile", f"{name}.ext", "-out", new.name)
        self.file(f"{name}.csr").unlink()
        self.file(f"{name}.ext").unlink()

    def key(self, name: str) -> None:
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        self.file(f"{name}.key").chmod(0o600)

    def kubeconfig(self, name: str) -> None:
        """Write a kubeconfig that holds its certificates itself, so that it may be copied."""
        data = {
            f: base64.b64encode(self.file(f).read_bytes()).decode() for f in ("ca.crt", f"{name}.crt", f"{name}.key")
        }
        target = self.file(f"{name}.kubeconfig")
        target.write_text(f"""apiVersion: v1
kind: Config
clusters:
- {{name: lab, cluster: {{server: "{s.API_URL}", certificate-authority-data: {data["ca.crt"]}}}}}
users:
- {{name: {name}, user: {{client-certificate-data: {data[name + ".crt"]}, client-key-data: {data[name + ".key"]}}}}}
contexts:
- {{name: lab, context: {{cluster: lab, user: {name}}}}}
current-context: lab
""")
        target.chmod(0o600)

    def openssl(self, *words: str) -> None:
        done = subprocess.run(
            debian.tool(self.root, "openssl") + list(words),
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={"OPENSSL_CONF": f"{self.root}/etc/ssl/openssl.cnf"},
        )
        if done.returncode:
            raise Failure(f"openssl {' '.join(words)}: {done.stderr.strip()}")


def serial() -> str:
    """Return the number of a certificate: any that was not given before, so at random rather than from a file."""
    return f"0x{secrets.token_hex(16)}"
