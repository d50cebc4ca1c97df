"""Going on as root, with what of the caller's environment decides where files are and how downloads are made.

Its values may hold passwords (`https_proxy`, `PIP_INDEX_URL`). As words of a command line they would show in `ps`, and
sudo writes the command line and each variable that `--preserve-env=NAME` keeps into its log. So they go through a file
that only the caller and root can read. This file, run as a program, takes it away and becomes the command:

    sudo python3 -I rights.py FILE COMMAND...
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

NAMES = (
    "HOME",
    "PATH",
    "TERM",
    "XDG_CACHE_HOME",
    "XDG_STATE_HOME",
    "KURYR_LAB",
    "KURYR_E2E_LOGS",
    "OS_CLOUD",
    "GOENV",
    "GOFLAGS",
    "GOINSECURE",
    "GONOPROXY",
    "GONOSUMCHECK",
    "GONOSUMDB",
    "GOPRIVATE",
    "GOPROXY",
    "GOSUMDB",
)
PREFIXES = ("PIP_", "SSL_CERT_", "REQUESTS_")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def kept(environment) -> dict[str, str]:
    """Return the variables that root's commands get of an environment."""
    return {k: v for k, v in environment.items() if k in NAMES or k.startswith(PREFIXES) or k.lower() in PROXIES}


def with_variables(command: list, variables: dict[str, str], sudo: list[str]) -> list[str]:
    """Return a command line, begun by `sudo` (nothing for root itself), that runs a command once with variables."""
    number, file = tempfile.mkstemp(prefix="kuryr-environment-")
    with os.fdopen(number, "w") as f:
        json.dump(variables, f)
    # A command that was stopped before it began has not taken the file away.
    atexit.register(Path(file).unlink, missing_ok=True)
    return [*sudo, sys.executable, "-I", str(Path(__file__).resolve()), file, *map(str, command)]


def become_root(command: list) -> None:
    """Run this command as root by sudo in the place of this process; nothing to do for root."""
    if os.geteuid() == 0:
        return
    if not shutil.which("sudo"):
        sys.exit("run it as root; there is no sudo")
    words = with_variables(command, kept(os.environ), ["sudo"])
    sys.stdout.flush()
    os.execvp(words[0], words)


def take(file: str) -> dict[str, str]:
    """Read the variables of a file and delete it; only one of the caller or of root is trusted."""
    number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(number) as f:
        owner = os.fstat(number).st_uid
        if owner not in (0, os.geteuid(), int(os.environ.get("SUDO_UID", "0"))):
            sys.exit(f"{file} belongs to another user ({owner})")
        variables = json.load(f)
    os.unlink(file)
    return variables


if __name__ == "__main__":
    os.environ.update(take(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
