"""A process that runs a module and ends when its parent does.

Usage: ``python -m glam_env.sweep.child MODULE WORDS``.

The parent holds the other end of this process's standard input and writes nothing. When the parent
has ended, for whatever reason, the input ends too, and this process kills itself.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def main() -> None:
    """Run the module of the command line as `python -m` does."""
    # Ray's workers block SIGINT, and a child inherits that.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
