"""Clients of Services, and endpoints that answer with their names.

Programs at the sockets of a node's processes bring clients to endpoints, and whose process it is is told by its cgroup.
So a client is a process of its own: in the cgroup of a pod's container, or of a node's other processes, and in that network namespace.
"""
import json
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path

from kuryrlab import cgroups
from kuryrlab.wire import inside

from .expect import Unmet
from .lab import Lab
from .pods import Pod
from .traffic import new_socket

ECHO_PORT = 9100
# Beyond what a client waits for by itself.
ANSWER_SECONDS = 60

# Reads a line with a verb and its arguments, does it, and writes a line with what came of it.
PROGRAM = r"""
import errno, json, random, resource, socket, ssl, struct, sys, time

kept = {}

def new(address, kind, seconds):
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    made.settimeout(seconds)
    return made

def http(address, port, path="/", tls=False, seconds=3, source=None):
    with new(address, socket.SOCK_STREAM, seconds) as plain:
        if source:
            plain.bind((source, 0))
        plain.connect((address, port))
        client = ssl._create_unverified_context().wrap_socket(plain) if tls else plain
        client.sendall(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        parts = []
        while part := client.recv(65536):
            parts.append(part)
        return b"".join(parts).decode(errors="replace")

def keep(name, address, port, seconds=3):
    kept[name] = new(address, socket.SOCK_STREAM, seconds)
    kept[name].connect((address, port))
    return word(name)

def word(name, seconds=None):
    if seconds:
        kept[name].settimeout(seconds)
    kept[name].sendall(b"x\n")
    return [kept[name].getpeername()[0], kept[name].recv(100).decode().strip()]

def stream(address, port, seconds=3):
    with new(address, socket.SOCK_STREAM, seconds) as client:
        client.connect((address, port))
        client.sendall(b"x\n")
        return [client.getpeername()[0], client.recv(100).decode().strip()]

def connected(address, port, seconds=2):
    with new(address, socket.SOCK_DGRAM, seconds) as client:
        client.connect((address, port))
        client.send(b"x")
        return [client.getpeername()[0], client.recv(100).decode().strip()]

def hold(name, address, port, seconds=2):
    kept[name] = new(address, socket.SOCK_DGRAM, seconds)
    kept[name].connect((address, port))
    return word(name)

def hold_open(name, address, port):
    kept[name] = new(address, socket.SOCK_DGRAM, 0.2)
    kept[name].connect((address, port))

def speak(name):
    kept[name].send(b"x")

def send(address, port, name=None, seconds=2):
    client = kept.get(name) or new(address, socket.SOCK_DGRAM, seconds)
    if name:
        kept[name] = client
    client.sendto(b"x", (address, port))
    answer, peer = client.recvfrom(100)
    return [peer[0], answer.decode().strip()]

def accepted(address, port, seconds, each=None):
    # When the first connection is accepted; refused ones are tried again at once, and those that nobody answers after so long.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with new(address, socket.SOCK_STREAM, each or seconds) as client:
            try:
                client.connect((address, port))
                return time.monotonic()
            except ConnectionRefusedError:
                time.sleep(0.0002)
            except OSError:
                if not each:
                    raise
    raise TimeoutError

def connects(targets, times):
    # Seconds that connecting takes, in turns to each of the targets.
    found = [[] for _ in targets]
    for _ in range(times):
        for (address, port), values in zip(targets, found):
            with new(address, socket.SOCK_STREAM, 5) as client:
                # No port is left waiting.
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                begin = time.perf_counter()
                client.connect((address, port))
                values.append(time.perf_counter() - begin)
    return found

KINDS = {"A": 1, "PTR": 12, "AAAA": 28, "SRV": 33}
CODES = {0: "ok", 2: "failed", 3: "none", 5: "refused"}

def query(number, name, kind):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split("."))
    return struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", KINDS[kind], 1)

def read_name(message, at):
    parts, end = [], None
    while message[at]:
        if message[at] & 0xc0:
            end, at = end or at + 2, struct.unpack_from("!H", message, at)[0] & 0x3fff
            continue
        parts.append(message[at + 1:at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(parts), end or at + 1

def read_answers(message):
    _, flags, questions, count = struct.unpack_from("!4H", message)
    at, found = 12, []
    for _ in range(questions):
        at = read_name(message, at)[1] + 4
    for _ in range(count):
        at = read_name(message, at)[1]
        kind, _, _, length = struct.unpack_from("!2HIH", message, at)
        at += 10
        if kind in (1, 28):
            found.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, message[at:at + length]))
        elif kind == 12:
            found.append(read_name(message, at)[0])
        elif kind == 33:
            found.append(f"{read_name(message, at + 6)[0]}:{struct.unpack_from('!H', message, at + 4)[0]}")
        at += length
    return [CODES.get(flags & 15, flags & 15), sorted(found)]

def read_whole(client, length):
    parts = b""
    while len(parts) < length:
        part = client.recv(length - len(parts))
        if not part:
            raise OSError("the server has closed the connection")
        parts += part
    return parts

def resolve(server, name, kind="A", tcp=False, seconds=3):
    asked = query(random.randrange(1 << 16), name, kind)
    with new(server, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM, seconds) as client:
        client.connect((server, 53))
        client.sendall((struct.pack("!H", len(asked)) if tcp else b"") + asked)
        answer = read_whole(client, struct.unpack("!H", read_whole(client, 2))[0]) if tcp else client.recv(4096)
    if answer[:2] != asked[:2]:
        raise OSError("an answer to something else")
    return read_answers(answer)

asked, flooding = {}, []

def question(name, server, about, kind="A", seconds=3):
    # By a socket that is not connected and stays; the answer is left in it.
    if name not in kept:
        kept[name] = new(server, socket.SOCK_DGRAM, seconds)
    asked[name] = query(random.randrange(1 << 16), about, kind)
    kept[name].sendto(asked[name], (server, 53))

def heard(name):
    # From whom, and what; of what was asked last.
    while True:
        answer, peer = kept[name].recvfrom(4096)
        if answer[:2] == asked[name][:2]:
            return [*peer[:2], *read_answers(answer)]

def resolve_again(name, server, about, kind="A"):
    question(name, server, about, kind)
    return heard(name)

def flood_by_sockets(servers, name, rate, sockets):
    # A socket for each question; all of them stay until the next flood, and the answers in them.
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    while flooding:
        flooding.pop()[0].close()
    due, last = 0, time.monotonic()
    while len(flooding) < sockets:
        now = time.monotonic()
        due, last = min(due + rate * (now - last), rate / 50), now
        while due >= 1 and len(flooding) < sockets:
            server = servers[len(flooding) % len(servers)]
            flooding.append((new(server, socket.SOCK_DGRAM, 0), server))
            flooding[-1][0].sendto(query(len(flooding) & 0xffff, f"q{len(flooding)}.{name}", "A"), (server, 53))
            due -= 1
        time.sleep(0.002)

def flood_heard():
    # How many of its sockets have heard from whom they have asked, how many from somebody else.
    found = [0, 0]
    for client, server in flooding:
        try:
            found[client.recvfrom(4096)[1][0] != server] += 1
        except BlockingIOError:
            pass
    return found

def flood(server, name, rate, seconds):
    # Over one socket, whether answers come or not. What a machine that is busy has kept it from sending comes later, not all at once.
    sent = received = 0
    with new(server, socket.SOCK_DGRAM, 0) as client:
        begin = last = time.monotonic()
        due = 0
        while sent < rate * seconds and last - begin < 3 * seconds:
            now = time.monotonic()
            due, last = min(due + rate * (now - last), rate / 50), now
            try:
                while due >= 1:
                    client.sendto(query(sent & 0xffff, f"q{sent}.{name}", "A"), (server, 53))
                    sent, due = sent + 1, due - 1
                while client.recv(4096):
                    received += 1
            except BlockingIOError:
                time.sleep(0.002)
    return [sent, received]

for line in sys.stdin:
    verb, arguments = json.loads(line)
    try:
        told = {"answer": globals()[verb](**arguments)}
    except TimeoutError:
        told = {"error": "timeout"}
    except ConnectionRefusedError:
        told = {"error": "refused"}
    except ConnectionAbortedError:
        told = {"error": "closed"}
    except OSError as error:
        # A socket that was closed is not connected any more.
        told = {"error": "closed" if error.errno == errno.EDESTADDRREQ else repr(error)}
    print(json.dumps(told), flush=True)
"""


