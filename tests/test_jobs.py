import threading
import time
from contextvars import ContextVar, copy_context

import pytest

from cardiac_cine.annotation.jobs import JobCancelledError, Jobs, QueueFullError, when_gone


class Held:
    """Jobs in front of which one is held until released."""

    def __init__(self, **options):
        self.jobs, self.gate, self.begun = Jobs(**options), threading.Event(), threading.Event()
        self.outcomes, self.order, self.threads = {}, [], []
        self.start("first", self._hold)
        assert self.begun.wait(5)

    def _hold(self, job):
        self.begun.set()
        while not self.gate.wait(0.01):
            job.check()
        return "held"

    def start(self, image, function=None):
        waiting = len(self.jobs.list())

        def work():
            try:
                self.outcomes[image] = self.jobs.run("kind", image, function or (lambda job: self.order.append(image)))
            except Exception as error:
                self.outcomes[image] = error

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()
        deadline = time.monotonic() + 5
        while len(self.jobs.list()) == waiting and image not in self.outcomes and time.monotonic() < deadline:
            time.sleep(0.002)

    def finish(self):
        self.gate.set()
        for thread in self.threads:
            thread.join(5)

    def listed(self):
        return [(job["image"], job["state"], job["position"]) for job in self.jobs.list()]

    def cancel(self, image):
        return self.jobs.cancel(next(job["id"] for job in self.jobs.list() if job["image"] == image))


@pytest.fixture
def held():
    held = Held(limit=2)
    yield held
    held.finish()


def test_returns_what_the_function_returns_and_raises_what_it_raises():
    jobs = Jobs()
    assert jobs.run("kind", "a", lambda job: 7) == 7
    with pytest.raises(ZeroDivisionError):
        jobs.run("kind", "b", lambda job: 1 // 0)
    assert [(job["image"], job["state"]) for job in jobs.list()] == [("b", "failed"), ("a", "done")]
    assert jobs.run("kind", "c", lambda job: job.id) == "3"


def test_the_function_knows_who_asks():
    asking = ContextVar("asking", default="nobody")
    context = copy_context()
    context.run(asking.set, "ann")
    assert context.run(Jobs().run, "kind", "image", lambda job: asking.get()) == "ann"


def test_first_come_first_served_with_a_place_in_the_line(held):
    held.start("second")
    held.start("third")
    assert held.listed() == [("first", "running", 0), ("second", "waiting", 1), ("third", "waiting", 2)]
    held.finish()
    assert held.outcomes["first"] == "held" and held.order == ["second", "third"]
    assert [job["state"] for job in held.jobs.list()] == ["done"] * 3


def test_a_full_line_turns_away(held):
    held.start("second")
    held.start("third")
    held.start("fourth")
    error = held.outcomes["fourth"]
    assert isinstance(error, QueueFullError) and "2 computations are waiting" in str(error)
    held.finish()
    assert held.order == ["second", "third"]


def test_who_waits_can_be_taken_out_of_the_line(held):
    held.start("second")
    held.start("third")
    assert held.cancel("second")
    held.threads[1].join(5)
    assert isinstance(held.outcomes["second"], JobCancelledError)
    assert held.listed() == [("first", "running", 0), ("third", "waiting", 1), ("second", "cancelled", 0)]
    held.finish()
    assert held.order == ["third"]


def test_who_runs_can_be_stopped(held):
    assert held.cancel("first")
    held.threads[0].join(5)
    assert isinstance(held.outcomes["first"], JobCancelledError)
    assert held.listed() == [("first", "cancelled", 0)]
    assert not held.jobs.cancel("1") and not held.jobs.cancel("99")


def test_who_waits_leaves_the_line_when_nobody_waits_for_it(held):
    context, gone = copy_context(), []
    context.run(when_gone.set, gone)
    outcome = []

    def work():
        try:
            context.run(held.jobs.run, "kind", "second", lambda job: outcome.append("computed"))
        except JobCancelledError as error:
            outcome.append(error)

    waiting = threading.Thread(target=work)
    waiting.start()
    deadline = time.monotonic() + 5
    while not gone and time.monotonic() < deadline:
        time.sleep(0.002)
    gone[0]()
    waiting.join(5)
    [error] = outcome
    assert isinstance(error, JobCancelledError)
    assert [(job["image"], job["state"]) for job in held.jobs.list()] == [("first", "running"), ("second", "cancelled")]


def test_no_more_than_the_last_ended_are_listed():
    jobs = Jobs()
    for number in range(30):
        jobs.run("kind", str(number), lambda job: None)
    assert [job["image"] for job in jobs.list()] == [str(number) for number in range(29, 9, -1)]
