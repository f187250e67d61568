"""The queue in front of the network: one computation at a time, each with a place in the line and a way out."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
_LISTED = 20  # ended jobs

# Called by whoever serves a request when nobody waits for its answer any more; jobs that still wait leave the line.
when_gone: ContextVar[list[Callable[[], object]]] = ContextVar("when_gone")


class QueueError(RuntimeError):
    """Why there is no result."""


class QueueFullError(QueueError):
    """Too many wait already."""


class JobCancelledError(QueueError):
    """Somebody cancelled the job."""


@dataclass(eq=False)
class Job:
    """One computation; its function calls ``check`` now and then."""

    id: str
    kind: str
    image: str
    state: str = "waiting"
    cancelled: bool = False
    came: float = field(default_factory=time.monotonic)
    ended: float | None = None
    future: Future | None = None

    def check(self) -> None:
        """Raise JobCancelledError if somebody has cancelled this job."""
        if self.cancelled:
            raise JobCancelledError("the computation was cancelled")


class Jobs:
    """Runs functions in ``workers`` threads in the order they come; at most ``limit`` wait."""

    def __init__(self, workers: int = 1, limit: int = 32) -> None:
        self._limit, self._ids, self._lock = limit, itertools.count(1), threading.Lock()
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="job")
        self._active: list[Job] = []
        self._ended: deque[Job] = deque(maxlen=_LISTED)

    def run(self, kind: str, image: str, function: Callable[[Job], T]) -> T:
        """Return what the function returns, or raise what it raises, once all that came before have begun.

        The function has the context variables of the caller. Among them ``when_gone`` gets a function that takes the
        job out of the line, and does nothing once it runs.
        """
        with self._lock:
            if sum(job.state == "waiting" for job in self._active) >= self._limit:
                raise QueueFullError(f"{self._limit} computations are waiting, try again later")
            job = Job(str(next(self._ids)), kind, image)
            self._active.append(job)
            job.future = self._workers.submit(copy_context().run, self._do, job, function)
            when_gone.get([]).append(job.future.cancel)
        error: BaseException | None = None
        try:
            return job.future.result()
        except BaseException as raised:
            error = JobCancelledError("the computation was cancelled") if isinstance(raised, CancelledError) else raised
            raise error from None
        finally:
            with self._lock:
                job.state = "cancelled" if isinstance(error, JobCancelledError) else "failed" if error else "done"
                job.ended, job.future = time.monotonic(), None
                self._active.remove(job)
                self._ended.appendleft(job)

    def list(self) -> list[dict[str, Any]]:
        """Return what runs, waits (``position`` from 1) and has ended lately; ``seconds`` from its coming."""
        with self._lock:
            jobs = [*self._active, *self._ended]
            line = [job for job in jobs if job.state == "waiting"]
            return [
                {key: getattr(job, key) for key in ("id", "kind", "image", "state")}
                | {"position": line.index(job) + 1 if job in line else 0}
                | {"seconds": round((job.ended or time.monotonic()) - job.came, 2)}
                for job in jobs
            ]

    def cancel(self, job_id: str) -> bool:
        """Take a job out of the line, or ask a running one to stop; False where there is no such job any more."""
        with self._lock:
            job = next((job for job in self._active if job.id == job_id), None)
            future = job.future if job else None
            if job is None or future is None:
                return False
            job.cancelled = True
        future.cancel()
        return True

    @staticmethod
    def _do(job: Job, function: Callable[[Job], T]) -> T:
        job.state = "running"
        job.check()
        return function(job)
