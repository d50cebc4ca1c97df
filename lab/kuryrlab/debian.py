"""The daemons: Debian packages unpacked into a directory of the cache, never installed.

apt resolves the packages against an empty system, with the sources, mirrors, proxies and keys that this machine is
configured with, and each package is unpacked. No maintainer script runs, nothing is started, dpkg's database is not
touched. A process uses the tree by a mount namespace in which the tree's `usr` covers `/usr` (see places), a plain C
tool by the tree's own dynamic loader (`tool`).
"""

import glob
import os
import re
import shutil
import subprocess
from pathlib import Path

from .cache import Entry, digest, execute
from .failure import Failure
from .settings import DEBIAN_SUITE, Settings

DEFAULT_MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://security.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# What the daemons' own scripts call must be named, too: an empty system has no essential packages.
BASE = [
    "dash",
    "bash",
    "coreutils",
    "sed",
    "grep",
    "mawk",
    "findutils",
    "util-linux",
    "mount",
    "hostname",
    "debianutils",
    "procps",
    "kmod",
    "libc-bin",
]
DAEMONS = [
    "mariadb-server",
    "mariadb-client",
    "ovn-central",
    "ovn-host",
    "openvswitch-switch",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "busybox-static",
]
TOOLS = [
    "iproute2",
    "ethtool",
    "iputils-ping",
    "tcpdump",
    "nftables",
    "conntrack",
    "openssl",
    "curl",
    "iperf3",
    "python3-pip-whl",
]
QUEUE = ["rabbitmq-server"]
# What update-alternatives would link at installation.
ALTERNATIVES = {
    "usr/sbin/ovs-vswitchd": "../lib/openvswitch-switch/ovs-vswitchd",
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
}


def entry(settings: Settings) -> Entry:
    """Describe the unpacked tree for this lab's options."""
    packages = sorted(BASE + DAEMONS + TOOLS + (QUEUE if settings.options.queue else []))
    path = settings.cache / f"debian-{DEBIAN_SUITE}-{digest(*packages)}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry(
        "daemons from Debian packages",
        path,
        lambda p: build(p, packages, log),
        minutes=1.5,
        megabytes=700,
        download=130,
    )


def tool(root: Path, name: str, called: str | None = None) -> list[str]:
    """Return the start of a command that runs a C program of the tree wherever the caller is, maybe under another name."""
    for folder in ("usr/sbin", "usr/bin"):
        if (root / folder / name).exists():
            libraries = glob.glob(f"{root}/usr/lib/*-linux-gnu")
            loader = glob.glob(f"{root}/usr/lib64/ld-linux-*.so.2") + glob.glob(f"{root}/usr/lib/ld-linux-*.so.1")
            return [loader[0], "--argv0", called or name, "--library-path", ":".join(libraries), str(root / folder / name)]
    raise Failure(f"{name} is not in {root}")


def build(root: Path, packages: list[str], log: Path) -> None:
    """Make the daemons' tree."""
    fetch(root, packages, log)
    for link, target in ALTERNATIVES.items():
        (root / link).symlink_to(target)
    for needed in (
        "usr/sbin/mariadbd",
        "usr/sbin/ovs-vswitchd",
        "usr/bin/ovn-controller",
        "usr/bin/containerd",
        "usr/sbin/runc",
    ):
        if not (root / needed).exists():
            raise Failure(f"the unpacked packages lack /{needed}", log)