class Failed(Unmet):
    """A client did not get through; `how` is `refused`, `timeout`, `closed` or the error."""

    def __init__(self, what: str, how: str):
        super().__init__(f"{what}: {how}")
        self.how = how


class Client:
    """A process that does with sockets what it is told; to be closed before its pod is deleted."""

    def __init__(self, name: str, cgroup: Path | None, netns: str):
        self.name, self.lock = name, threading.Lock()
        join = ["/bin/sh", "-c", 'echo 0 >"$0" && exec "$@"', str(cgroup / "cgroup.procs")] if cgroup else []
        words = join + ["nsenter", f"--net={netns}", "--", sys.executable, "-u", "-c", PROGRAM]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    @classmethod
    def in_pod(cls, pod: Pod) -> "Client":
        """Return a client that is one of a pod's processes."""
        return cls(pod.name, cgroup_of_pod(pod), pod.netns)

    @classmethod
    def on_node(cls, lab: Lab, node: str) -> "Client":
        """Return a client that is one of a node's own processes."""
        cgroup = cgroups.tracking() / lab.settings.node_cgroup(lab.node(node)) / cgroups.RUN_LEAF
        return cls(node, cgroup, lab.netns(node))

    @classmethod
    def outside(cls, lab: Lab, place: str) -> "Client":
        """Return a client that is no process of a node, such as one on the external side."""
        return cls(place, None, lab.netns(place))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def ask(self, verb: str, **arguments):
        """Have something done and return what came of it.

        Raises Failed if it did not succeed.
        """
        with self.lock:
            self.process.stdin.write(json.dumps([verb, arguments]) + "\n")
            self.process.stdin.flush()
            if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
                raise Failed(f"{self.name}: {verb} {arguments}", f"no answer within {ANSWER_SECONDS} s")
            line = self.process.stdout.readline()
        told = json.loads(line) if line else {"error": "the client has ended"}
        if "error" in told:
            raise Failed(f"{self.name}: {verb} {arguments}", told["error"])
        return told["answer"]

    def how(self, verb: str, **arguments) -> str:
        """Return how an attempt fails, or `succeeds`."""
        try:
            self.ask(verb, **arguments)
            return "succeeds"
        except Failed as failed:
            return failed.how


