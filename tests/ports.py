"""Ports for processes that are to find each other."""

from __future__ import annotations

import secrets
import socket

# below those that the system gives to connections (from 32768 on): it might take one for another connection before it is
# used here, or connect whoever waits there to itself
LOWEST, HIGHEST = 15000, 32000


def free_ports(count: int = 1) -> int:
    """The first of so many ports in a row that nobody listens at."""
    while True:
        first = LOWEST + secrets.randbelow(HIGHEST - LOWEST - count)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
