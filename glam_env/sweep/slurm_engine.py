"""Sweeps on SLURM through submitit: an array job whose tasks are requeued.

SLURM signals a job before its time is up or when it is preempted. submitit then calls `checkpoint`
of the job's function, here to save and stop the run, and puts the job back into the queue. The
driver may end: the next one finds the jobs that are still there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glam_env.errors import GlamError, line_of
from glam_env.sweep.engine import gave_up, new_session
from glam_env.sweep.matrix import RunSpec
from glam_env.sweep.settings import SweepSettings
from glam_env.sweep.status import replace_file
from glam_env.sweep.worker import Outcome, Runner, WorkerLost

JOBS = "jobs.json"
POLL_SECONDS = 0.5
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")
LIVE = (*WAITING, "RUNNING", "SUSPENDED", "COMPLETING", "RESIZING")


def _import_submitit() -> Any:
    """Import submitit, without its own set-up of logging in this process.

    That set-up closes the handlers of other packages, and absl's handler then closes its stream.
    In jobs, submitit sets its logging up as usual.

    Raises:
        GlamError: submitit is not installed.
    """
    name, given = "SUBMITIT_LOG_LEVEL", os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ[name] = "NOCONFIG"
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise GlamError('SLURM needs submitit: pip install "glam-env[sweep]"') from error
    finally:
        if given is None:
            del os.environ[name]
        else:
            os.environ[name] = given
    return submitit


class Job:
    """Function of a job that executes one run.

    Args:
        stop_file: The run stops once this file exists.
        retries: How often the run's process may be lost within the job.
    """

    def __init__(self, stop_file: str, retries: int) -> None:
        self._stop_file, self._retries = stop_file, retries
        self._runner: Runner | None = None

    def __call__(self, spec: RunSpec) -> Outcome:
        """Bring the run to its end."""
        for attempt in range(self._retries + 1):
            self._runner = Runner(spec, Path(self._stop_file))
            try:
                return self._runner.run()
            except WorkerLost as error:
                if attempt == self._retries:
                    return gave_up(self._retries, error)
        raise AssertionError("unreachable")

    def checkpoint(self, spec: RunSpec) -> Any:
        """Save and stop the run; return the submission that continues it."""
        from submitit.helpers import DelayedSubmission

        if self._runner is not None:
            self._runner.stop()
            self._runner.wait_stopped()
        return DelayedSubmission(Job(self._stop_file, self._retries), spec)


class SlurmEngine:
    """Engine that executes a sweep through submitit.

    Args:
        settings: Settings of the sweep.
        folder: Folder of the sweep; submitit's files go to its subfolder `slurm`.

    Raises:
        GlamError: submitit is missing, this is no SLURM cluster, or a parameter is unknown.
    """

    note = ""

    def __init__(self, settings: SweepSettings, folder: Path) -> None:
        submitit = _import_submitit()
        gpus = settings.gpus_per_run or 0
        if gpus != int(gpus):
            raise GlamError(f"SLURM gives whole GPUs to a run, not {gpus}; use --on ray to share")
        self._submitit, self._retries = submitit, settings.retries
        self._folder = folder.absolute() / "slurm"
        self._slurm = settings.on == "slurm"
        self.device = "cuda" if gpus else "cpu"
        self.where = "SLURM" if self._slurm else "submitit on this machine, all runs at once"
        prefix = "slurm" if self._slurm else "local"
        try:
            self._executor = submitit.AutoExecutor(
                self._folder, cluster=prefix, **{f"{prefix}_max_num_timeout": 10_000}
            )
            self._executor.update_parameters(**self._parameters(settings, int(gpus)))
        except (RuntimeError, ValueError, NameError, AssertionError, OSError) as error:
            line = line_of(error)
            raise GlamError(f"submitit cannot be used ({line}); see docs/sweeps.md") from error
        self._jobs: dict[str, Any] = {}
        self._specs: dict[str, RunSpec] = {}
        self._lost: dict[str, int] = {}
        self._stopping = False
        self.session, self._earlier = self._find_earlier()
        self._stop_file = self._folder / f"stop-{self.session}"
        self._stop_file.unlink(missing_ok=True)

    def _parameters(self, settings: SweepSettings, gpus: int) -> dict[str, Any]:
        own = {
            "timeout_min": 24 * 60,
            "cpus_per_task": settings.threads,
            "gpus_per_node": gpus,
            "name": "glam-sweep",
        }
        if not self._slurm:
            return own | dict(settings.slurm)
        shared = {"timeout_min", "mem_gb", "name", "nodes", "tasks_per_node"}
        given = {k if k in shared else f"slurm_{k}": v for k, v in settings.slurm.items()}
        more = given.pop("slurm_additional_parameters", {})
        return own | given | {"slurm_additional_parameters": {"requeue": True, **more}}

    def _find_earlier(self) -> tuple[str, dict[str, Any]]:
        """Find the jobs of an earlier driver that SLURM still has.

        Returns:
            Their session, and the jobs by name; a new session if there are none.
        """
        if self._slurm:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                plain = json.loads((self._folder / JOBS).read_text())
                jobs = {
                    name: self._submitit.SlurmJob(self._folder, number)
                    for name, number in plain["jobs"].items()
                }
                if live := {name: job for name, job in jobs.items() if job.state in LIVE}:
                    return plain["session"], live
        return new_session(), {}

    def start(self, runs: Sequence[RunSpec]) -> None:
        """Submit the runs as one array.

        Runs whose jobs are still there are not submitted again.
        """
        self._specs |= {run.name: run for run in runs}
        for run in runs:
            if run.name in self._earlier:
                self._jobs[run.name] = self._earlier[run.name]
        self._submit([run for run in runs if run.name not in self._jobs])

    def _submit(self, runs: Sequence[RunSpec]) -> None:
        if not runs:
            return
        job = Job(str(self._stop_file), self._retries)
        try:
            submitted = self._executor.map_array(job, runs)
        except self._submitit.core.utils.FailedJobError as error:
            line = line_of(error, -1)
            raise GlamError(f"SLURM does not take the jobs ({line}); see [slurm]") from error
        self._jobs |= {run.name: each for run, each in zip(runs, submitted, strict=True)}
        numbers = {name: each.job_id for name, each in self._jobs.items()}
        text = json.dumps({"session": self.session, "jobs": numbers}, indent=2) + "\n"
        replace_file(self._folder / JOBS, text)

    def poll(self, seconds: float) -> Mapping[str, Outcome]:
        """Wait for jobs to end."""
        until, ended = time.monotonic() + seconds, {}
        while True:
            for name, job in list(self._jobs.items()):
                if job.done():
                    del self._jobs[name]
                    if (outcome := self._outcome(name, job)) is not None:
                        ended[name] = outcome
            if ended or time.monotonic() >= until:
                return ended
            time.sleep(POLL_SECONDS)

    def _outcome(self, name: str, job: Any) -> Outcome | None:
        """Return how a job ended; None if it was lost and is submitted again."""
        try:
            return job.result()
        except self._submitit.core.utils.UncompletedJobError as error:
            if self._stopping:
                return Outcome("stopped")
            lost = self._lost[name] = self._lost.get(name, 0) + 1
            if lost > self._retries:
                return gave_up(self._retries, error)
            self._submit([self._specs[name]])
            return None

    def stop(self) -> None:
        """Let running jobs save and end, and cancel waiting ones."""
        self._stopping = True
        self._stop_file.touch()
        if self._slurm:
            for job in self._jobs.values():
                if job.state in WAITING:
                    job.cancel(check=False)

    def close(self) -> None:
        """Remove the file that asks the jobs to stop, if all of them have ended."""
        if not self._jobs:
            self._stop_file.unlink(missing_ok=True)
