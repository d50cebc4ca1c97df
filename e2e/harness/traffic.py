"""Connections between places, from inside their network namespaces, with every loss counted.

A namespace is named by its path. A thread enters it only to make a socket, which then belongs to it for good
(`kuryrlab.wire.inside`).
"""
import errno
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from kuryrlab.wire import inside

from .expect import Unmet, expect

STREAM_PORT = 9009
INTERVAL_SECONDS = 0.01
# The userspace datapath of Open vSwitch reads all routes of its node anew at any change of links there, and loses what it would send through a
# tunnel in those milliseconds: one datagram now and then, whoever plugs the pods. So this share is no loss of Kuryr's; an interruption is: so many
# seconds in which no datagram was answered. A short stream may meet one such moment, which costs it a few datagrams.
SWITCH_LOSES = 0.005
SWITCH_LOSES_AT_ONCE = 3
INTERRUPTED_SECONDS = 0.1
# At the end answers are waited for until none has come for so long: on a machine that is busy what is late is not lost. Without a loss nothing is waited for.
LATE_SECONDS = 3
ETH_P_IP, ETH_P_ARP = 0x0800, 0x0806
ARP_REQUEST, ARP_REPLY = 1, 2
# For answers to a question by ARP: all of them, also the second and wrong one.
ANSWERED_SECONDS = 2


def has_address(netns: str, address: str) -> bool:
    """Tell whether an address is local in a namespace."""
    def bind() -> bool:
        with new_socket(address, socket.SOCK_DGRAM) as trial:
            try:
                trial.bind((address, 0))
                return True
            except OSError:
                return False
    try:
        return inside(netns, bind)
    except OSError:
        return False


def new_socket(address: str, kind: int) -> socket.socket:
    """Make a socket of an address's family."""
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)


