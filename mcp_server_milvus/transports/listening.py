"""The socket on which clients connect. Cheap to import: the parent of workers needs nothing else of a transport."""

import socket


def listener(host: str, port: int) -> socket.socket:
    """One that listens; port 0 is any that is free.

    Raises:
        OSError: nothing can listen there; the text says why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        made = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]  # not the address a second time
        raise OSError(f"cannot listen on {in_url(host)}:{port}: {reason}") from None
    return as_tcp(made.detach(), family)


def as_tcp(fileno: int, family: socket.AddressFamily) -> socket.socket:
    """The socket, named as TCP, or asyncio leaves Nagle's algorithm on: each answer in two writes would take 40 ms."""
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fileno)


def in_url(host: str) -> str:
    """The host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host