def cgroup_of_pod(pod: Pod) -> Path:
    """Return the cgroup of one of a pod's containers."""
    wanted = os.stat(pod.netns).st_ino
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.stat(folder / "ns/net").st_ino == wanted:
                lines = (folder / "cgroup").read_text().splitlines()
                inside_pod = next(line for line in lines if line.startswith("0::"))[3:]
                if "kubepods" in inside_pod:
                    return cgroups.tracking() / inside_pod.lstrip("/")
        except (OSError, StopIteration):
            continue
    raise Unmet(f"no process of {pod} is found")


class Echo:
    """Answers words by TCP and datagrams with a name, the pod's unless another is given, inside the pod, until closed."""

    def __init__(self, pod: Pod, port: int = ECHO_PORT, name: str | None = None):
        self.name, self.stopping = (name or pod.name).encode() + b"\n", threading.Event()

        def make(kind: int) -> socket.socket:
            made = new_socket("::", kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            made.bind(("::", port))
            return made
        netns = pod.netns
        self.tcp, self.udp = (inside(netns, lambda kind=kind: make(kind)) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM))
        self.tcp.listen(64)
        for made in (self.tcp, self.udp):
            made.settimeout(0.2)
        for serve in (self.accept, self.answer):
            threading.Thread(target=serve, daemon=True).start()

    def accept(self) -> None:
        while not self.stopping.is_set():
            try:
                accepted, _ = self.tcp.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self.talk, args=(accepted,), daemon=True).start()

    def talk(self, accepted: socket.socket) -> None:
        # A connection may be kept through whatever a scenario does meanwhile.
        accepted.settimeout(1800)
        try:
            with accepted:
                while accepted.recv(100):
                    accepted.sendall(self.name)
        except OSError:
            return

    def answer(self) -> None:
        while not self.stopping.is_set():
            try:
                _, peer = self.udp.recvfrom(100)
                self.udp.sendto(self.name, peer)
            except TimeoutError:
                continue
            except OSError:
                return

    def close(self) -> None:
        self.stopping.set()
        for made in (self.tcp, self.udp):
            made.close()


# Between two questions. At sixty connections a second Open vSwitch 3.1 died of its assertion (see `e2e/README.md`).
PAUSE_SECONDS = 0.1


class Asking:
    """Asks something again and again in the background, and counts what failed."""

    def __init__(self, client: Client, verb: str, **arguments):
        self.client, self.verb, self.arguments = client, verb, arguments
        self.stopping, self.answers, self.failures = threading.Event(), [], []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> "Asking":
        self.thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stopping.set()
        self.thread.join(timeout=ANSWER_SECONDS)

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self.answers.append(self.client.ask(self.verb, **self.arguments))
            except Unmet as failed:
                self.failures.append(str(failed))
            self.stopping.wait(PAUSE_SECONDS)