def packet_socket(link: str) -> socket.socket:
    """Make a socket of what a link sends and receives by ARP."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    made.bind((link, ETH_P_ARP))
    return made


def hardware_address(netns: str, link: str) -> str:
    """Return the hardware address of a link."""
    with inside(netns, lambda: packet_socket(link)) as one:
        return one.getsockname()[4].hex(":")


def answering(netns: str, link: str, address: str) -> set[str]:
    """Ask on a link who has an IPv4 address, as one that has none itself (RFC 5227); return the hardware addresses that answer."""
    with inside(netns, lambda: packet_socket(link)) as asking:
        own, found, end = asking.getsockname()[4], set(), time.monotonic() + ANSWERED_SECONDS
        question = struct.pack("!HHBBH6s4s6s4s", 1, ETH_P_IP, 6, 4, ARP_REQUEST, own, bytes(4), bytes(6), socket.inet_aton(address))
        asking.send(b"\xff" * 6 + own + struct.pack("!H", ETH_P_ARP) + question)
        while (left := end - time.monotonic()) > 0:
            asking.settimeout(left)
            try:
                told = asking.recv(200)[14:]
            except TimeoutError:
                break
            if told[6:8] == struct.pack("!H", ARP_REPLY) and told[14:18] == socket.inet_aton(address):
                found.add(told[8:14].hex(":"))
    return found


def connect(netns: str, address: str, port: int, seconds: float = 3) -> str:
    """Try a TCP connection; return `connected`, `refused`, `timeout` or `unreachable`."""
    def attempt() -> str:
        with new_socket(address, socket.SOCK_STREAM) as trial:
            trial.settimeout(seconds)
            try:
                trial.connect((address, port))
                return "connected"
            except TimeoutError:
                return "timeout"
            except ConnectionRefusedError:
                return "refused"
            except OSError as error:
                if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT):
                    return "unreachable"
                raise
    return inside(netns, attempt)


def connect_all(attempts: dict[str, tuple[str, str, int]], seconds: float = 3) -> dict[str, str]:
    """Try several TCP connections at the same time, each a namespace, an address and a port by its name; return how each ended."""
    with ThreadPoolExecutor(max_workers=len(attempts)) as threads:
        begun = {name: threads.submit(connect, *attempt, seconds) for name, attempt in attempts.items()}
    return {name: attempt.result() for name, attempt in begun.items()}


def http_answer(netns: str, address: str, port: int = 8080, path: str = "/", seconds: float = 5) -> tuple[str, str]:
    """Ask an HTTP server and return the line with the status, empty if there is none, and the body.

    Raises OSError when nobody answers.
    """
    def ask() -> bytes:
        with new_socket(address, socket.SOCK_STREAM) as client:
            client.settimeout(seconds)
            client.connect((address, port))
            client.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            parts = []
            while part := client.recv(65536):
                parts.append(part)
            return b"".join(parts)
    head, _, body = inside(netns, ask).decode(errors="replace").partition("\r\n\r\n")
    return head.partition("\r\n")[0], body


def http_get(netns: str, address: str, port: int = 8080, path: str = "/", seconds: float = 5) -> str:
    """Ask an HTTP server and return the body of its answer.

    Raises OSError when nobody answers, Unmet for another status than 200.
    """
    status, body = http_answer(netns, address, port, path, seconds)
    if " 200 " not in status + " ":
        raise Unmet(f"http://{address}:{port}{path}: {status or 'an empty answer'}")
    return body


def datagram(netns: str, address: str, port: int, seconds: float = 2) -> str:
    """Send one datagram from a socket of its own and return the answer.

    Raises OSError when nobody answers.
    """
    def ask() -> bytes:
        with new_socket(address, socket.SOCK_DGRAM) as client:
            client.settimeout(seconds)
            client.connect((address, port))
            client.send(b"who")
            return client.recv(100)
    return inside(netns, ask).decode().strip()


def dial(netns: str, address: str, port: int, seconds: float = 2) -> socket.socket:
    """Return a TCP connection.

    Raises OSError when nobody accepts it.
    """
    def attempt() -> socket.socket:
        made = new_socket(address, socket.SOCK_STREAM)
        made.settimeout(seconds)
        try:
            made.connect((address, port))
        except OSError:
            made.close()
            raise
        return made
    return inside(netns, attempt)


def say(connection: socket.socket) -> str:
    """Say a word over a TCP connection and return the answer.

    Raises OSError when nobody answers.
    """
    connection.sendall(b"who\n")
    return connection.recv(100).decode().strip()


def word(netns: str, address: str, port: int, seconds: float = 2) -> str:
    """Say a word over a TCP connection of its own and return the answer.

    Raises OSError when nobody answers.
    """
    with dial(netns, address, port, seconds) as connection:
        return say(connection)


@contextmanager
def listener(netns: str, address: str, port: int):
    """Accept TCP connections in a namespace while the block runs."""
    def listen():
        made = new_socket(address, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, port))
        made.listen(64)
        return made
    server = inside(netns, listen)
    try:
        yield server
    finally:
        server.close()


def bulk(source: str, target: str, address: str, count: int, port: int = STREAM_PORT + 5) -> int:
    """Send so many bytes over one TCP connection and return how many arrived."""
    with listener(target, address, port) as server:
        server.settimeout(30)

        def send():
            with new_socket(address, socket.SOCK_STREAM) as client:
                client.settimeout(60)
                client.connect((address, port))
                client.sendall(bytes(count))
        sender = threading.Thread(target=lambda: inside(source, send), daemon=True)
        sender.start()
        accepted, _ = server.accept()
        accepted.settimeout(60)
        arrived = 0
        with accepted:
            while part := accepted.recv(1 << 18):
                arrived += len(part)
        sender.join(timeout=10)
        return arrived


def spoof(source: str, claimed: str, target: str, address: str, count: int = 20, port: int = STREAM_PORT + 6) -> int:
    """Send datagrams under an address that is not the sender's (IPv4) and return how many arrived."""
    def receiver():
        made = new_socket(address, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(1)
        return made

    def send():
        body = b"spoofed"
        datagram = struct.pack("!HHHH", port, port, 8 + len(body), 0) + body
        header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP, 0, socket.inet_aton(claimed), socket.inet_aton(address))
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for _ in range(count):
                raw.sendto(header + datagram, (address, 0))
    with inside(target, receiver) as server:
        inside(source, send)
        arrived = 0
        try:
            while server.recv(64):
                arrived += 1
        except TimeoutError:
            return arrived
        return arrived


@dataclass
class Losses:
    """What a stream saw."""

    sent: int
    answered: int
    longest_gap: float     # seconds between two answers
    tcp_broken: str | None
    missing: list          # numbers of the datagrams that were not answered

    @property
    def lost(self) -> int:
        return self.sent - self.answered

    @property
    def interruption(self) -> float:
        """Seconds that the longest run of datagrams without an answer took to send: unlike a gap, it does not grow when this program itself has to wait."""
        longest = run = 0
        last = None
        for number in self.missing:
            run = run + 1 if number - 1 == last else 1
            longest, last = max(longest, run), number
        return longest * INTERVAL_SECONDS


