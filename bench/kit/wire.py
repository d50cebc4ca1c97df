"""How fast bytes go between two places, and how long a datagram takes there and back."""
import socket
import threading
import time

from harness.traffic import inside, listener, new_socket

PORT = 9100
# Enough for a second or more on a software switch.
BYTES = 256 << 20
ECHOES = 500


def throughput(source: str, target: str, address: str) -> float:
    """Send over one TCP connection and return megabits a second as they arrived."""
    with listener(target, address, PORT) as server:
        server.settimeout(10)

        def send():
            with new_socket(address, socket.SOCK_STREAM) as client:
                client.settimeout(120)
                client.connect((address, PORT))
                block, left = bytes(1 << 20), BYTES
                while left > 0:
                    client.sendall(block)
                    left -= len(block)
        sender = threading.Thread(target=lambda: inside(source, send), daemon=True)
        sender.start()
        accepted, _ = server.accept()
        accepted.settimeout(120)
        arrived, begin, buffer = 0, time.monotonic(), bytearray(1 << 20)
        with accepted:
            while count := accepted.recv_into(buffer):
                arrived += count
        took = time.monotonic() - begin
        sender.join(timeout=10)
    return arrived * 8 / took / 1e6


def round_trips(source: str, target: str, address: str) -> list[float]:
    """Send datagrams one after the other, each answered before the next, and return the seconds of each."""
    def serve() -> socket.socket:
        made = new_socket(address, socket.SOCK_DGRAM)
        made.bind((address, PORT))
        made.settimeout(5)
        return made

    def client() -> socket.socket:
        made = new_socket(address, socket.SOCK_DGRAM)
        made.connect((address, PORT))
        made.settimeout(1)
        return made

    def echo(server: socket.socket) -> None:
        try:
            while data := server.recvfrom(64):
                server.sendto(*data)
        except OSError:
            return

    found = []
    with inside(target, serve) as server, inside(source, client) as sender:
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        for number in range(ECHOES):
            begin = time.monotonic()
            try:
                sender.send(b"%d" % number)
                sender.recv(64)
            except OSError:
                continue
            found.append(time.monotonic() - begin)
    # The first ones wait for neighbours and flows.
    return found[20:]
