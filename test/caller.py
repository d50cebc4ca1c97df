"""Who builds and who is root: the build runs as the caller, also under sudo, and only the lab's steps run as root."""
import os
import pwd
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from kuryrlab import rights  # noqa: E402

RELEASE = ["cargo", "build", "--release", "-p", "kuryr-controller", "-p", "kuryr-agent"]
# The same, and what holds the lab's servers against those in memory (`e2e/contract`).
RELEASE_AND_CONTRACT = [*RELEASE, "-p", "kuryr-sim"]
# The CNI binary: static, because it runs wherever the container runtime runs it.
STATIC = ["cargo", "build", "--profile", "cni", "--target", "x86_64-unknown-linux-gnu", "-p", "kuryr-cni"]
# What crates from the registry compile to is shared by all checkouts of the builder.
RESTORE, KEEP = ([sys.executable, str(Path(__file__).resolve().parent / "compiled.py"), word] for word in ("restore", "keep"))
STATIC_VARIABLES = {"RUSTFLAGS": "-C target-feature=+crt-static"}


class Caller:
    """Who builds and who is root: the user behind sudo, or whoever runs this."""

    def __init__(self):
        self.is_root = os.geteuid() == 0
        behind_sudo = self.is_root and os.environ.get("SUDO_UID", "0") != "0"
        self.uid = int(os.environ["SUDO_UID"]) if behind_sudo else os.getuid()
        self.user = pwd.getpwuid(self.uid)
        self.drops = behind_sudo

    def builder(self) -> dict:
        """Arguments for subprocess that make a command run as the builder."""
        home = self.user.pw_dir if self.drops else os.environ.get("HOME", self.user.pw_dir)
        cargo = os.environ.get("CARGO_HOME", f"{home}/.cargo") if not self.drops else f"{home}/.cargo"
        env = {k: v for k, v in os.environ.items() if not (self.drops and k.startswith(("SUDO_", "XDG_", "CARGO", "RUSTUP")))}
        env |= {"HOME": home, "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:{cargo}/bin", "CARGO_TERM_COLOR": "never"}
        if not self.drops:
            return {"env": env}
        groups = os.getgrouplist(self.user.pw_name, self.user.pw_gid)
        env |= {"USER": self.user.pw_name, "LOGNAME": self.user.pw_name}
        return {"env": env, "user": self.uid, "group": self.user.pw_gid, "extra_groups": groups}

    def as_root(self, command: list[str], env: dict) -> list[str]:
        """Return the command with what makes it run once as root, where the lab finds its cache and state: below the caller's home."""
        variables = rights.kept(os.environ) | rights.kept(self.builder()["env"]) | env
        return rights.with_variables(command, variables, [] if self.is_root else ["sudo", "-n"])

    def keep_sudo(self) -> None:
        """Ask for the password once, at the start, and keep the permission while this process runs."""
        if self.is_root:
            return
        subprocess.run(["sudo", "-v"], check=True)

        def refresh():
            while True:
                time.sleep(60)
                subprocess.run(["sudo", "-n", "-v"], check=False)

        threading.Thread(target=refresh, daemon=True).start()
