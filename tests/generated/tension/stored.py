"""Right values in files: a line of JSON for each model, which is drawn again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tension.models import Model, draw
from tension.reference import Right, right

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Stored", "read", "stored"]


class Stored(msgspec.Struct, frozen=True):
    """A model by its seed and number, its digest, and what is right for it."""

    seed: int
    number: int
    digest: str
    right: Right

    @property
    def model(self) -> Model:
        """The model.

        Raises
        ------
        ValueError
            The generator makes another model now.
        """
        model = draw(self.seed, self.number)
        if model.digest != self.digest:
            raise ValueError(
                f"model {self.number} of seed {self.seed} is another now: its right values are "
                "to be found again"
            )
        return model

    def append(self, path: Path) -> None:
        """Write this as the last line of a file."""
        with path.open("ab") as file:
            file.write(msgspec.json.encode(self) + b"\n")


def stored(seed: int, number: int) -> Stored:
    """Return a model with its right values, found now."""
    model = draw(seed, number)
    return Stored(seed, number, model.digest, right(model.patched, seed))


def read(path: Path) -> list[Stored]:
    """Return what a file has."""
    return [msgspec.json.decode(line, type=Stored) for line in path.read_bytes().splitlines()]
