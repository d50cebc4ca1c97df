"""HTTP and sockets from inside a network namespace, without another process.

A thread may enter another network namespace by itself; a socket belongs for good to the namespace it was made in. So a
short-lived thread makes the connection and everybody may use it.
"""

import ctypes
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def in_netns(netns: str, action: Callable):
    """Run `action` in a thread inside the named network namespace and return its result."""
    return inside(f"/run/netns/{netns}", action)


def inside(path: str, action: Callable):
    """Run `action` in a thread inside the network namespace at this path and return its result."""
    result: list = []

    def enter():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(fd, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {path}")
            finally:
                os.close(fd)
            result.append((action(), None))
        except BaseException as e:  # handed over to the caller
            result.append((None, e))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    value, error = result[0]
    if error:
        raise error
    return value


class Response:
    """An answer, read completely."""

    def __init__(self, status: int, headers, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        """Return the body, which must be JSON."""
        return json.loads(self.body)


def request(
    netns: str | None,
    method: str,
    url: str,
    body=None,
    headers: dict | None = None,
    timeout: float = 60,
    context: ssl.SSLContext | None = None,
    unix: str | None = None,
) -> Response:
    """Send one request from inside a namespace, or over a unix socket; a body that is no bytes is sent as JSON."""
    u = urlsplit(url)
    headers = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")

    def connect():
        if unix:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(timeout)
            s.connect(unix)
            return s
        return socket.create_connection((u.hostname, u.port), timeout=timeout)

    connection = http.client.HTTPConnection(u.hostname or "localhost", u.port, timeout=timeout)
    connection.sock = in_netns(netns, connect) if netns else connect()
    if u.scheme == "https":
        connection.sock = (context or ssl.create_default_context()).wrap_socket(
            connection.sock, server_hostname=u.hostname
        )
    try:
        connection.request(method, u.path + (f"?{u.query}" if u.query else ""), body, headers)
        answer = connection.getresponse()
        return Response(answer.status, answer.headers, answer.read())
    except http.client.HTTPException as e:
        raise OSError(f"{method} {url}: {e!r}") from e
    finally:
        connection.close()
