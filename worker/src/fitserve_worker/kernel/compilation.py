"""From a workspace and hypotheses to batches that are fitted together."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from fitserve_worker.kernel.batch import Batch
from fitserve_worker.kernel.errors import UnsupportedModelError
from fitserve_worker.kernel.patches import Background, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from fitserve.contract import Hypothesis, ModelOptions
    from fitserve_worker.kernel.members import Member
    from fitserve_worker.kernel.patches import Patched, Structure

__all__ = ["Compilation", "compile_hypotheses"]

# Batches are made of this many hypotheses at most, so that what they hold at the same time
# does not grow with the pallet.
_LARGEST = 512


class Compilation(NamedTuple):
    """Batches, and for each hypothesis that is in none of them the reason."""

    batches: list[Batch]
    unsupported: dict[str, str]


def compile_hypotheses(
    workspace: dict[str, Any] | Background,
    hypotheses: Iterable[Hypothesis],
    options: ModelOptions,
    *,
    may_lack_poi: bool = False,
) -> Compilation:
    """Compile hypotheses into batches of those that differ in numbers only.

    Parameters
    ----------
    workspace
        The background-only workspace. A `Background` made of it before, with the same
        options, saves looking through it again.
    hypotheses
        Patches for the workspace.
    options
        Measurement, parameter of interest and interpolation codes.
    may_lack_poi
        Whether to compile models without the parameter of interest too.
    """
    hypotheses = list(hypotheses)
    unsupported: dict[str, str] = {}
    try:
        background = (
            workspace if isinstance(workspace, Background) else Background(workspace, options)
        )
    except UnsupportedModelError as error:
        return Compilation([], {hypothesis.name: error.reason for hypothesis in hypotheses})
    groups: dict[Structure, list[tuple[str, Patched]]] = defaultdict(list)
    for hypothesis in hypotheses:
        try:
            patched = resolve(background, hypothesis.patch)
        except UnsupportedModelError as error:
            unsupported[hypothesis.name] = error.reason
        else:
            groups[patched.structure].append((hypothesis.name, patched))
    batches = []
    for structure, group in groups.items():
        members, refused = _read(background, structure, group, may_lack_poi=may_lack_poi)
        unsupported |= refused
        for first in range(0, len(members), _LARGEST):
            part = members[first : first + _LARGEST]
            batches.append(Batch(structure, background.reader(structure), part, options))
    return Compilation(batches, unsupported)


def _read(
    background: Background,
    structure: Structure,
    group: list[tuple[str, Patched]],
    *,
    may_lack_poi: bool,
) -> tuple[list[Member], dict[str, str]]:
    try:
        reader = background.reader(structure)
    except UnsupportedModelError as error:
        return [], {name: error.reason for name, _ in group}
    members, refused = [], {}
    for name, patched in group:
        try:
            members.append(reader.read(name, patched, may_lack_poi=may_lack_poi))
        except UnsupportedModelError as error:
            refused[name] = error.reason
    return members, refused
