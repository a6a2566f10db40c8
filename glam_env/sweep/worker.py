"""One run of a sweep on a worker: train or resume it, then measure and export it.

Every command runs as a process of its own. A crash of native code, or memory that is not freed,
costs that process only, and SIGTERM makes `glam train` save and stop. The process ends with its
worker (:mod:`glam_env.sweep.child`).

A worker holds the lock ``sweep.lock`` of the run, which its process inherits. So the successor of a
worker that was killed waits until the process of that worker is gone as well.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from glam_env.console import FINISHED
from glam_env.errors import printable
from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.status import Status, read_status, replace_file, write_status

LOG, LOCK = "log.txt", "sweep.lock"
LOCK_SECONDS = 600.0  # for the process of a lost worker to end; a file server may take minutes
STOP_SECONDS = 600.0  # for a process to save
POLL_SECONDS = 0.1
TAIL = 50  # lines of a process that are kept for its error

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: finished, stopped (saved, and to be resumed) or failed.
        message: Why it failed, in one line.
    """

    state: State
    message: str = ""


class WorkerLost(RuntimeError):
    """A lost run that is worth another attempt.

    Its process was killed or stopped from outside, or that of an earlier worker does not end.
    """


class Runner:
    """Brings one run to its end, from its current state.

    Args:
        spec: The run.
        stop_file: The run stops once this file exists; with None, only :meth:`stop` stops it.
    """

    def __init__(self, spec: RunSpec, stop_file: Path | None = None) -> None:
        self.spec, self.path = spec, Path(spec.path)
        self._stop_file, self._looked_at = stop_file, 0.0
        self._process: subprocess.Popen[str] | None = None
        self._stopped = self._trained = False
        self._attempt = 1

    def stop(self) -> None:
        """Let the process save and end; :meth:`run` then returns that the run was stopped."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()

    def wait_stopped(self) -> None:
        """Wait until the process has ended, without taking its exit code from :meth:`run`.

        It waits for at most ``STOP_SECONDS``.
        """
        until = time.monotonic() + STOP_SECONDS
        if (process := self._process) is None:
            return
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        with contextlib.suppress(ChildProcessError):  # its exit code has been taken already
            while os.waitid(os.P_PID, process.pid, options) is None and time.monotonic() < until:
                time.sleep(POLL_SECONDS)

    def run(self) -> Outcome:
        """Train the run until it is finished, then run the commands that follow.

        Raises:
            WorkerLost: The process was killed, or that of an earlier worker does not end.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._take_lock()
        except OSError as error:
            reason = error.strerror or error
            return Outcome("failed", f"cannot write {self.path} ({reason}); make it writable")
        if lock is None:
            return Outcome("stopped")
        with lock:
            earlier = read_status(self.path)
            if earlier is not None and earlier.session == self.spec.session:
                self._attempt = earlier.attempt + 1
            self._trained = earlier is not None and earlier.trained
            outcome = self._run(lock.fileno())
            self._report(outcome.state, message=outcome.message)
            return outcome

    def _is_stopped(self) -> bool:
        """Return whether the run was asked to stop; look at the file about once a second."""
        if self._stop_file is not None and time.monotonic() - self._looked_at > 1.0:
            self._looked_at = time.monotonic()
            self._stopped |= self._stop_file.exists()
        return self._stopped

    def _take_lock(self) -> IO[bytes] | None:
        """Lock the run for this worker and its processes.

        The result is None if the run was stopped meanwhile.
        """
        import fcntl

        file = (self.path / LOCK).open("ab")
        until = time.monotonic() + LOCK_SECONDS
        while not self._is_stopped():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() > until:
                    file.close()
                    raise WorkerLost(f"another worker holds {self.path / LOCK}") from None
            time.sleep(POLL_SECONDS)
        file.close()
        return None

    def _run(self, lock: int) -> Outcome:
        if not self._trained:
            begun = os.path.lexists(self.path / "config.json")
            words = self.spec.resume if begun else self.spec.start
            outcome = self._call("train", words, lock)
            if outcome.state != "finished":
                return outcome
            self._trained = True
        for follow in self.spec.then:
            if (self.path / follow.done).is_file():
                continue
            output = None if follow.output is None else self.path / follow.output
            outcome = self._call(follow.step, follow.words, lock, output)
            if outcome.state != "finished":
                return outcome
        return Outcome("finished")

    def _report(self, state: str, step: str = "", message: str = "") -> None:
        """Write the status of the run.

        Errors are ignored, since the run itself reports a full disk.
        """
        status = Status(
            session=self.spec.session,
            state=state,
            step=step,
            attempt=self._attempt,
            trained=self._trained,
            message=message,
            host=socket.gethostname(),
            worker=os.getpid(),
            since=time.time(),
        )
        with contextlib.suppress(OSError):
            write_status(self.path, status)

    def _call(
        self, step: str, words: Sequence[str], lock: int, output: Path | None = None
    ) -> Outcome:
        """Run `glam` in a process of its own, and wait for its end."""
        if self._is_stopped():
            return Outcome("stopped")
        self._report("running", step)
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "glam_env.sweep.child", "glam_env.cli", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"OMP_NUM_THREADS": str(self.spec.threads)},
            cwd=self.spec.cwd if os.path.isdir(self.spec.cwd) else None,
            pass_fds=(lock,),
            start_new_session=True,  # signals of an engine reach the worker alone
        )
        log = _Log(self.path / LOG, f"glam {shlex.join(words)}")
        printed = _Reader(process.stdout, log, keep=output is not None)
        errors = _Reader(process.stderr, log)
        try:
            if self._stopped:  # between the two lines above
                process.terminate()
            while process.poll() is None:
                if not self._stopped and self._is_stopped():
                    self.stop()
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:  # this worker is being ended
                process.terminate()
                process.wait(STOP_SECONDS)
            self._process = None
            assert process.stdin is not None
            process.stdin.close()
            printed.join()
            errors.join()
            log.close()
        return self._judge(step, process.returncode, printed.lines, errors.lines, output)

    def _judge(
        self, step: str, code: int, printed: Sequence[str], errors: Sequence[str], to: Path | None
    ) -> Outcome:
        """Decide how a process ended.

        Raises:
            WorkerLost: The process was killed, or stopped from outside.
        """
        if code == 0 and step == "train" and not any(_says_finished(line) for line in printed):
            if self._stopped:
                return Outcome("stopped")
            raise WorkerLost(f"{step} was stopped by a signal")
        if code == 0:
            try:
                if to is not None:
                    to.parent.mkdir(exist_ok=True)
                    replace_file(to, "\n".join(printed) + "\n")
            except OSError as error:
                return Outcome("failed", f"cannot write {to} ({error.strerror or error})")
            return Outcome("finished")
        if code < 0:
            if self._stopped and code in (-signal.SIGTERM, -signal.SIGINT):
                return Outcome("stopped")
            raise WorkerLost(f"{step} was ended by {_signal_name(-code)}")
        own = [line.removeprefix("glam: ") for line in errors if line.startswith("glam: ")]
        last = [line for line in [*printed, *errors] if line.strip()][-1:]
        message = (own[-1:] or last or [f"exit code {code}"])[0]
        return Outcome("failed", printable(f"{step}: {message}"))


def _says_finished(line: str) -> bool:
    return line.startswith(FINISHED)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Log:
    """The log of a run. If it cannot be written, the run continues without it."""

    def __init__(self, path: Path, head: str) -> None:
        self._lock, self._file = threading.Lock(), None
        with contextlib.suppress(OSError):
            self._file = path.open("a", errors="replace")
        self.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()}: {head}\n")

    def write(self, line: str) -> None:
        with self._lock:
            if self._file is not None:
                try:
                    self._file.write(line)
                    self._file.flush()
                except OSError:
                    self._close()

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # a full disk: what is buffered is lost
                file.close()


class _Reader(threading.Thread):
    """Thread that reads the lines of a process and keeps the last ones, or all."""

    def __init__(self, stream: IO[str] | None, log: _Log, keep: bool = False) -> None:
        super().__init__(daemon=True)
        assert stream is not None
        self.lines: deque[str] = deque(maxlen=None if keep else TAIL)
        self._stream, self._log, self._keep = stream, log, keep
        self.start()

    def run(self) -> None:
        for line in self._stream:
            self.lines.append(line.rstrip("\n"))
            if not self._keep:
                self._log.write(line)
        self._stream.close()
