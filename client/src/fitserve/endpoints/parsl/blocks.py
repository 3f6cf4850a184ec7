"""Parsl on a site: one executor, its blocks, and what the scheduler says of each of them.

A `Watch` keeps what the scheduler or Kubernetes says: Parsl's providers tell it.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from fitserve.endpoints.parsl.site import parsl_config
from fitserve.errors import BackendError
from fitserve.schedulers import BY_PROVIDER, refusal
from fitserve.schedulers.base import Job, Refusal, SilentSchedulerError
from fitserve.schedulers.kubernetes import pod_job
from fitserve_contract import STAGE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from fitserve.endpoints.parsl.engine import ParslEngine
    from fitserve.endpoints.parsl.guardian import Guardian
    from fitserve.endpoints.parsl.site import EngineDescription
    from fitserve.onsite.pods import PodProvider

__all__ = ["STAGE_DIRECTORY", "Engine", "PodWatch", "Watch", "ask_pods", "watched"]

STAGE_DIRECTORY = "stage"
"""Below a run's directory: workspaces that its workers read there."""
# Parsl compares blocks with waiting tasks this often; the scheduler is asked less often.
_STRATEGY_SECONDS = 1.0
_LEAST_POLL_SECONDS = 2.0
_PODS = "PodProvider"
_HERE = "LocalProvider"
# Until a block is asked for again after a refusal.
_FIRST_WAIT, _LONGEST_WAIT = 5.0, 120.0


class Watch:
    """The state of this run's blocks.

    Parameters
    ----------
    ask
        Returns the jobs with these ids; raises `SilentSchedulerError`.
    submitting, submitted
        Are called before each block is asked for, and with its id when it was taken.

    Attributes
    ----------
    jobs
        By id, as the scheduler said last.
    silent
        The error, or "no answer", where the scheduler did not answer; else empty.
    refusals
        How often in a row a block was refused; ``refusal`` is the last.
    """

    def __init__(
        self,
        ask: Callable[[Sequence[str]], dict[str, Job]] = lambda _: {},
        *,
        submitting: Callable[[], None] = lambda: None,
        submitted: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.ask = ask
        self.submitting = submitting
        self._submitted = submitted
        self._lock = threading.Lock()
        self._again = 0.0
        self.jobs: dict[str, Job] = {}
        self.silent = ""
        self.refusals = 0
        self.refusal: Refusal | None = None

    def look(self, ids: Sequence[str] | None = None) -> None:
        """Ask for jobs, by default for all that have not ended."""
        with self._lock:
            live = list(ids or (one for one, job in self.jobs.items() if job.state != "ended"))
            if not live:
                return
            try:
                self.jobs |= self.ask(live)
            except SilentSchedulerError as error:
                self.silent = str(error) or "no answer"
            else:
                self.silent = ""

    def took(self, ident: str) -> None:
        """Take note of a new block."""
        self.jobs[ident] = Job("queued")
        self.refusals, self.refusal = 0, None
        self._submitted(ident)

    def said(self, error: Exception) -> str:
        """Return what the scheduler said when it took no block."""
        streams = [str(getattr(error, name, "") or "") for name in ("stderr", "stdout")]
        return "\n".join(filter(str.strip, streams)) or str(error)

    def refused(self, text: str) -> None:
        """Take note of a refused block; each refusal makes the wait for the next longer."""
        self.refusal = refusal(text)
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2**self.refusals)
        self.refusals += 1
        self._again = time.monotonic() + wait

    @property
    def wait(self) -> float:
        """Seconds until another block may be asked for."""
        return max(0.0, self._again - time.monotonic()) if self.refusal else 0.0

    def count(self, state: str) -> int:
        """Return how many blocks are in this state."""
        return sum(job.state == state for job in self.jobs.values())


def watched(base: type[Any], watch: Watch, seconds: float) -> type[Any]:
    """Return a provider that takes the status of its blocks from a `Watch`, every ``seconds``.

    Parsl's own asks once a minute, takes a job that the scheduler no longer shows as completed, and
    does not read why a block waits.
    """
    from parsl.jobs.states import JobState, JobStatus

    queued = {"queued": JobState.PENDING, "running": JobState.RUNNING}
    ended = {
        "done": JobState.COMPLETED,
        "walltime": JobState.TIMEOUT,
        "preempted": JobState.TIMEOUT,
        "cancelled": JobState.CANCELLED,
    }

    def status(self: Any) -> None:
        watch.look()
        for ident, resource in self.resources.items():
            job = watch.jobs.get(ident)
            if job is None or resource["status"].terminal:
                continue
            state = queued.get(job.state) or ended.get(job.ending or "", JobState.FAILED)
            resource["status"] = JobStatus(
                state,
                message=job.reason or None,
                stdout_path=resource.get("job_stdout_path"),
                stderr_path=resource.get("job_stderr_path"),
            )

    def submit(self: Any, *arguments: Any, **named: Any) -> Any:
        if watch.wait:
            raise RuntimeError("a block was refused a moment ago")
        watch.submitting()
        try:
            ident = base.submit(self, *arguments, **named)
        except Exception as error:
            watch.refused(watch.said(error))
            raise
        if ident is None:
            # Torque's provider only logs what qsub said.
            watch.refused(_said(self))
        else:
            watch.took(ident)
        return ident

    def execute_wait(self: Any, command: str, timeout: float | None = None) -> Any:
        answer = base.execute_wait(self, command, timeout)
        self.last_answer = answer
        return answer

    members = {
        "_status": status,
        "submit": submit,
        "execute_wait": execute_wait,
        "status_polling_interval": property(lambda _: seconds),
    }
    return type(base.__name__, (base,), members)


