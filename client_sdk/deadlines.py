"""A time by which a request has ended, whatever the server does.

httpx limits the time for each read from a socket. A server that sends a byte before each limit
keeps a request busy for ever: this is the limit for all of them together.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

_PIECE = 1 << 14  # bytes to write at a time: a write returns when all of it is taken


class Clock(threading.local):
    """When what this thread is asking must have ended."""

    ends = math.inf

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Allow so many seconds, or fewer where less is left already."""
        before, self.ends = self.ends, min(self.ends, time.monotonic() + seconds)
        try:
            yield
        finally:
            self.ends = before

    def left(self, timeout: float | None, late: type[Exception]) -> float | None:
        """Seconds that one step may take."""
        if self.ends == math.inf:
            return timeout
        left = self.ends - time.monotonic()
        if left <= 0:
            raise late("the time for the whole request is over")
        return left if timeout is None else min(timeout, left)


def keep(clock: Clock, client: httpx.Client) -> None:
    """Let all of a client's connections keep to the clock."""
    # httpcore takes a backend of one's own, and httpx hands none on: hence the private names.
    # A test with a server that trickles would tell if they were others one day.
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend, clock)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, backend: httpcore.NetworkBackend, clock: Clock) -> None:
        self._backend, self._clock = backend, clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = self._clock.left(timeout, httpcore.ConnectTimeout)
        connect: Callable[..., httpcore.NetworkStream] = self._backend.connect_tcp
        stream = connect(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._clock)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, clock: Clock) -> None:
        self._stream, self._clock = stream, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._clock.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE):
            left = self._clock.left(timeout, httpcore.WriteTimeout)
            self._stream.write(buffer[start : start + _PIECE], left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(*args, **options), self._clock)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
