"""OpenStack's services and clients in a virtualenv of the cache, with every version pinned."""

import shutil
import sys
from pathlib import Path

from . import debian
from .cache import Entry, digest, execute
from .failure import Failure
from .settings import LAB, Settings

SOURCES = LAB / "openstack"


def entry(settings: Settings) -> Entry:
    """Describe the virtualenv."""
    files = [SOURCES / f for f in ("requirements.txt", "constraints.txt", "lab_network_driver.py")]
    version = "%d.%d" % sys.version_info[:2]
    path = settings.cache / f"openstack-{digest(*files, version, sys.base_prefix)}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry(
        "OpenStack in a virtualenv", path, lambda p: build(settings, p, log), minutes=2.5, megabytes=600, download=120
    )


def build(settings: Settings, venv: Path, log: Path) -> None:
    """Install everything; pip takes its index, proxies and certificates from the user's configuration."""
    log.unlink(missing_ok=True)
    execute([sys.executable, "-m", "venv", "--without-pip", venv], log, what="python3 could not make a virtualenv")
    pip = [venv / "bin" / "python", "-m", "pip"]
    try:
        import ensurepip  # noqa: F401  (Debian ships it apart from Python)

        execute([venv / "bin" / "python", "-m", "ensurepip", "--default-pip"], log)
    except ImportError:
        wheels = list((debian.entry(settings).make() / "usr/share/python-wheels").glob("pip-*.whl"))
        if not wheels:
            raise Failure("this Python has no pip and no ensurepip", fix="apt-get install python3-venv") from None
        pip = [venv / "bin" / "python", wheels[0] / "pip"]
    execute(
        pip
        + [
            "install",
            "--disable-pip-version-check",
            "--prefer-binary",
            "--no-input",
            "setuptools",
            "wheel",
            "-r",
            SOURCES / "requirements.txt",
            "-c",
            SOURCES / "constraints.txt",
        ],
        log,
        what="pip could not install OpenStack",
    )
    add_network_driver(next((venv / "lib").glob("python3.*")) / "site-packages")


def add_network_driver(packages: Path) -> None:
    """Make the amphora worker's network driver known by the entry point that Octavia looks for."""
    shutil.copy(SOURCES / "lab_network_driver.py", packages)
    info = packages / "lab_network_driver-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-network-driver\nVersion: 1\n")
    (info / "INSTALLER").write_text("lab\n")
    (info / "RECORD").write_text("")
    (info / "entry_points.txt").write_text(
        "[octavia.network.drivers]\nlab_driver = lab_network_driver:LabNetworkDriver\n"
    )
