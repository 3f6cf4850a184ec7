"""How much memory there is, and whether JSON text fits into it once it is decoded.

A few kilobytes of compressed JSON can become gigabytes of objects: ``[],`` takes 3 bytes as text
and 120 in Python. The size of the values is therefore estimated before a text is decoded.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_DECODED_MEMORY", "decoded_bytes", "excess", "memory_of_machine", "memory_there"]

MAX_DECODED_MEMORY = 2 * 1024**3
"""No JSON text may take more memory than this once decoded, even where there is more."""

# Texts that take no more than this are decoded even where no memory seems to be left.
_ALWAYS = 64 * 1024**2
_MIB = 1024**2
# Bytes that CPython takes for each character: a number and its place, an empty list, an object of
# a few keys, and half of a short string.
_TAKES = {b",": 40, b"[": 80, b"{": 200, b'"': 32}
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def decoded_bytes(raw: bytes) -> int:
    """Return how much memory JSON text takes once decoded, by an estimate."""
    return len(raw) + sum(each * raw.count(what) for what, each in _TAKES.items())


def excess(raw: bytes, most: int = MAX_DECODED_MEMORY, *, besides: int = 0) -> str:
    """Return why JSON text takes too much memory to be decoded, or nothing if it does not.

    Parameters
    ----------
    raw
        The text.
    most
        The most bytes that it may take, if that is less than half of the memory left.
    besides
        Bytes of what is kept together with it.

    Examples
    --------
    >>> from fitserve_contract import excess
    >>> excess(b'{"data": [1.5]}')
    ''
    """
    takes = decoded_bytes(raw) + besides
    if takes <= _ALWAYS or takes <= (allowed := max(_ALWAYS, min(most, memory_there() // 2))):
        return ""
    return (
        f"its {len(raw)} bytes{' and what is kept besides' if besides else ''} take some "
        f"{takes // _MIB} MiB of memory once decoded, and no more than {allowed // _MIB} MiB are "
        "allowed here"
    )


def memory_there() -> int:
    """Return how many bytes this process can still take.

    That is the least of what the machine has available, what the process' control groups leave
    (as batch systems and containers set them), and what its own limits leave.
    """
    statistics = _numbers("/proc/meminfo", scale=1024)
    left = [statistics.get("MemAvailable:", memory_of_machine())]
    left += [limit - used for limit, used in _group_limits()]
    try:
        pages = [int(word) for word in Path("/proc/self/statm").read_text().split()]
    except (OSError, ValueError):
        return max(0, min(left))
    size = resource.getpagesize()
    for kind, used in ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5])):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            left.append(limit - used * size)
    return max(0, min(left))


def memory_of_machine() -> int:
    """Return the bytes of memory that the machine has, or that a control group allows."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([whole, *(limit for limit, _ in _group_limits())])


def _group_limits() -> Iterator[tuple[int, int]]:
    """Yield limit and use, in bytes, of the control groups that this process is in."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if not kinds:
            root, limit, use, prefix = _GROUPS, "memory.max", "memory.current", ""
        elif "memory" in kinds.split(","):
            root, prefix = _GROUPS / "memory", "total_"
            limit, use = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        place = root / path.lstrip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(root):
                break
            try:
                bounds = [int((folder / name).read_text()) for name in (limit, use)]
            except (OSError, ValueError):  # none here, or the word max
                continue
            # The memory of cached files is freed when it is needed.
            kept = _numbers(str(folder / "memory.stat"))
            cached = sum(kept.get(f"{prefix}{word}_file", 0) for word in ("inactive", "active"))
            yield bounds[0], bounds[1] - cached


def _numbers(path: str, scale: int = 1) -> dict[str, int]:
    try:
        words = [line.split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {one[0]: int(one[1]) * scale for one in words if len(one) > 1 and one[1].isdecimal()}
