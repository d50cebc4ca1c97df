"""Container images of the lab, made without registry or builder: a static busybox, sandbox and workload at once, and
images of a single program. Each is an OCI archive.
"""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

from . import settings as s

COMMAND = ["/bin/sleep", "2147483647"]


def write_program(target: Path, name: str, program: Path) -> None:
    """Write an image of one static program, which is what it runs."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as t:
        for folder in ("dev", "etc", "proc", "sys", "tmp"):
            add(t, folder, kind=tarfile.DIRTYPE)
        add(t, program.name, program.read_bytes())
    pack(target, {name: {"Entrypoint": [f"/{program.name}"]}}, layer.getvalue())


def write(target: Path, busybox: Path, name: str = s.IMAGE) -> None:
    """Write the image of busybox."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as t:
        for folder in ("bin", "dev", "etc", "proc", "sys", "tmp", "var", "var/run", "root", "www"):
            add(t, folder, kind=tarfile.DIRTYPE)
        add(t, "bin/busybox", busybox.read_bytes())
        for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                add(t, f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
        add(t, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
        add(t, "etc/group", b"root:x:0:\n", mode=0o644)
        add(t, "www/index.html", b"ok\n", mode=0o644)
    pack(target, {name: {"Env": ["PATH=/bin"], "Cmd": COMMAND}}, layer.getvalue())


def pack(target: Path, images: dict[str, dict], data: bytes) -> None:
    """Write an archive of images with the same only layer, each by its name with what it runs."""
    blobs, manifests = {digest(data): data}, []
    for name, run in images.items():
        config = configuration(run, data)
        manifest = of_layer(config, data)
        blobs |= {digest(config): config, digest(manifest): manifest}
        manifests.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(manifest),
                "size": len(manifest),
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": name.rpartition(":")[2],
                },
            }
        )
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
    with tarfile.open(target, "w") as t:
        add(t, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', mode=0o644)
        add(t, "index.json", json.dumps(index).encode(), mode=0o644)
        for name, blob in blobs.items():
            add(t, f"blobs/sha256/{name[7:]}", blob, mode=0o644)


def configuration(run: dict, data: bytes) -> bytes:
    """Return the configuration of an image with one layer."""
    return json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
            "os": "linux",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [digest(data)]},
        }
    ).encode()


def of_layer(config: bytes, data: bytes) -> bytes:
    """Return the manifest of an image with one layer."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(config),
                "size": len(config),
            },
            "layers": [
                {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(data), "size": len(data)}
            ],
        }
    ).encode()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add(
    tar: tarfile.TarFile,
    name: str,
    data: bytes | None = None,
    mode: int = 0o755,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
) -> None:
    """Add one member without a date, so that equal contents make equal archives."""
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname, info.size = mode, kind, link, len(data or b"")
    tar.addfile(info, io.BytesIO(data) if data is not None else None)
