"""The images that the suite's pods run, under the names by which it asks for them; there is no registry, so each node is given an archive.

All but busybox are one layer: Debian packages with what specs call (dig, nc, curl, ...), unpacked, and the suite's own programs. They differ in
their name and in what they run. Upstream's have more in them; a spec that calls something else fails with exit code 127.
"""
import io
import os
import shutil
import stat
import tarfile
from pathlib import Path

from kuryrlab import debian, golang, image
from kuryrlab.cache import Entry, digest
from kuryrlab.failure import Failure
from kuryrlab.lab import Lab
from kuryrlab.settings import DEBIAN_SUITE, Settings

from . import suite

PACKAGES = ["bash", "bind9-dnsutils", "conntrack", "coreutils", "curl", "dash", "debianutils", "findutils", "grep", "hostname", "iperf", "iproute2",
            "iputils-ping", "libc-bin", "mawk", "netcat-openbsd", "procps", "sed", "util-linux", "wget"]
# Debian's iperf is 2.1, and the spec counts the columns that 2.2 reports: a line of names comes first, and those that are new, which no spec reads, are made up.
IPERF, IPERF_REPORT = "usr/bin/iperf", """#!/bin/sh
case " $* " in
*" --reportstyle C "*) ;;
*) exec iperf-2.1 "$@" ;;
esac
iperf-2.1 "$@" | awk -F, -v OFS=, 'BEGIN { print "time,srcaddress,srcport,dstaddr,dstport,transferid,istart,iend,bytes,speed,writecnt,writeerr,tcpretry,tcpcwnd,tcppcwnd,tcprtt,tcprttvar" }
NF == 9 { split($7, interval, "-"); print $1, $2, $3, $4, $5, $6, interval[1], interval[2], $8, $9, -1, -1, -1, -1, -1, 0, 0 }'
"""
LINKS = {"usr/bin/nc": "nc.openbsd", "usr/bin/awk": "mawk", "usr/bin/which": "which.debianutils", "agnhost-2": "agnhost"}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/:/bin/sh\n",
    "etc/group": "root:x:0:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "uploads", "var/log")
# Folders of packages without which programs run.
NEEDLESS = ("usr/share", "usr/lib/systemd", "usr/include", "var/cache", "var/lib")
REGISTRY = "registry.k8s.io/e2e-test-images"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Every image of the one layer, and what it runs. Of nginx no spec asks more than to run.
RUNS = {
    f"{REGISTRY}/agnhost:2.63.0": {"Entrypoint": ["/agnhost"], "Cmd": ["pause"]},
    f"{REGISTRY}/glibc-dns-testing:2.0.0": {},
    f"{REGISTRY}/nginx:1.15-4": {"Cmd": ["/agnhost", "test-webserver"]},
    f"{REGISTRY}/regression-issue-74839:1.4": {"Entrypoint": ["/regression-issue-74839"]},
    "registry.k8s.io/build-image/distroless-iptables:v0.9.6": {},
    "registry.k8s.io/pause:3.10.2": {"Entrypoint": ["/agnhost", "pause"]},
}
BUSYBOX = f"{REGISTRY}/busybox:1.37.0-1"
ARCHIVE, BUSYBOX_ARCHIVE = "images.tar", "busybox.tar"


def entry(settings: Settings) -> Entry:
    """Describe the directory with the archives."""
    inputs = [*PACKAGES, LINKS, FILES, IPERF_REPORT, RUNS, BUSYBOX, suite.CERTIFICATES, suite.entry(settings).path.name, golang.dns_entry(settings).path.name, Path(image.__file__)]
    path = settings.cache / f"conformance-images-{DEBIAN_SUITE}-{digest(*inputs)}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry("images for Kubernetes' end-to-end tests", path, lambda p: build(settings, p, log), minutes=1, megabytes=350, download=40)


def build(settings: Settings, target: Path, log: Path) -> None:
    """Unpack the packages, add the programs, pack both archives."""
    programs, names = suite.entry(settings).make(), golang.dns_entry(settings).make()
    asked = suite.images(programs)
    if unknown := {*RUNS, BUSYBOX} - asked:
        raise Failure(f"the suite of this version asks for other images than {', '.join(sorted(unknown))}", fix=f"correct the names in {Path(__file__).name}")
    root = target / "root"
    root.mkdir()
    debian.fetch(root, PACKAGES, log)
    for link, to in LINKS.items():
        (root / link).unlink(missing_ok=True)
        (root / link).symlink_to(to)
    (root / IPERF).rename(root / f"{IPERF}-2.1")
    (root / IPERF).write_text(IPERF_REPORT)
    (root / IPERF).chmod(0o755)
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name in (*suite.PROGRAMS, *suite.CERTIFICATES):
        shutil.copy(programs / name, root / name)
    shutil.copy(names / "coredns", root / "coredns")
    marked = {**RUNS, marker(target): {}}
    image.pack(target / ARCHIVE, {name: {"Env": [PATH], **run} for name, run in marked.items()}, layer(root))
    image.write(target / BUSYBOX_ARCHIVE, debian.entry(settings).make() / "usr/bin/busybox", BUSYBOX)
    shutil.rmtree(root)


def marker(folder: Path) -> str:
    """Return the name of an image that says which archive a node was given: those of the others stay the same for other contents."""
    return f"localhost/kuryr-lab/conformance:{folder.name.rpartition('-')[2]}"


def layer(root: Path) -> bytes:
    """Return a directory as the one layer of an image, with owner and date of nobody in particular."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for folder, folders, files in os.walk(root):
            inside = Path(folder).relative_to(root)
            folders[:] = sorted(name for name in folders if str(inside / name) not in NEEDLESS)
            for name in sorted([*folders, *files]):
                member(archive, root / inside / name, str(inside / name))
    return data.getvalue()


def member(archive: tarfile.TarFile, path: Path, name: str) -> None:
    """Add a file, folder or link."""
    if path.is_symlink():
        image.add(archive, name, kind=tarfile.SYMTYPE, link=os.readlink(path))
    elif path.is_dir():
        image.add(archive, name, kind=tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755)
    else:
        image.add(archive, name, path.read_bytes(), mode=stat.S_IMODE(path.stat().st_mode))


def give(lab: Lab) -> None:
    """Give every node the images, unless it has them."""
    folder = entry(lab.settings).make()
    for machine in lab.machines.values():
        machine.import_image(marker(folder), lambda: None, folder / ARCHIVE)
        machine.import_image(BUSYBOX, lambda: None, folder / BUSYBOX_ARCHIVE)
