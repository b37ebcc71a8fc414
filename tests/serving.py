"""The real ASGI server, in a thread of the tests' own process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from fedserver.sockets import LiveSocket
from fedserver.web import WORD


@contextmanager
def serving(port: int = 0, root_path: str = "") -> Iterator[int]:
    """Serve until the block ends, on the database that the settings name by now: the port."""
    from fedserver.asgi import application  # after the stage is set

    config = uvicorn.Config(
        application,
        port=port,
        root_path=root_path,
        lifespan="off",
        log_level="warning",
        ws=LiveSocket,
        ws_max_size=WORD,
        ws_per_message_deflate=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), f"Expected a free port. Received: {port}"
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
