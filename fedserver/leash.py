"""Runs a command that dies with its parent: `python leash.py SIGNAL COMMAND …`.

Linux sends the signal named here when the thread that started this process ends, however it ends
(prctl(2), PR_SET_PDEATHSIG). The setting outlives exec, so the command keeps this process id. A
program of its own rather than a `preexec_fn`, which is not safe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Leashes this process to its parent and becomes the command."""
    name, *command = arguments
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.Signals[name], 0, 0, 0)
        if os.getppid() != parent:  # It ended before the leash was on.
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  (the command is the supervisor's own)


if __name__ == "__main__":
    main(sys.argv[1:])
