"""The web process: uvicorn, as this server wants it.

python -m fedserver.web [--host 127.0.0.1] [--port 8000 | --fd 3] [--workers 4]
"""

import argparse
import os
from contextlib import suppress

import uvicorn

from fedserver.sockets import LiveSocket

BACKLOG = 2048
# Longer than our clients keep an idle connection (httpx: 5 seconds): with the same patience on both
# sides a request may meet a door that is just being closed, and an upload is not tried twice.
KEEP_ALIVE = 20
WORD = 16 * 1024  # bytes that a page may say at once: its cursor and what it shows
FILES = 65536  # a socket is one; what a login gets is often 1024


def main() -> None:
    options = parse()
    os.environ["FEDSERVER_ROOT_PATH"] = options.root_path  # for the settings
    allow_many_sockets()
    where = {"fd": options.fd} if options.fd is not None else {"port": options.port}
    uvicorn.run(
        "fedserver.asgi:application",
        host=options.host,
        **where,
        root_path=options.root_path,
        workers=options.workers,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        ws=LiveSocket,
        ws_max_size=WORD,
        # A frame is the same for all pages; compressed it would be made for each of them anew.
        ws_per_message_deflate=False,
        access_log=False,
        # The settings count the proxies to be believed (FEDSERVER_PROXIES); uvicorn must not too.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )


def allow_many_sockets() -> None:
    """Takes as many open files as the system lets us have, without being asked for it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fedserver.web", description="The web process.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port (%(default)s)")
    parser.add_argument("--fd", type=int, help="a listening socket to inherit, instead of a port")
    root = os.environ.get("FEDSERVER_ROOT_PATH", "").rstrip("/")
    parser.add_argument("--root-path", default=root, help="the prefix that a proxy takes off")
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
