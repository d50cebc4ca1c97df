"""The command line of the lab."""

import argparse
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from . import dns, down as downs, doctor, guest, places, power, python, rights, settings as s, status, steps, tools, up as ups
from .cache import locked
from .failure import Failure, tail
from .kuryr import Kuryr, parts
from .lab import Lab
from .settings import LAB, Machine, Node, Options, Settings


def main(argv: list[str]) -> int:
    """Run one command and return the exit code."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    rights.become_root([sys.executable, LAB / "lab", *argv])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.umask(0o022)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        settings = known(arguments.name)
        give_back(settings)
        return arguments.action(Lab(settings), arguments) or 0
    except (Failure, ValueError, OSError) as e:
        if not steps.stopping.is_set():  # otherwise the failing step has said it
            print(f"lab: {e.text() if isinstance(e, Failure) else e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: stopped", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="lab", description="A real Kubernetes and a real OpenStack network on this machine."
    )
    parser.add_argument(
        "--name", default=os.environ.get("KURYR_LAB", "kuryr"), help="which lab (default: kuryr); labs do not meet"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, action, text: str, **defaults) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action, **defaults)
        return sub

    sub = command("up", up, "bring the lab up, or what of it does not run")
    sub.add_argument(
        "--amphora",
        action=argparse.BooleanOptionalAction,
        help="also Octavia's amphora provider on no-op compute, with RabbitMQ",
    )
    sub.add_argument(
        "--cni",
        choices=("kuryr", "ptp"),
        help="who wires pods: Kuryr when it is started (default), or the plain ptp plugin, for comparison",
    )
    sub.add_argument(
        "--nodes",
        type=of(s.kinds),
        metavar="KIND,...",
        help=f"kind of each node, in order: {', '.join(s.KINDS)} (default: ovs,ovs); for good, until reset",
    )
    sub.add_argument(
        "--subnets",
        choices=s.SUBNETS,
        help="the pods' network: the project's own without (plain, default) or with SLAAC, or one that another project"
        " owns and shares; for good, until reset",
    )
    sub.add_argument(
        "--ml2",
        choices=("ovn", "ovs"),
        help="Neutron's mechanism driver: ovn (default), or ovs with Neutron's own agents; for good, until reset",
    )
    sub.add_argument(
        "--firewall",
        choices=("native", "iptables"),
        help="with --ml2 ovs: flows on br-int (native, default), or iptables on a bridge before it, as ports are told to be"
        " plugged then (ovs_hybrid_plug); for good, until reset",
    )
    command("down", down, "stop everything; files stay")
    command("status", show_status, "what runs")
    command("doctor", examine, "can this machine carry the lab")
    command("fetch", fetch, "fill the cache, start nothing")
    command("reset", reset, "down, and delete the lab's state; the cache stays")
    command("purge", purge, "reset every lab and delete the cache, too")
    sub = command("logs", logs, "follow a daemon's log; without a name, list them")
    sub.add_argument("daemon", nargs="?")
    sub.add_argument("-n", "--no-follow", action="store_true", help="only the end of it")
    sub = command("shell", shell, "a shell in a place: cp (default), node1, node2, server, external, hv1")
    sub.add_argument("place", nargs="?", default="cp")
    sub = command("run", run_command, "run a command in a place: its namespaces, cgroup, and the lab's tools")
    sub.add_argument("place")
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    for name, text in (
        ("kubectl", "kubectl as the cluster's admin"),
        ("openstack", "the OpenStack client as admin (OS_CLOUD=kuryr, kuryr-nested or other for the users)"),
    ):
        sub = command(name, kubectl if name == "kubectl" else openstack, text)
        sub.add_argument("words", nargs=argparse.REMAINDER)
    sub = command("python", run_python, "Python with the libraries of OpenStack's services and clients")
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="-- WORDS")
    command("env", environment, "print variables for a shell, to be evaluated")
    sub = command("kuryr", kuryr, "Kuryr itself")
    sub.add_argument("verb", choices=("start", "stop", "restart", "kill", "status"))
    sub.add_argument("part", nargs="?", help="controller or a node; all if missing")
    sub.add_argument("--bin", type=lambda p: Path(p).resolve(), help="directory of kuryr-controller and kuryr-daemon")
    sub.add_argument("--cni-binary", type=lambda p: Path(p).resolve(), help="the file kuryr-cni")
    sub.add_argument("--manifests", type=lambda p: Path(p).resolve(), help="directory with crds, rbac, admission")
    sub = command("guest", run_guest, "run a command on a kernel of its own that has VLAN interfaces (user-mode Linux)")
    sub.add_argument("--memory", type=int, default=guest.MEMORY_MB, metavar="MB")
    sub.add_argument("--seconds", type=int, default=guest.SECONDS, help="it is ended after this time (default: 600)")
    sub.add_argument("--file", action="append", default=[], help=f"copy this file to {guest.FILES} there; may be repeated")
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    sub = command("node", node, "switch a node off, as a power cut, and on again")
    sub.add_argument("verb", choices=("stop", "start"))
    sub.add_argument("node")
    sub = command("dns", names, "names of the cluster: CoreDNS in pods, for which Kuryr has to run")
    sub.add_argument("verb", choices=("start", "stop"))
    for name, text in (("neutron", "an outage of Neutron"), ("apiserver", "an outage of the Kubernetes API")):
        sub = command(name, outage, text, service=name)
        sub.add_argument("verb", choices=("stop", "start"))
    return parser


def of(check):
    """Return an argument's type whose refusal says why."""

    def convert(text: str):
        try:
            return check(text)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from e

    return convert


