"""A guest: user-mode Linux, a kernel of its own as one process of the machine, for what the machine's kernel lacks
(8021q, openvswitch).

Its root is the machine's, read-only, so every program is there; it has no disk, no console and no network. It boots in
two seconds and needs no virtualisation.

Differences from an ordinary kernel: Linux 6.1, one processor, no BTF, BPF by the interpreter, nftables
for bridges only.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .cache import Entry, digest, execute
from .failure import Failure
from .settings import DEBIAN_SUITE, LAB, Settings

PACKAGES = ["user-mode-linux", "kmod"]
MODULES = ("8021q", "veth", "bridge", "macvlan", "nf_tables", "tun", "sch_ingress", "cls_bpf", "act_bpf")
SOURCES = LAB / "guest"
ENDED = re.compile(r"guest: exit (\d+)$")
MEMORY_MB, SECONDS = 512, 600
# Where a guest has the directory with what it was given (see guest/init.sh).
FILES = "/run/guest"


def entry(settings: Settings) -> Entry:
    """Describe the unpacked kernel with its modules and the library that is preloaded."""
    path = settings.cache / f"guest-{DEBIAN_SUITE}-{digest(*PACKAGES, SOURCES / 'shim.c')}"
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry("a kernel for guests", path, lambda p: build(p, log), minutes=0.3, megabytes=150, download=45)


def build(root: Path, log: Path) -> None:
    """Unpack the packages, index the modules, compile the library."""
    debian.fetch(root, PACKAGES, log)
    modules = next((root / "usr/lib/uml/modules").iterdir())
    version = modules.name
    (root / "lib" / "modules").mkdir(exist_ok=True)
    shutil.move(modules, root / "lib" / "modules" / version)
    execute(debian.tool(root, "kmod", "depmod") + ["-b", root, version], log, what="depmod failed")
    execute(
        ["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", root / "shim.so", SOURCES / "shim.c"],
        log,
        what="no C compiler (apt-get install gcc)",
    )


@dataclass(frozen=True)
class Guest:
    """One guest: where its files are, its memory."""

    settings: Settings
    memory_mb: int = MEMORY_MB

    def run(
        self, words: list[str], env: dict | None = None, seconds: float = SECONDS, say=print, files: list | tuple = ()
    ) -> int:
        """Boot, run a command, and return its exit code; each line that it prints goes to `say`.

        Each of `files` is in FILES there under its name, wherever it is on the machine.

        Raises Failure if the guest ends before the command does, or does not end in time.
        """
        root = entry(self.settings).make()
        with tempfile.TemporaryDirectory(prefix="guest", dir=self.scratch()) as folder:
            self.write(Path(folder), root, words, env or {})
            for file in files:
                shutil.copy(file, folder)
            child = subprocess.Popen(
                self.command(root, folder),
                env={"PATH": os.environ["PATH"], "LD_PRELOAD": str(root / "shim.so"), "TMPDIR": "/dev/shm"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            late = threading.Event()
            timer = threading.Timer(seconds, lambda: (late.set(), end(child)))
            timer.start()
            try:
                return follow(child, say, late)
            finally:
                timer.cancel()
                end(child)

    def scratch(self) -> Path:
        """Return a directory of the lab's; guests see it whatever they cover."""
        folder = self.settings.state / "guest"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write(self, folder: Path, root: Path, words: list[str], env: dict) -> None:
        """Write what the guest's first process reads."""
        modprobe = debian.tool(root, "kmod", "modprobe") + ["-d", str(root)]
        (folder / "tools").write_text(shlex.join(modprobe) + "\n")
        (folder / "modules").write_text("".join(f"{m}\n" for m in MODULES))
        variables = "".join(f"export {k}={shlex.quote(str(v))}\n" for k, v in env.items())
        here = shlex.quote(os.getcwd())
        (folder / "command").write_text(f"{variables}cd {here} 2>/dev/null\n{shlex.join(words)}\n")

    def command(self, root: Path, folder: str) -> list[str]:
        """Return the guest's command line."""
        return (
            ["unshare", "--net", "--", "setpriv", "--pdeathsig", "KILL"]
            + [str(root / "usr/bin/linux.uml"), f"mem={self.memory_mb}M"]
            + ["rootfstype=hostfs", "rootflags=/", "ro", f"init={SOURCES / 'init.sh'}", f"lab_guest={folder}"]
            + ["con=null", "con0=null,fd:1", "quiet", "loglevel=3", f"uml_dir={folder}/uml", "umid=guest"]
        )


def follow(child: subprocess.Popen, say, late: threading.Event) -> int:
    """Pass on what is printed until the command has ended, and return its exit code."""
    for line in child.stdout:
        line = line.rstrip("\r\n")
        if ended := ENDED.search(line):
            return int(ended[1])
        say(line)
    if late.is_set():
        raise Failure("the command in the guest did not end in time", fix="give it more: --seconds N")
    raise Failure("the guest ended before the command did")


def end(child: subprocess.Popen) -> None:
    """End a guest with all its processes."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