def fetch(root: Path, packages: list[str], log: Path) -> None:
    """Download the packages with all they depend on and unpack them below `root`."""
    log.unlink(missing_ok=True)
    work = root / "apt"
    for folder in ("lists/partial", "archives/partial", "var"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources.list").write_text(sources())
    # The machine's hooks (docker-clean and the like) are for the machine's own packages.
    (work / "apt.conf").write_text(
        "".join(
            f"#clear {h};\n"
            for h in (
                "APT::Update::Pre-Invoke",
                "APT::Update::Post-Invoke",
                "APT::Update::Post-Invoke-Success",
                "DPkg::Pre-Invoke",
                "DPkg::Post-Invoke",
                "DPkg::Pre-Install-Pkgs",
                "Acquire::GzipIndexes",
                "Dir::Cache::pkgcache",
                "Dir::Cache::srcpkgcache",
            )
        )
        + f"""
Dir::State "{work}/var";
Dir::State::lists "{work}/lists";
Dir::State::status "{work}/status";
Dir::Cache "{work}";
Dir::Cache::archives "{work}/archives";
Dir::Etc::sourcelist "{work}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::Assume-Yes "true";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
"""
    )
    apt = ["apt-get", "-c", str(work / "apt.conf")]
    execute(apt + ["update"], log, what="apt-get update did not reach the Debian mirror")
    execute(apt + ["install", "--download-only"] + packages, log, what="apt-get could not download the lab's packages")
    # Merged /usr, as on Debian 12: the links must be there before the first package.
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((work / "archives").glob("*.deb")):
        unpack(package, root, log)
    shutil.rmtree(work)


def unpack(package: Path, root: Path, log: Path) -> None:
    """Unpack one package; documentation and translations stay out."""
    skip = [f"--exclude=./usr/share/{d}/*" for d in ("doc", "man", "locale", "info", "lintian")]
    with open(log, "ab") as out:
        data = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE, stderr=out)
        tar = subprocess.run(
            ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(root)] + skip,
            stdin=data.stdout,
            stderr=out,
        )
        data.stdout.close()
        if data.wait() or tar.returncode:
            raise Failure(f"could not unpack {package.name}", log)


def sources(directory: str = "/etc/apt") -> str:
    """Return apt source lines for our release: this machine's where it has them, Debian's own mirrors otherwise."""
    lines = []
    for path in [f"{directory}/sources.list"] + sorted(glob.glob(f"{directory}/sources.list.d/*")):
        if os.path.isfile(path):
            text = Path(path).read_text(errors="replace")
            lines += (
                one_line_sources(text)
                if path.endswith(".list")
                else deb822_sources(text)
                if path.endswith(".sources")
                else []
            )
    if not any(f" {DEBIAN_SUITE} " in line for line in lines):
        signed = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
        mirror = next(
            (m.group(1) for m in (re.search(r"(https?://\S+/debian)/? ", line + " ") for line in lines) if m),
            DEFAULT_MIRROR,
        )
        lines = [
            f"deb {signed}{mirror} {DEBIAN_SUITE} main",
            f"deb {signed}{SECURITY_MIRROR} {DEBIAN_SUITE}-security main",
        ]
    return "\n".join(lines) + "\n"


def one_line_sources(text: str) -> list[str]:
    """Return the lines of a sources.list that are about our release."""
    return [
        line.strip()
        for line in text.splitlines()
        if re.match(rf"deb\s+(\[[^]]*\]\s*)?\S+\s+{DEBIAN_SUITE}(-updates|-security)?\s", line + " ")
    ]


def deb822_sources(text: str) -> list[str]:
    """Return what a deb822 file says about our release, as lines of a sources.list."""
    lines = []
    for stanza in re.split(r"\n\s*\n", text):
        kept = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
        f = {k.lower(): " ".join(v.split()) for k, v in re.findall(r"^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", kept, re.M)}
        if "deb" not in f.get("types", "").split() or f.get("enabled", "yes") == "no":
            continue
        # A key written into the file itself cannot stand on one line; apt then takes the machine's trusted keys.
        options = f"[signed-by={f['signed-by']}] " if f.get("signed-by", "").startswith("/") else ""
        for uri in f.get("uris", "").split():
            for suite in f.get("suites", "").split():
                if re.fullmatch(rf"{DEBIAN_SUITE}(-updates|-security)?", suite):
                    lines.append(f"deb {options}{uri} {suite} {f.get('components', 'main')}")
    return lines
