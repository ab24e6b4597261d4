"""What comes to a server's port that is no gRPC, or stops in the middle."""

import contextlib
import dataclasses
import resource
import socket
import struct
import typing
import unittest

from server import CALL_TIMEOUT_S, generate_request

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@dataclasses.dataclass(frozen=True)
class ConnectionRow:
    name: str
    run: typing.Callable  # of the server; returns what became of it
    outcome: str


def connect(server):
    host, port = server.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=CALL_TIMEOUT_S)


def send(*pieces):
    """Sends bytes, then reads until the server hangs up."""

    def run(server):
        with connect(server) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
                while connection.recv(65536):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass  # it did not even read all of it
        return "the server hangs up"

    return run


def open_and_drop(count, at_once):
    """Connections that are opened and dropped; every other one by a reset, as by a machine that vanished."""

    def run(server):
        for _ in range(count // at_once):
            connections = [connect(server) for _ in range(at_once)]
            for i, connection in enumerate(connections):
                if i % 2 == 0:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        return "nothing is left of them"

    return run


def allow_descriptors(count):
    """Each connection takes one of ours, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 256:
        raise unittest.SkipTest(f"the system allows {hard} open files, too few for {count} connections")
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 256), hard))


def is_greeted(connection):
    """Whether the server answers a connection's settings by its own, or hangs up."""
    try:
        return bool(connection.recv(1))
    except ConnectionError:
        return False


def hold_open(count, allowed=None):
    """Connections that speak HTTP/2 and stay. While they do, a connection from before them is served."""

    def run(server):
        allow_descriptors(count)
        with contextlib.ExitStack() as stack:
            connections = []
            for _ in range(count):
                connections.append(stack.enter_context(connect(server)))
                with contextlib.suppress(ConnectionError):
                    connections[-1].sendall(HTTP2_PREFACE + SETTINGS)
            greeted = sum(map(is_greeted, connections))
            server.stub.Generate(generate_request(max_tokens=1), timeout=CALL_TIMEOUT_S)
        if greeted == count:
            return "all are held"
        # A few of what is allowed goes to the server's own files and to connections from before.
        if allowed is not None and allowed - 50 <= greeted <= allowed:
            return "as many as allowed are held"
        return f"{greeted} are held"

    return run


def reset_inside_a_request(server):
    with connect(server) as connection:
        connection.sendall(HTTP2_PREFACE + SETTINGS + b"\x00\x40\x00\x01\x04\x00\x00\x00\x01" + b"\x82" * 100)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "nothing is left of it"


def frame(length, kind, flags, stream, payload=b""):
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


# To a server that drops, after few seconds, who does not speak HTTP/2.
STRANGER_ROWS = [
    ConnectionRow("connection: random bytes", send(bytes(range(256)) * 4096), "the server hangs up"),
    ConnectionRow("connection: HTTP/1.1", send(b"POST /v1/completions HTTP/1.1\r\nHost: moed\r\n\r\n"), "the server hangs up"),
    ConnectionRow("connection: a TLS handshake", send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 512),
                  "the server hangs up"),
    ConnectionRow("connection: silence", send(), "the server hangs up"),
    ConnectionRow("connection: half of the HTTP/2 preface", send(HTTP2_PREFACE[:10]), "the server hangs up"),
    ConnectionRow("connection: HTTP/2 frame that claims 16 MiB", send(HTTP2_PREFACE + SETTINGS, frame(0xFFFFFF, 0, 0, 1)),
                  "the server hangs up"),
    ConnectionRow("connection: HTTP/2 headers that are garbage",
                  send(HTTP2_PREFACE + SETTINGS, frame(256, 1, 4, 1, bytes([0xFF]) * 256)), "the server hangs up"),
    ConnectionRow("connection: reset inside a request", reset_inside_a_request, "nothing is left of it"),
]

# To a server with the usual patience: the neighbours' own handshakes take longer amid so many.
FLOOD_ROWS = [
    ConnectionRow("connection: 500 at once, opened and dropped", open_and_drop(500, 500), "nothing is left of them"),
    ConnectionRow("connection: 10,000, opened and dropped", open_and_drop(10_000, 100), "nothing is left of them"),
]

# To servers that do not ask for a sign of life meanwhile.
HELD_ROWS = [ConnectionRow("connection: 10,000 held open at once", hold_open(10_000), "all are held")]
TOO_MANY_ROWS = [ConnectionRow("connection: 500 held open where --max-connections is 200", hold_open(500, allowed=200),
                               "as many as allowed are held")]
