"""The error that every entry raises for bad input, holding all that is wrong at once."""

from collections.abc import Sequence


class InputError(ValueError):
    """Input that cannot be used.

    Args:
        problems: one sentence each, naming the file, what was found and what was expected.
        summary: optional first line.
    """

    def __init__(self, problems: str | Sequence[str], summary: str = "") -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        self.summary = summary
        lines = [summary] if summary else []
        lines += self.problems if len(self.problems) == 1 else [f"- {problem}" for problem in self.problems]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple:
        """Survive a trip between processes with both arguments."""
        return type(self), (self.problems, self.summary)