def known(name: str) -> Settings:
    """Return the settings of a lab with the options that it was brought up with."""
    settings = Settings(name)
    settings.options = Options.load(settings.options_file)
    return settings


def node_named(lab: Lab, name: str) -> Node:
    """Return the node that a word on the command line means."""
    try:
        return lab.settings.node(name)
    except KeyError:
        there = ", ".join(n.name for n in lab.settings.nodes)
        raise Failure(f"no such node: {name}", fix=there) from None


def give_back(settings: Settings) -> None:
    """Let the directories around ours belong to the user who called sudo, should they be new."""
    if "SUDO_UID" in os.environ:
        for folder in (settings.cache, settings.states):
            missing = [p for p in folder.parents if not p.exists()]
            for p in reversed(missing):
                p.mkdir()
                os.chown(p, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


@contextmanager
def exclusive(lab: Lab):
    """Let only one command at a time change a lab."""
    with locked(lab.settings.lock):
        yield


def up(lab: Lab, arguments) -> int:
    options = lab.settings.options
    if arguments.amphora is not None and arguments.amphora != options.amphora:
        if lab.running():
            raise Failure("a running lab cannot change to or from --amphora", fix="lab down, then up again")
        options.amphora = arguments.amphora
    if arguments.cni:
        options.cni = arguments.cni
    choose_once(lab, "nodes", arguments.nodes)
    choose_once(lab, "subnets", arguments.subnets)
    choose_once(lab, "ml2", arguments.ml2)
    choose_once(lab, "firewall", arguments.firewall)
    if problem := options.contradiction():
        raise Failure(problem, fix="leave one of the options out")
    needed = {name: entry for name, entry in lab.entries.items() if name != "dns"}
    if not doctor.report(doctor.examine(lab.settings, needed, lab.running()), everything=False):
        return 1
    with exclusive(lab):
        ups.up(lab)
    print(f"  {LAB / 'lab'} status | kubectl get nodes | openstack port list | kuryr start | down")
    return 0


def choose_once(lab: Lab, option: str, value: str | None) -> None:
    """Take an option on which everything in the lab's databases depends: it is chosen at the first `up`."""
    options, before = lab.settings.options, getattr(lab.settings.options, option)
    if value is None or value == before:
        return
    if lab.settings.options_file.exists():
        name = lab.settings.name
        raise Failure(
            f"lab {name!r} was made with --{option} {before}",
            fix=f"lab --name {name} reset, then up; or choose another name",
        )
    setattr(options, option, value)


def down(lab: Lab, arguments) -> None:
    with exclusive(lab):
        downs.down(lab)


def show_status(lab: Lab, arguments) -> int:
    return 0 if status.status(lab) else 1


def examine(lab: Lab, arguments) -> int:
    return 0 if doctor.report(doctor.examine(lab.settings, lab.entries, lab.running()), everything=True) else 1


def fetch(lab: Lab, arguments) -> None:
    ups.fetch(lab)


def reset(lab: Lab, arguments) -> None:
    with exclusive(lab):
        downs.down(lab)
        ups.reset(lab)


def purge(lab: Lab, arguments) -> None:
    names = [p.name for p in lab.settings.states.glob("*") if p.is_dir()] or [lab.settings.name]
    for name in names:
        other = Lab(known(name))
        with exclusive(other):
            downs.down(other)
            ups.reset(other)
    shutil.rmtree(lab.settings.states, ignore_errors=True)
    shutil.rmtree(lab.settings.cache, ignore_errors=True)


def logs(lab: Lab, arguments) -> int:
    if not arguments.daemon:
        print("\n".join(sorted(str(p.relative_to(lab.settings.log)) for p in lab.settings.log.rglob("*.log"))))
        return 0
    file = lab.processes.log(arguments.daemon)
    if not file.exists():
        raise Failure(f"no log {file}", fix="lab logs")
    if arguments.no_follow:
        print("\n".join(tail(file, 100)))
        return 0
    return subprocess.run(["tail", "-n", "100", "-F", str(file)]).returncode


def inside(lab: Lab, word: str, words: list[str]) -> list[str]:
    """Return the command line of a command of the user's in a place."""
    try:
        where = lab.settings.place(word)
    except KeyError:
        there = ", ".join(lab.settings.places).replace("ext", "external")
        raise Failure(f"no such place: {word}", fix=there) from None
    if not lab.network.exists(where):
        raise Failure(f"{where} is not up", fix="lab up")
    on = next((m for m in lab.settings.nodes + lab.settings.hypervisors if m.name == where), None)
    spot = spot_on(lab, on) if on else places.Place(lab.settings, lab.settings.netns(where), "run")
    env = places.environment(lab.settings, {**tools.environment(lab, on), "TERM": os.environ.get("TERM", "dumb")})
    env["PATH"] = f"{tools.folder(lab)}:{places.PATH}"
    # A node has a /run of its own.
    here = os.getcwd()
    return places.command(spot, words, env, "/" if where in lab.machines and here.startswith("/run/") else here)


def spot_on(lab: Lab, m: Machine) -> places.Place:
    """Return the place of the user's commands on a machine: on a node with its mounts."""
    return lab.machines[m.name].place("run") if m.name in lab.machines else places.on_node(lab.settings, m, "run")


def shell(lab: Lab, arguments) -> None:
    replace_by(inside(lab, arguments.place, ["/bin/sh" if not shutil.which("bash") else "bash", "-i"]))


def run_command(lab: Lab, arguments) -> None:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise Failure("run what?", fix=f"lab run {arguments.place} -- COMMAND")
    replace_by(inside(lab, arguments.place, words))


def run_guest(lab: Lab, arguments) -> int:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    if not words:
        raise Failure("run what?", fix="lab guest -- COMMAND")
    machine = guest.Guest(lab.settings, memory_mb=arguments.memory)
    say = lambda line: print(line, flush=True)  # noqa: E731
    return machine.run(words, {"PATH": places.PATH}, arguments.seconds, say, arguments.file)


def kubectl(lab: Lab, arguments) -> None:
    replace_by(lab.kubernetes.kubectl(arguments.words))


def openstack(lab: Lab, arguments) -> None:
    replace_by(lab.openstack.cli(arguments.words, os.environ.get("OS_CLOUD", "admin")))


def run_python(lab: Lab, arguments) -> None:
    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    venv = python.entry(lab.settings).make()
    replace_by([str(venv / "bin" / "python"), *words])


def replace_by(words: list[str]) -> None:
    """Become another program, so that signals, terminal and exit code are its own."""
    sys.stdout.flush()
    os.execvp(words[0], words)


def environment(lab: Lab, arguments) -> None:
    for key, value in tools.environment(lab).items():
        print(f"export {key}={shlex.quote(value)}")
    print(f'export PATH={shlex.quote(str(tools.folder(lab)))}:"$PATH"')
    print(f"# the APIs are inside the control plane's namespace: {LAB / 'lab'} run cp -- COMMAND")


def kuryr(lab: Lab, arguments) -> int:
    it = Kuryr(lab, arguments.bin, arguments.cni_binary, arguments.manifests)
    if arguments.verb == "restart" and not (arguments.bin or arguments.cni_binary or arguments.manifests):
        it = Kuryr.recorded(lab)
    chosen = parts(lab.settings)
    if arguments.part:
        if arguments.part not in chosen:
            raise Failure(f"no such part: {arguments.part}", fix=", ".join(chosen))
        chosen = (arguments.part,)
    if arguments.verb == "status":
        for part, pid in it.status():
            print(f"  {part}: {f'up ({pid})' if pid else 'down'}")
        return 0 if all(pid for part, pid in it.status() if part in chosen) else 1
    with exclusive(lab):
        if arguments.verb in ("stop", "restart"):
            print(f"stopped: {' '.join(it.stop(chosen)) or 'nothing ran'}")
        if arguments.verb == "kill":
            print(f"killed: {' '.join(it.stop(chosen, signal.SIGKILL)) or 'nothing ran'}")
        if arguments.verb in ("start", "restart"):
            print(f"started: {' '.join(it.start(chosen)) or 'all ran already'}")
    return 0


def node(lab: Lab, arguments) -> None:
    """Power cut and boot; an agent that ran before the cut is started again, as its DaemonSet would."""
    n = node_named(lab, arguments.node)
    mark = lab.settings.state / f"{arguments.node}.agent"
    with exclusive(lab):
        if arguments.verb == "stop":
            if lab.processes.alive(Kuryr(lab).name(arguments.node)):
                mark.touch()
            power.switch_off(lab, n)
            return
        power.switch_on(lab, n)
        if mark.exists():
            Kuryr.recorded(lab).start((arguments.node,))
            mark.unlink()


def names(lab: Lab, arguments) -> None:
    with exclusive(lab):
        dns.start(lab) if arguments.verb == "start" else dns.stop(lab)


def outage(lab: Lab, arguments) -> None:
    with exclusive(lab):
        if arguments.service == "neutron":
            lab.openstack.start_neutron() if arguments.verb == "start" else lab.openstack.stop_neutron()
        else:
            lab.kubernetes.start_apiserver() if arguments.verb == "start" else lab.processes.stop("kube-apiserver")
