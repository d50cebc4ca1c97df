"""MariaDB, and a database that already holds every schema, user and endpoint.

Migrations take longer than everything else of a start, and give the same result each time. So they run once, in the
cache, on a MariaDB and a Keystone that listen on unix sockets only; a new lab copies the files. What differs between
labs is not in the database: addresses are those of namespaces, the same in every lab.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

from . import debian, identity, openstack, places, python, settings as s
from .cache import Entry, digest, execute, finished
from .failure import Failure
from .processes import Processes
from .settings import LAB, Settings
from .steps import check_stop

SCHEMAS = ("keystone", "neutron", "octavia")


def entry(settings: Settings) -> Entry:
    """Describe the prepared database."""
    root, venv = debian.entry(settings).path, python.entry(settings).path
    here = LAB / "kuryrlab"
    accounts = (s.ADMIN_PASSWORD, s.SERVICE_PASSWORD, s.USERS, s.KEYSTONE_URL, s.NEUTRON_URL, s.OCTAVIA_URL)
    path = (
        settings.cache
        / f"database-{digest(root.name, venv.name, here / 'database.py', here / 'identity.py', accounts)}"
    )
    log = settings.cache / "log" / f"{path.name}.log"
    return Entry("database schemas", path, lambda p: build(settings, p, log), minutes=1, megabytes=250)


def server(root: Path, data: Path, socket: Path) -> list[str]:
    """Return MariaDB's command line; durability is traded for speed, as everything in a lab can be made again."""
    return [
        "/usr/sbin/mariadbd",
        "--no-defaults",
        "--user=root",
        f"--datadir={data}",
        f"--socket={socket}",
        f"--pid-file={socket}.pid",
        "--skip-networking",
        "--max-connections=300",
        "--innodb-flush-log-at-trx-commit=0",
        "--skip-innodb-doublewrite",
        "--skip-log-bin",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=256M",
        "--innodb-log-file-size=16M",
        "--innodb-fast-shutdown=1",
    ]


def start(settings: Settings, processes: Processes, root: Path) -> str | None:
    """Start a lab's MariaDB, on a copy of the prepared database if it has none yet."""
    data = settings.state / "mariadb"
    remark = "MariaDB"
    if not copied(settings):
        prepared = entry(settings).make()
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(prepared / "mariadb", data)
        for keys in ("fernet", "credential"):
            shutil.rmtree(settings.etc / keys, ignore_errors=True)
            shutil.copytree(prepared / keys, settings.etc / keys)
        (data / "copied").touch()
        remark = "MariaDB, prepared schemas copied"
    socket = settings.run / "mariadb.sock"
    started = processes.start("mariadb", places.control(settings).with_usr(root), server(root, data, socket))
    processes.wait("mariadb", lambda: answers(root, socket), 300)
    return remark if started else None


def copied(settings: Settings) -> bool:
    """Tell whether a lab has its database."""
    return (settings.state / "mariadb" / "copied").exists()


def answers(root: Path, socket: Path) -> bool:
    """Tell whether MariaDB accepts connections."""
    return (
        subprocess.run(
            debian.tool(root, "mariadb-admin") + ["--no-defaults", "-uroot", "-S", str(socket), "ping"],
            capture_output=True,
        ).returncode
        == 0
    )


def build(settings: Settings, target: Path, log: Path) -> None:
    """Make the database in `target`: mariadb/, fernet/, credential/."""
    root, venv = debian.entry(settings).make(), python.entry(settings).make()
    log.unlink(missing_ok=True)
    run = Path("/run/kuryr-lab") / f"build-{os.getpid()}"
    at = openstack.Layout(target, run, target / "scratch", venv)
    openstack.configure(at, False, root)
    running: list[subprocess.Popen] = []
    out = open(log, "ab")

    def spawn(words: list) -> subprocess.Popen:
        # Should this program be killed, its children must not go on writing into the cache.
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "env", "-i", f"HOME={target}", "LANG=C.UTF-8"]
            + [f"{k}={v}" for k, v in openstack.environment(at).items()]
            + [str(w) for w in words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )
        running.append(child)
        return child

    def wait(child: subprocess.Popen, what: str) -> None:
        if finished(child) != 0:
            raise Failure(what, log)

    try:
        wait(
            spawn(
                covered(
                    root,
                    [
                        "/usr/bin/mariadb-install-db",
                        "--no-defaults",
                        "--user=root",
                        f"--datadir={target}/mariadb",
                        "--skip-test-db",
                        "--innodb-log-file-size=16M",
                        "--auth-root-authentication-method=normal",
                    ],
                )
            ),
            "mariadb-install-db failed",
        )
        socket = run / "mariadb.sock"
        maria = spawn(covered(root, server(root, target / "mariadb", socket)))
        patience(lambda: answers(root, socket), maria, "MariaDB does not start", log)
        for name in SCHEMAS:
            execute(
                debian.tool(root, "mariadb")
                + ["--no-defaults", "-uroot", "-S", socket, "-e", f"create database {name} character set utf8mb4"],
                log,
            )
        manage = [f"{venv}/bin/python", f"{venv}/bin/keystone-manage"] + at.configs("keystone")
        jobs = [
            spawn(manage + ["db_sync"]),
            spawn(
                [f"{venv}/bin/python", f"{venv}/bin/neutron-db-manage"] + at.configs("neutron") + ["upgrade", "heads"]
            ),
            spawn(
                [f"{venv}/bin/python", f"{venv}/bin/octavia-db-manage"] + at.configs("octavia") + ["upgrade", "head"]
            ),
        ]
        wait(jobs[0], "Keystone's migrations failed")
        for words in (
            ["fernet_setup", "--keystone-user", "root", "--keystone-group", "root"],
            ["credential_setup", "--keystone-user", "root", "--keystone-group", "root"],
            ["bootstrap", "--bootstrap-password", s.ADMIN_PASSWORD, "--bootstrap-region-id", s.REGION]
            + [w for i in ("admin", "internal", "public") for w in (f"--bootstrap-{i}-url", s.KEYSTONE_URL)],
        ):
            wait(spawn(manage + words), f"keystone-manage {words[0]} failed")
        unix = str(run / "keystone.sock")
        keystone = spawn(openstack.wsgi(at, unix, "keystone.wsgi.api:application", 1, []))
        client = identity.Keystone(None, "admin", s.ADMIN_PASSWORD, "admin", unix)
        patience(lambda: client.call("GET", "/services"), keystone, "Keystone does not start", log)
        identity.create(client)
        wait(jobs[1], "Neutron's migrations failed")
        wait(jobs[2], "Octavia's migrations failed")
        finish(keystone)
        finish(maria)
    finally:
        for child in running:
            finish(child)
        out.close()
        shutil.rmtree(run, ignore_errors=True)
    for leftover in [p for p in target.iterdir() if p.name not in ("mariadb", "fernet", "credential")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def covered(root: Path, words: list) -> list:
    """Return a command line that runs with the Debian tree's /usr, in a mount namespace of its own."""
    return [
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "/bin/sh",
        "-ec",
        f'mount --bind {root}/usr /usr; exec "$@"',
        "sh",
    ] + words


def finish(child: subprocess.Popen) -> None:
    """End a process of the build."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def patience(probe, child: subprocess.Popen, what: str, log: Path, seconds: float = 300) -> None:
    """Wait until a process of the build serves."""
    end = time.monotonic() + seconds
    while True:
        check_stop()
        try:
            if probe():
                return
        except OSError:
            pass
        if child.poll() is not None or time.monotonic() > end:
            raise Failure(what, log)
        time.sleep(0.1)