class Stream:
    """Numbered datagrams every 10 ms from one namespace to another and back, beside one TCP connection that must never break."""

    def __init__(self, source: str, target: str, address: str, port: int = STREAM_PORT):
        self.source, self.target, self.address, self.port = source, target, address, port
        self.stopping, self.all_sent, self.ended, self.threads, self.sockets = threading.Event(), threading.Event(), threading.Event(), [], []
        self.losses: Losses | None = None
        self.refused: list[str] = []   # what the kernel said to who sends
        self.sent, self.answers, self.numbers, self.tcp_sent, self.tcp_answered, self.tcp_broken = 0, [], set(), 0, 0, None

    def __enter__(self):
        udp_server = self.make(self.target, socket.SOCK_DGRAM, self.address)
        tcp_server = self.make(self.target, socket.SOCK_STREAM, self.address)
        tcp_server.listen(1)
        udp = self.make(self.source, socket.SOCK_DGRAM)
        udp.connect((self.address, self.port))
        self.begin(self.echo_datagrams, udp_server)
        tcp = self.make(self.source, socket.SOCK_STREAM)
        tcp.settimeout(30)
        tcp.connect((self.address, self.port))
        accepted, _ = tcp_server.accept()
        self.sockets.append(accepted)
        self.begin(self.echo_stream, accepted)
        self.begin(self.receive_datagrams, udp)
        self.begin(self.send_datagrams, udp)
        self.begin(self.exchange, tcp)
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def make(self, netns: str, kind: int, bind: str | None = None) -> socket.socket:
        """Make a socket in a namespace."""
        def create():
            made = new_socket(self.address, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if bind:
                made.bind((bind, self.port))
            return made
        made = inside(netns, create)
        made.settimeout(0.5 if kind == socket.SOCK_DGRAM else 10)
        self.sockets.append(made)
        return made

    def begin(self, action, *arguments) -> None:
        thread = threading.Thread(target=action, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def echo_datagrams(self, server: socket.socket) -> None:
        while not self.ended.is_set():
            try:
                data, peer = server.recvfrom(64)
                server.sendto(data, peer)
            except (TimeoutError, ConnectionError):
                continue
            except OSError as error:
                # One that cannot be answered is lost; those after it are answered, unless the stream is at its end.
                if server.fileno() < 0:
                    return
                self.refused.append(repr(error))

    def send_datagrams(self, udp: socket.socket) -> None:
        while not self.stopping.is_set():
            try:
                udp.send(struct.pack("!Q", self.sent))
            except OSError as error:
                self.refused.append(repr(error))  # counted: it will not be answered
            self.sent += 1
            time.sleep(INTERVAL_SECONDS)
        self.all_sent.set()

    def receive_datagrams(self, udp: socket.socket) -> None:
        end = None
        while end is None or time.monotonic() < end:
            if self.all_sent.is_set():
                if len(self.numbers) == self.sent:
                    return
                end = end or time.monotonic() + LATE_SECONDS
            try:
                number = struct.unpack("!Q", udp.recv(64))[0]
                self.answers.append(time.monotonic())
                end = None
                self.numbers.add(number)
            except (TimeoutError, ConnectionError):
                continue
            except OSError as error:
                if udp.fileno() < 0:
                    return
                self.refused.append(repr(error))

    def echo_stream(self, accepted: socket.socket) -> None:
        accepted.settimeout(120)   # longer than the other side waits
        try:
            while data := accepted.recv(65536):
                accepted.sendall(data)
        except OSError:
            return

    def exchange(self, tcp: socket.socket) -> None:
        """Send a numbered word and wait for it, again and again; a word that does not come back breaks the stream."""
        tcp.settimeout(60)
        try:
            while not self.stopping.is_set():
                word = struct.pack("!Q", self.tcp_sent)
                tcp.sendall(word)
                self.tcp_sent += 1
                back = b""
                while len(back) < len(word):
                    part = tcp.recv(len(word) - len(back))
                    if not part:
                        raise OSError("closed by the other side")
                    back += part
                if back != word:
                    raise OSError("another word came back")
                self.tcp_answered += 1
                time.sleep(INTERVAL_SECONDS)
        except OSError as error:
            if not self.stopping.is_set():
                self.tcp_broken = f"after {self.tcp_answered} exchanges: {error!r}"

    def stop(self) -> Losses:
        """End the stream and tell what was lost; what it told once it tells again."""
        if self.losses:
            return self.losses
        self.stopping.set()
        for thread in self.threads[2:]:
            thread.join(timeout=4 * LATE_SECONDS)
        self.ended.set()
        for made in self.sockets:
            made.close()
        gaps = [later - earlier for earlier, later in zip(self.answers, self.answers[1:])]
        missing = [number for number in range(self.sent) if number not in self.numbers]
        self.losses = Losses(self.sent, len(self.answers), max(gaps, default=0.0), self.tcp_broken, missing)
        return self.losses

    def expect_whole(self, allowed_share: float = SWITCH_LOSES, interrupted: float = INTERRUPTED_SECONDS) -> Losses:
        """End the stream and fail if the TCP connection broke, more datagrams were lost than this share, or none was answered for so many seconds."""
        losses = self.stop()
        expect(self.tcp_answered > 0, "the TCP connection carried nothing")
        expect(losses.tcp_broken is None, f"the TCP connection broke {losses.tcp_broken}")
        told = f"{losses.lost} of {losses.sent} datagrams to {self.address} were lost ({losses.missing[:20]}), longest gap {losses.longest_gap * 1000:.0f} ms{''.join(f', {what}' for what in sorted(set(self.refused)))}"
        expect(losses.lost <= max(SWITCH_LOSES_AT_ONCE, allowed_share * losses.sent), told)
        expect(losses.interruption < interrupted, f"interrupted for {losses.interruption * 1000:.0f} ms: {told}")
        return losses
