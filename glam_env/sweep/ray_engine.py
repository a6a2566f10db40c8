"""Sweeps on Ray: one machine, or a cluster by its address.

Each run is a Ray task. Ray places it by its CPUs and GPUs, and runs it again on another worker when
its worker or its node is lost.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from glam_env.errors import GlamError, line_of
from glam_env.sweep.engine import gave_up, new_session
from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.settings import SweepSettings
from glam_env.sweep.worker import Outcome, Runner, WorkerLost

STORE_BYTES = 100_000_000  # of Ray's object store on one machine; results are a few bytes
REACH_SECONDS = 10.0


def _require_reachable(address: str) -> None:
    """Check that a cluster answers at its address.

    Ray itself tries for minutes. Addresses without a host and a port are not checked.

    Raises:
        GlamError: Nothing answers.
    """
    host, mark, port = address.rpartition(":")
    if not mark or not port.isdecimal() or "/" in host:
        return  # a name that Ray understands, such as auto
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise GlamError(
            f"no Ray cluster answers at {address} ({error}); give the address of its head"
        ) from error


def run_task(spec: RunSpec) -> Outcome:
    """Execute a run to its end, as a Ray task."""
    runner = Runner(spec)
    # `ray.cancel` interrupts a task; here it means to save and stop.
    before = signal.signal(signal.SIGINT, lambda *_: runner.stop())
    try:
        return runner.run()
    finally:
        signal.signal(signal.SIGINT, before)


class RayEngine:
    """Engine that executes a sweep on Ray.

    Args:
        settings: Settings of the sweep.

    Raises:
        GlamError: Ray is missing, the cluster cannot be used, or this machine is too small for a
            run. On a cluster, runs wait for a node that is large enough.
    """

    def __init__(self, settings: SweepSettings) -> None:
        # Ray reads these when it is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            raise GlamError('sweeps need ray: pip install "glam-env[sweep]"') from error
        self._ray, self._retries = ray, settings.retries
        address = settings.address or os.environ.get("RAY_ADDRESS")
        if address:
            _require_reachable(address)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(
                    address="local",
                    num_cpus=settings.cpus,
                    include_dashboard=False,
                    object_store_memory=STORE_BYTES,
                    **quiet,
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"the Ray cluster at {address} cannot be used" if address else "no Ray starts"
            raise GlamError(f"{where} ({line_of(error)}); see docs/sweeps.md") from error
        self.session = new_session()
        total: dict[str, Any] = ray.cluster_resources()
        gpus = settings.gpus_per_run
        self._gpus = float(total.get("GPU", 0) > 0) if gpus is None else gpus
        self._cpus = settings.cpus_per_run
        self.device = "cuda" if self._gpus else "cpu"
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.where = (
            f"Ray, {len(nodes)} node{'s' if len(nodes) != 1 else ''}, "
            f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
        )
        self.note = ""
        fits = [n.get("CPU", 0) >= self._cpus and n.get("GPU", 0) >= self._gpus for n in nodes]
        if not any(fits):
            needs = f"{self._cpus:g} CPUs and {self._gpus:g} GPUs for a run"
            if not address:
                self.close()
                raise GlamError(
                    f"this machine has no {needs}; lower --cpus-per-run or --gpus-per-run"
                )
            self.note = f"no node of the cluster has {needs} yet; the runs wait for one"
        self._runs: dict[Any, str] = {}

    def start(self, runs: Sequence[RunSpec]) -> None:
        """Submit the runs as tasks."""
        task = self._ray.remote(run_task)
        for run in runs:
            ref = task.options(
                name=run.name,
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_retries=self._retries,
                retry_exceptions=[WorkerLost],
            ).remote(run)
            self._runs[ref] = run.name

    def poll(self, seconds: float) -> Mapping[str, Outcome]:
        """Wait for tasks to end."""
        refs = list(self._runs)
        done, _ = self._ray.wait(refs, num_returns=1, timeout=seconds, fetch_local=True)
        if done:  # more may have ended with it
            done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        return {self._runs.pop(ref): self._outcome(ref) for ref in done}

    def _outcome(self, ref: Any) -> Outcome:
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.TaskCancelledError:
            return Outcome("stopped")
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, WorkerLost):
                return gave_up(self._retries, error.cause)
            return Outcome("failed", str(error.cause))
        except self._ray.exceptions.RayError as error:
            return gave_up(self._retries, error)

    def stop(self) -> None:
        """Cancel the tasks: running ones save and stop, waiting ones never start."""
        for ref in self._runs:
            self._ray.cancel(ref)

    def close(self) -> None:
        """Disconnect from the cluster, or end Ray on this machine."""
        self._ray.shutdown()
