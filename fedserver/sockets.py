"""How uvicorn speaks WebSocket here: as ever, and who does not read is dropped.

A page that takes nothing more (a closed laptop, a debugger, malice) fills its connection's buffers,
and uvicorn would wait for it as long as TCP does: for ever, if its machine only answers. Waiting
costs memory and a task for each of them.
"""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# What the kernel may hold for a page, beside the transport's 64 kB: a burst of 500 events fits.
SEND_BUFFER = 256 * 1024


class LiveSocket(WebSocketsSansIOProtocol):
    """One WebSocket, with bounded buffers and a bound on how long they may stay full."""

    stuck_seconds = 20.0
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if (peer := transport.get_extra_info("socket")) is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.stuck_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._forgive()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forgive()
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        # It closes only after the buffers are empty, which they will not be.
        self._stuck = self._stuck or self.loop.call_later(1.0, self.transport.abort)

    def _forgive(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
