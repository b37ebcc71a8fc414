"""One round of Flower with participants that train nothing: what a round costs by itself.

    python -m benchmarks.flower_round [--participants 2 8] [--rounds 1] [--json FILE]

Starts a SuperLink and that many SuperNodes on 127.0.0.1, waits until all are connected, and runs
`flower_app/` with `flwr run`. `seconds_per_round` is taken inside Flower's server, from the first
selection to the last aggregation; `seconds_total` is the whole of `flwr run`, up to the finished
run. Prints one JSON object for each number of participants. Every process ends with it.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import flower

APP = Path(__file__).with_name("flower_app")
PATIENCE = 180.0
"""Seconds after which a run is given up."""


def main() -> None:
    parser = argparse.ArgumentParser(description="What a round of Flower costs by itself.")
    parser.add_argument("--participants", nargs="+", type=int, default=[2, 8], metavar="N")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the list there too")
    options = parser.parse_args()
    reports = []
    for participants in options.participants:
        reports.append(measure(participants, options.rounds))
        print(json.dumps(reports[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(reports, indent=2) + "\n")


def measure(participants: int, rounds: int = 1) -> dict[str, Any]:
    """Runs Flower's rounds once.

    Args:
        participants: how many SuperNodes take part, at least 2.
        rounds: how many rounds the run has.

    Returns:
        `participants`, `seconds_total`, `seconds_per_round` and `flower`, the version.

    Raises:
        RuntimeError: the run failed or took too long; says what Flower's programs wrote last.
    """
    with tempfile.TemporaryDirectory(prefix="flower-round-") as folder:
        home = Path(folder)
        with federation(home, participants) as environment:
            started = time.perf_counter()
            report = run(home, environment, participants, rounds)
            seconds = time.perf_counter() - started
    return {
        "participants": participants,
        "seconds_total": seconds,
        **report,
        "flower": flower.version(),
    }


@contextmanager
def federation(home: Path, participants: int) -> Iterator[dict[str, str]]:
    """Keeps a SuperLink and its SuperNodes; gives the environment that `flwr` finds them by."""
    environment = {
        "HOME": str(home),
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "PATH": f"{flower.environment() / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    link, *ports = free_ports(1 + participants)
    configure(home / "flwr", link)
    with programs(home, environment) as start:
        start(
            "flower-superlink",
            *("--insecure", "--port", str(link)),
            "--disable-runtime-dependency-installation",
        )
        wait_for(link)
        for port in ports:
            address = f"127.0.0.1:{link}"
            start("flower-supernode", "--insecure", "--superlink", address, "--port", str(port))
        for port in ports:
            wait_for(port)
        yield environment


@contextmanager
def programs(home: Path, environment: dict[str, str]) -> Iterator[Any]:
    """Gives a function that starts one of Flower's programs; ends them all, and their children."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        with (home / f"{len(started)}.{name}.log").open("wb") as log:
            command = [flower.program(name), *arguments]
            started.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    try:
        yield start
    finally:
        # Those who are asked take their children with them; whoever stays is not asked again.
        for process in reversed(started):
            process.terminate()
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10.0)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def configure(folder: Path, port: int) -> None:
    folder.mkdir()
    lines = [
        *("[superlink]", 'default = "benchmark"'),
        *("[superlink.benchmark]", f'address = "127.0.0.1:{port}"', "insecure = true"),
    ]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")


def run(home: Path, environment: dict[str, str], participants: int, rounds: int) -> dict[str, Any]:
    report = home / "report.json"
    config = f"participants={participants} rounds={rounds} report='{report}'"
    command = [flower.program("flwr"), "run", str(APP), "benchmark", "--stream", "-c", config]
    with (home / "run.log").open("wb") as log:
        try:
            subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            log.write(b"took too long\n")
    if not report.exists():
        raise RuntimeError(f"Expected Flower's run to finish. Received: {last_words(home)}")
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def last_words(home: Path) -> str:
    logs = sorted(home.glob("*.log"))
    return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


def free_ports(count: int) -> list[int]:
    """Finds free ports, all different because all are held until the last is found."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_for(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"Expected a listener on port {port}. Received: none in {PATIENCE} s")


if __name__ == "__main__":
    main()
