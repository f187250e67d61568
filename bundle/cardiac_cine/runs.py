"""What became of the studies of one run."""

from dataclasses import dataclass
from pathlib import Path

from cardiac_cine.errors import InputError
from cardiac_cine.studies import Study

DONE, SKIPPED, FAILED = "done", "skipped", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one study.

    Attributes:
        name: the case.
        source: where it comes from.
        status: "done", "skipped" where an earlier run had finished it, or "failed".
        reasons: why it failed.
        unexpected: it failed for another reason than its input.
    """

    name: str
    source: Path
    status: str
    reasons: tuple[str, ...] = ()
    unexpected: bool = False


@dataclass(frozen=True)
class Run:
    """What became of all studies.

    Attributes:
        outcomes: of the studies reached, in order, and after an interruption of the others that were finished before.
        not_reached: those that an interruption left undone.
        problems: what should have been a study and is none.
        left_out: series that are no short-axis cine.
        interrupted: stopped from outside.
        not_used: cases of tables beside the studies that are no study's, one sentence for each table.
    """

    outcomes: tuple[Outcome, ...]
    not_reached: tuple[Study, ...]
    problems: tuple[str, ...]
    left_out: tuple[str, ...]
    interrupted: bool
    not_used: tuple[str, ...] = ()

    def count(self, status: str) -> int:
        """Return how many studies have a status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def failures(self) -> list[str]:
        """Return why studies failed, one sentence for each reason."""
        return [*(reason for outcome in self.outcomes for reason in outcome.reasons), *self.problems]

    def check(self) -> None:
        """Raise InputError with all failures, if there are any, for a caller that has no exit code of its own."""
        if self.failures() or self.interrupted:
            summary = f"{self.count(FAILED)} of {len(self.outcomes) + len(self.not_reached)} studies failed"
            raise InputError(self.failures() or ["interrupted"], summary)
