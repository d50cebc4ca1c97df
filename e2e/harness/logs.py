"""Logs of a lab, kept when something failed."""
import os
import shutil
from pathlib import Path

from .lab import ROOT, Lab


def keep_logs(lab: Lab, name: str) -> None:
    """Copy the logs of Kuryr, the kubelets, ovn-controller and Neutron and Octavia as they are now."""
    target = Path(os.environ.get("KURYR_E2E_LOGS") or ROOT / "target" / "e2e-logs") / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    owner = ROOT.stat()
    for log in [*lab.settings.log.glob("*kuryr*.log"), *lab.settings.log.glob("node*.log"), *lab.settings.log.glob("hv*.log"), *lab.settings.log.glob("neutron*.log"), *lab.settings.log.glob("octavia*.log"), lab.settings.log / "kube-apiserver.log"]:
        if log.exists():
            shutil.copyfile(log, target / log.name)
    for kind in ("kuryrnodes", "pods -A -o wide", "events -A --sort-by=.lastTimestamp"):
        words = kind.split()
        listing = "yaml" if words[0] == "kuryrnodes" else None
        (target / f"{words[0]}.txt").write_text(lab.kubectl("get", *words, *(["-o", listing] if listing else []), check=False))
    for path in [target.parent, target, *target.iterdir()]:
        os.chown(path, owner.st_uid, owner.st_gid)
    print(f"          logs: {target}", flush=True)
