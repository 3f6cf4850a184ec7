"""What is wrong with a site file, and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from fitserve.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Problem", "SiteError"]


class Problem(NamedTuple):
    """One thing that is wrong in a site file.

    Attributes
    ----------
    file, line
        Where; ``line`` is 1 for what is missing altogether.
    field
        The field, dotted from the top: ``blocks.walltime``.
    expected
        What was expected, and what was found.
    write
        What to write instead.
    level
        An ``error`` stops everything, a ``warning`` nothing.
    """

    file: str
    line: int
    field: str
    expected: str
    write: str
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        """Return the problem as two lines: where and what, then what to write.

        Examples
        --------
        >>> print(Problem("x.yaml", 3, "blocks.max", "expected 1 or more, found 0", "max: 1"))
        x.yaml:3: error: blocks.max: expected 1 or more, found 0
            write: max: 1
        """
        head = f"{self.file}:{self.line}: {self.level}: {self.field}: {self.expected}"
        return f"{head}\n    write: {self.write}" if self.write else head


class SiteError(InputError):
    """A site file cannot be used; ``problems`` says why, one by one."""

    def __init__(self, cause: str, problems: Sequence[Problem] = (), *, hint: str = "") -> None:
        super().__init__(
            cause,
            evidence="\n".join(str(problem) for problem in problems),
            hint=hint,
        )
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """Return the cause, then each problem on its own lines."""
        lines = [self.cause, *(str(problem) for problem in self.problems)]
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)
