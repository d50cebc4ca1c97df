"""A small HTTP server for both families, for the server and the external side: it answers with its name and the address
it was asked from.

    python3 answer.py NAME PORT
"""

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self):
        address = self.client_address[0].removeprefix("::ffff:")
        body = f"{NAME} saw {address} asking for {self.path}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return self.client_address[0]  # no name lookup


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        socketserver_bind(self)


def socketserver_bind(server: ThreadingHTTPServer) -> None:
    """Bind without the name lookup that http.server does."""
    server.socket.bind(server.server_address)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = NAME, server.server_address[1]


if __name__ == "__main__":
    NAME = sys.argv[1]
    Server(("::", int(sys.argv[2])), Handler).serve_forever()