def _said(provider: Any) -> str:
    code, out, err = getattr(provider, "last_answer", (0, "", ""))
    return str(err or out or f"exit status {code}")


class PodWatch(Watch):
    """The state of this run's pods."""

    def said(self, error: Exception) -> str:
        """Return what the cluster said when it took no pod, without its headers."""
        return _message(error) or super().said(error)


def ask_pods(provider: PodProvider, ids: Sequence[str]) -> dict[str, Job]:
    """Return pods of a provider as jobs.

    Raises
    ------
    SilentSchedulerError
        The cluster did not answer.
    """
    try:
        provider.look()
    except Exception as error:
        # The cluster may come back.
        raise SilentSchedulerError(_message(error) or str(error)) from error
    if provider.silent:
        raise SilentSchedulerError(provider.silent)
    pods = dict(provider.resources)
    return {ident: pod_job(pods[ident]["status"]) for ident in ids if ident in pods}


def _message(error: Exception) -> str:
    try:
        return str(json.loads(getattr(error, "body", ""))["message"])
    except (KeyError, TypeError, ValueError):
        return ""


class Engine:
    """Parsl with the site's executor.

    Parameters
    ----------
    description
        The site's engine.
    directory
        Of this run on the site, seen by its nodes.
    guardian
        Ends what is left if the client is gone.
    staged
        Whether workers find workspaces in the run's directory.
    most
        Blocks to ask for at first, at most; by default what the site allows.

    Attributes
    ----------
    watch
        What the scheduler says of the blocks; None where there is no scheduler.
    connected
        Ids of jobs whose workers have reported.

    Raises
    ------
    BackendError
        The site cannot be driven from here.
    """

    def __init__(
        self,
        description: EngineDescription,
        directory: Path,
        guardian: Guardian,
        *,
        staged: bool,
        most: int | None = None,
    ) -> None:
        from fitserve.endpoints.parsl.engine import ParslEngine

        which = description.engine["provider"]["type"]
        self._scheduler = BY_PROVIDER.get(which)
        timeout = float(description.engine["provider"].get("cmd_timeout", 60))
        polling = float(description.engine["job_status_kwargs"]["strategy_period"])
        self._guardian = guardian
        self.directory = directory
        self._avoided = ""
        self._retiring: set[str] = set()
        self.connected: set[str] = set()
        self.watch: Watch | None = None
        if which == _PODS:
            self.watch = PodWatch(submitting=self._submitting, submitted=self._submitted)
        elif self._scheduler:
            ask = partial(self._scheduler.jobs, timeout=timeout)
            self.watch = Watch(ask, submitting=self._submitting, submitted=self._submitted)

        def provider_type(base: type[Any]) -> type[Any]:
            seconds = max(_LEAST_POLL_SECONDS, polling)
            return watched(base, self.watch, seconds) if self.watch else base

        config = parsl_config(description, run_dir=directory, provider_type=provider_type)
        # Lost tasks are sent again by the run itself, which then knows of it.
        config.retries, config.retry_handler = 0, None
        config.strategy_period = min(_STRATEGY_SECONDS, config.strategy_period)
        config.initialize_logging = False
        [self.executor] = config.executors
        self.provider = self.executor.provider
        if most is not None:
            # Before Parsl begins to ask: another run of this user may have the rest.
            self.provider.max_blocks = min(self.provider.max_blocks, most)
            self.provider.init_blocks = min(self.provider.init_blocks, most)
        if isinstance(self.watch, PodWatch):
            self.watch.ask = partial(ask_pods, self.provider)
        self.executor.worker_logdir_root = str(directory)
        if self.watch is not None:
            # Parsl gives the whole run up when its first block fails.
            self.executor.block_error_handler = lambda _executor, _status: None
        _need_address(description.site, self.executor.address)
        if staged:
            self._export_stage(directory)
        if which == _HERE:
            self.provider.worker_init += f"\nexport TMPDIR={shlex.quote(str(guardian.temporary))}\n"
        self._block_of: dict[str, str] = {}
        self._parsl: ParslEngine = ParslEngine(config, guardian.groups, directory / "parsl.log")
        self.submit = self._parsl.submit
        self.broken = self._parsl.broken

    def workers(self) -> int:
        """Return how many workers have reported and take tasks."""
        for manager in self._parsl.managers():
            self._block_of[manager["manager"]] = manager["block_id"]
            job = self.executor.blocks_to_job_id.get(manager["block_id"])
            if job is not None:
                self.connected.add(job)
        return self._parsl.workers()

    def job_of(self, error: BaseException) -> str | None:
        """Return the job whose workers a task was lost with, if that is known."""
        manager = getattr(error, "manager_id", b"")
        name = manager.decode() if isinstance(manager, bytes) else str(manager)
        block = self._block_of.get(name)
        job: str | None = self.executor.blocks_to_job_id.get(block)
        return job

    def stderr_of(self, job: str) -> Path | None:
        """Return the file of a block's standard error."""
        from pathlib import Path

        resource = self.provider.resources.get(job, {})
        # Where Parsl does not know it, it is where PBS puts it by itself.
        by_default = sorted(Path.cwd().glob(f"*.e{job.split('.', maxsplit=1)[0]}"))
        path = resource.get("job_stderr_path")
        return Path(path) if path else next(iter(by_default), None)

    def failed(self) -> list[str]:
        """Return the last blocks in a row that ended and never had a worker."""
        failed: list[str] = []
        for ident, job in (self.watch.jobs if self.watch else {}).items():
            if ident in self.connected:
                failed = []
            elif job.ending not in {None, "cancelled"} and ident not in self._retiring:
                failed.append(ident)
        return failed

    def limit(self, blocks: int) -> None:
        """Ask for no more than so many blocks, and give those above back when they are idle."""
        self.provider.max_blocks = blocks
        if self.watch is None:
            return
        jobs = self.watch.jobs
        live = [one for one, job in jobs.items() if job.state != "ended"]
        kept = [job for job in live if job not in self._retiring]
        # Those that still wait are given back first, then the youngest.
        order = sorted(kept, key=lambda job: (jobs[job].state != "queued", -kept.index(job)))
        for job in order[: max(0, len(kept) - blocks)]:
            self._retire(job)
        for job in self._retiring.intersection(live):
            self._give_back_if_idle(job)

    def _retire(self, job: str) -> None:
        self._retiring.add(job)
        block = self.executor.job_ids_to_block.get(job)
        if block is not None:
            # Its workers finish what they have and get nothing more. If the interchange does not
            # answer, the engine is broken.
            with contextlib.suppress(Exception):
                self.executor._hold_block(block)  # noqa: SLF001 - Parsl has no public way

    def _give_back_if_idle(self, job: str) -> None:
        block = self.executor.job_ids_to_block.get(job)
        tasks = sum(one["tasks"] for one in self._parsl.managers() if one["block_id"] == block)
        if tasks == 0:
            self.provider.cancel([job])

    def stop(self) -> bool:
        """Give every block back and end the engine; returns whether that is done in time."""
        broken = self.broken() is not None

        def give_back() -> None:
            # Parsl itself leaves the blocks of a broken executor.
            jobs = self.watch.jobs if self.watch is not None else {}
            live = [one for one, job in jobs.items() if job.state != "ended"]
            if broken and live:
                self.provider.cancel(live)

        return self._parsl.stop(give_back)

    def _submitting(self) -> None:
        failed = self.failed()
        scheduler = self._scheduler
        if scheduler is None or not scheduler.avoid or self._avoided or not failed:
            return
        nodes = self.watch.jobs[failed[0]].nodes if self.watch else ""
        if nodes:
            # A bad node would take every block there is, for it is always free.
            self._avoided = nodes
            self.provider.scheduler_options += f"\n{scheduler.avoid.format(nodes=nodes)}\n"

    def _submitted(self, job: str) -> None:
        if self._scheduler:
            self._guardian.watch("job", f"{self._scheduler.cancel} {job}")

    def _export_stage(self, directory: Path) -> None:
        stage = directory / STAGE_DIRECTORY
        # A block that begins when the run is over would wait for its client.
        self.provider.worker_init += (
            f'\nexport {STAGE_VARIABLE}="{stage}"\n'
            f'[ -d "${STAGE_VARIABLE}" ] || {{ echo "fitserve: the run is over" >&2; exit 1; }}\n'
        )


def _need_address(site: str, address: str) -> None:
    """Require that workers get an address of this machine.

    Raises
    ------
    BackendError
        It has no such address.
    """
    try:
        family, *_, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind(where)
    except OSError as error:
        raise BackendError(
            f"site {site} tells its workers an address that this machine does not have",
            evidence=f"{address}: {error.strerror or error}",
            hint="log in to the site, or change network in its file (`ip -brief address` lists "
            "what there is) and render it again",
        ) from error
