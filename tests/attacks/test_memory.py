"""What came from outside takes no more memory than is allowed, whatever it says."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from fitserve.api import make_request
from fitserve.endpoints.base import Limits
from fitserve.errors import IncompleteRunError, InputError, RequestError, StoreError
from fitserve.files import Journal, read_regular
from fitserve.pallet.archive import DEFAULT_LIMITS
from fitserve.pallet.load import load_pallet
from fitserve.pallet.schema import decode_json, validate
from fitserve.runs.prepare import prepare
from fitserve.runs.store import RunStore
from fitserve_contract import (
    ContractError,
    EngineOptions,
    HypotestRequest,
    Hypothesis,
    ModelOptions,
    PatchError,
    Task,
    ToyRange,
    ToysRequest,
    apply_patch,
    codec,
    decode_result,
    decode_task,
    encode_task,
    excess,
    memory_of_machine,
    memory_there,
)
from fitserve_contract.patching import MAX_OPERATIONS
from fitserve_worker.kernel.patches import Background, resolve
from fitserve_worker.kernel.spec import UnsupportedModelError

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024**2
# More than any of these may take, and little enough for the machine that tests it.
ADDRESSES = 1536 * MIB
SECONDS = 60
DOUBLING = [{"op": "copy", "from": "", "path": f"/channels/0/{at}"} for at in range(41)]
EMPTY_LISTS = b"[" + b"[]," * (30 * MIB) + b"[]]"


def _bounded(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that may take `ADDRESSES` bytes."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))

    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )


_TASK = """
import sys
from pathlib import Path
import fitserve_worker
print(fitserve_worker.run(Path(sys.argv[1]).read_text()))
"""

_CHECK = """
import sys
from fitserve.cli import cli
cli(["pallets", "check", sys.argv[1]])
"""


def _envelope(raw: bytes) -> str:
    """Return raw JSON in the envelope of a task."""
    task = Task(workspace_digest="0" * 64, workspace=None, hypotheses=[], request=HypotestRequest())
    envelope = json.loads(encode_task(task))
    envelope["body"] = codec.base64.b64encode(codec.compress(raw)).decode()
    envelope["digest"] = codec.hashlib.sha256(raw).hexdigest()
    return json.dumps(envelope)


def test_a_small_task_that_becomes_gigabytes_is_refused_before_it_is_decoded(
    tmp_path: Path,
) -> None:
    raw = b'{"workspace_digest":"' + b"0" * 64 + b'","workspace":{"a":' + EMPTY_LISTS + b"}}"
    text = _envelope(raw)
    assert len(text) < 50_000
    (tmp_path / "task.json").write_text(text)
    done = _bounded(_TASK, str(tmp_path / "task.json"))
    assert done.returncode == 0, done.stderr[-500:]
    with pytest.raises(ContractError, match="too large to be decoded") as caught:
        decode_result(done.stdout)
    assert "MiB of memory once decoded" in caught.value.evidence


def test_a_file_of_many_values_is_refused_before_it_is_decoded(
    pallet_directory: Path,
) -> None:
    rest = b',"observations":[],"measurements":[],"version":"1.0.0"}'
    (pallet_directory / "BkgOnly.json").write_bytes(b'{"channels":' + EMPTY_LISTS + rest)
    done = _bounded(_CHECK, str(pallet_directory))
    assert done.returncode == InputError.exit_code, done.stderr[-500:]
    assert "once decoded" in done.stderr


SAMPLE = '{"name":"s","data":[%s],"modifiers":[%s]}'


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        pytest.param(SAMPLE % ("[]," * (3 * MIB) + "[]", ""), "/data/0: [] is not", id="data"),
        pytest.param(
            SAMPLE % ("1", '{"name":"m","type":"shapesys","data":[' + "[]," * MIB + "[]]}"),
            "'m'/data/0: [] is not",
            id="modifier",
        ),
        pytest.param(SAMPLE % ("1," * MIB + '"x"', ""), f'/data/{MIB}: "x" is not', id="last"),
    ],
)
def test_a_file_of_many_faults_is_refused_for_its_first(
    pallet_directory: Path, sample: str, told: str
) -> None:
    workspace = json.loads((pallet_directory / "BkgOnly.json").read_text())
    workspace["channels"][0]["samples"] = ["SAMPLE"]
    text = json.dumps(workspace).replace('"SAMPLE"', sample)
    (pallet_directory / "BkgOnly.json").write_text(text)
    done = _bounded(_CHECK, str(pallet_directory))
    assert done.returncode == InputError.exit_code, done.stderr[-500:]
    assert told in done.stderr


def test_the_first_fault_is_not_looked_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = [{"op": "odd", "path": "", "value": [1, 2, 3]} for _ in range(10**4)]

    def told() -> str:
        with pytest.raises(InputError, match="violates") as caught:
            validate(json.loads(json.dumps(patch)), "jsonpatch", "file")
        return caught.value.evidence

    assert told().startswith("/0: ")
    monkeypatch.setattr("fitserve.pallet.schema._MOST", 10**6)
    assert told() == "at the top level: it has too much in it to say where"


@pytest.mark.parametrize("number", [17, 41])
def test_a_patch_that_copies_and_copies_is_refused_by_the_client(
    pallet_directory: Path, number: int
) -> None:
    file = pallet_directory / "patchset.json"
    patchset = json.loads(file.read_text())
    patchset["patches"][0]["patch"] = [
        {"op": "copy", "from": "/channels/0", "path": "/channels/0/samples/0/x"},
        {"op": "copy", "from": "", "path": "/channels/0/y"},
        *({"op": "copy", "from": "", "path": f"/z{at}"} for at in range(number)),
    ]
    file.write_text(json.dumps(patchset))
    done = _bounded(_CHECK, str(pallet_directory))
    assert done.returncode == InputError.exit_code, done.stderr[-500:]
    assert "copies more than" in done.stderr


@pytest.mark.parametrize("kind", ["patches", "workspaces"])
def test_many_files_together_are_bounded_as_one_is(
    workspace: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """Each of them alone is taken."""
    [channel] = workspace["channels"]
    for index in range(40):
        content: Any = [{"op": "add", "path": "/channels/0/x", "value": [[]] * MIB}]
        if kind == "workspaces":
            signal = {"name": "signal", "data": [float(index), 1.0], "modifiers": []}
            parameter = {"name": "mu", "inits": [index] * MIB}
            config = {"poi": "mu", "parameters": [parameter]}
            content = workspace | {
                "channels": [channel | {"samples": [*channel["samples"], signal]}],
                "measurements": [{"name": "main", "config": config}],
            }
        (tmp_path / f"patch_{index}.json").write_text(json.dumps(content))
    if kind == "patches":
        (tmp_path / "BkgOnly.json").write_text(json.dumps(workspace))
    done = _bounded(_CHECK, str(tmp_path))
    assert done.returncode == InputError.exit_code, done.stderr[-500:]
    assert "and what is kept besides" in done.stderr


def test_a_patch_that_copies_and_copies_costs_only_its_own_hypothesis(
    task: Task, tmp_path: Path
) -> None:
    bomb = Hypothesis(name="bomb", values=(), patch=DOUBLING)
    # Without JAX, which maps more addresses than it takes memory.
    request = HypotestRequest(engine=EngineOptions(engine="pyhf"))
    both = msgspec.structs.replace(task, hypotheses=[task.hypotheses[0], bomb], request=request)
    (tmp_path / "task.json").write_text(encode_task(both))
    done = decode_result(_bounded(_TASK, str(tmp_path / "task.json")).stdout)
    found = {one.name: one for one in done.results}
    assert {name: one.status for name, one in found.items()} == {"S_100": "ok", "bomb": "failed"}
    assert "copies more than" in found["bomb"].reason


def test_the_kernel_leaves_a_patch_that_copies_and_copies(workspace: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="copies more than"):
        resolve(Background(workspace, ModelOptions()), DOUBLING)


def test_a_patch_has_no_more_operations_than_allowed() -> None:
    test = {"op": "test", "path": "/a", "value": 1}
    assert apply_patch({"a": 1}, [test] * 1000) == {"a": 1}
    with pytest.raises(PatchError, match="operations"):
        apply_patch({"a": 1}, [test] * (MAX_OPERATIONS + 1))


def test_what_a_patch_copies_is_a_copy() -> None:
    patch = [
        {"op": "copy", "from": "/a", "path": "/b"},
        {"op": "replace", "path": "/b/0", "value": 2},
    ]
    assert apply_patch({"a": [1]}, patch) == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "copy", "from": "/nowhere", "path": "/b"},
        {"op": "copy", "from": "no pointer", "path": "/b"},
        {"op": "copy", "path": "/b"},
        {"op": "move", "from": "/a", "path": "/a/b/c"},
        {"op": "odd", "path": "/a"},
        {"op": "add", "path": "/a/b", "value": 1},
        {},
    ],
)
def test_operations_that_do_not_apply_are_one_kind_of_error(operation: dict[str, Any]) -> None:
    with pytest.raises(PatchError, match="operation 1"):
        apply_patch({"a": [1]}, [{"op": "test", "path": "/a/0", "value": 1}, operation])


def test_published_pallets_are_far_below_the_bounds(shared: Path) -> None:
    from fitserve.pallet.archive import read_archive

    for archive in sorted((shared / "pallets").glob("*.tar.xz")):
        contents = read_archive(archive, archive.name)
        assert not any(excess(raw) for raw in contents.files.values())
        unpacked = sum(map(len, contents.files.values()))
        assert unpacked < DEFAULT_LIMITS.ratio * archive.stat().st_size / 2


def test_the_estimate_is_not_below_what_decoding_takes() -> None:
    import tracemalloc

    for raw in (b"[" + b"[]," * 10000 + b"1]", b"[" + b'{"a":1.5},' * 10000 + b"1]"):
        tracemalloc.start()
        kept = decode_json(raw, "file")
        taken = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        estimate = len(raw) + sum(raw.count(c) * n for c, n in _weights().items())
        assert kept
        assert taken < estimate


def _weights() -> dict[bytes, int]:
    from fitserve_contract import memory

    return memory._TAKES


def test_less_is_decoded_where_less_memory_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = b"[" + b"[]," * MIB + b"[]]"
    assert excess(raw) == ""
    monkeypatch.setattr("fitserve_contract.memory.memory_there", lambda: 128 * MIB)
    assert "no more than 64 MiB" in excess(raw)
    assert excess(b"[" * 10) == ""


def test_the_memory_there_is_within_the_limits_of_the_process() -> None:
    code = "from fitserve_contract import memory_there; print(memory_there())"
    done = _bounded(code)
    assert 0 < int(done.stdout) < ADDRESSES
    assert 0 < memory_there() <= memory_of_machine()


def test_a_control_group_bounds_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fitserve_contract import memory

    group = tmp_path / "job"
    group.mkdir()
    (group / "memory.max").write_text(f"{512 * MIB}\n")
    (group / "memory.current").write_text(f"{500 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {300 * MIB}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/job/task\n")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path)
    monkeypatch.setattr(memory, "_OWN_GROUPS", own)
    assert memory_there() == (512 - 200) * MIB
    assert memory_of_machine() == 512 * MIB


def test_a_million_signal_strengths_are_refused() -> None:
    for kind in ("hypotest", "scan"):
        with pytest.raises(RequestError):
            make_request(kind=kind, mu=[1.0] * 10**6)


def test_toys_beyond_those_asked_for_are_refused(task: Task) -> None:
    some = Task(
        workspace_digest="0" * 64,
        workspace=None,
        hypotheses=[],
        request=ToysRequest(toys=100),
        toys=ToyRange(first=90, count=10),
    )
    assert decode_task(encode_task(some)) == some
    for before, after in ((b'"count":10', b'"count":11'), (b'"first":90', b'"first":999999999')):
        raw = msgspec.json.encode(some).replace(before, after)
        with pytest.raises(ContractError, match="does not fit the contract"):
            decode_task(_envelope(raw))
    raw = msgspec.json.encode(task).replace(b'"toys":null', b'"toys":{"first":0,"count":1}')
    assert raw != msgspec.json.encode(task)
    with pytest.raises(ContractError, match="does not fit the contract"):
        decode_task(_envelope(raw))


def test_a_worker_has_no_more_than_its_share_of_the_machine() -> None:
    code = (
        "import resource\nfrom fitserve_worker.entry import limit_memory\n"
        "limit_memory()\nprint(resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
        "try:\n    bytearray(10**15)\nexcept MemoryError:\n    print('refused')\n"
    )

    def limit_with(**variables: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | variables,
        )
        return done.stdout.split()

    limit, told = limit_with(PARSL_WORKER_COUNT="2")
    assert told == "refused"
    assert int(limit) <= memory_of_machine()
    assert int(limit_with(PARSL_WORKER_COUNT="1000")[0]) <= int(limit)
    assert limit_with()[0] == "-1"


ENDLESS = ("manifest.json", "results.jsonl", "inputs.json.zst", "events.jsonl", "lock.holder")


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize("name", ENDLESS)
def test_links_to_devices_and_pipes_in_a_run_directory_are_not_read(
    saved_run: Path, name: str, kind: str
) -> None:
    file = saved_run / name
    file.unlink(missing_ok=True)
    if kind == "link":
        file.symlink_to("/dev/full")
    else:
        os.mkfifo(file)
    code = """
import sys
from fitserve.cli import cli
cli([sys.argv[2], sys.argv[1]])
"""
    done = _bounded(code, str(saved_run), "resume" if kind == "link" else "show")
    assert done.returncode in (0, StoreError.exit_code, IncompleteRunError.exit_code), done.stderr
    assert "defect" not in done.stderr
    if name in ("manifest.json", "results.jsonl"):
        told = {"link": "symbolic link", "pipe": "no regular file"}[kind]
        assert told in done.stderr


@pytest.mark.parametrize("name", ["results.jsonl", "events.jsonl", "lock", "lock.holder"])
def test_links_in_a_run_directory_lead_to_no_file_that_is_changed(
    saved_run: Path, tmp_path: Path, name: str
) -> None:
    """Going on with a run that somebody else made does not empty one's own files."""
    precious = tmp_path / "precious"
    precious.write_text("all my work")
    (saved_run / name).unlink(missing_ok=True)
    (saved_run / name).symlink_to(precious)
    with contextlib.suppress(StoreError):
        RunStore.open(saved_run).close()
    assert precious.read_text() == "all my work"


def test_a_lock_that_is_no_regular_file_is_not_taken(saved_run: Path) -> None:
    (saved_run / "lock").unlink(missing_ok=True)
    os.mkfifo(saved_run / "lock")
    with pytest.raises(StoreError, match="cannot write"):
        RunStore.open(saved_run)


def test_a_pallet_directory_is_not_left_by_its_links(
    pallet_directory: Path, tmp_path: Path
) -> None:
    background = pallet_directory / "BkgOnly.json"
    inside = background.rename(pallet_directory / "background.txt")
    background.symlink_to(inside.name)
    assert len(load_pallet(pallet_directory).hypotheses) == 5
    outside = inside.rename(tmp_path / "outside.json")
    background.unlink()
    background.symlink_to(outside)
    with pytest.raises(InputError):
        load_pallet(pallet_directory)


def test_a_sparse_file_larger_than_the_memory_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    with file.open("wb") as stream:
        stream.truncate(2 * memory_of_machine())
    with pytest.raises(OSError, match="larger than half of the memory"):
        read_regular(file)


def test_what_a_crash_left_of_a_long_line_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b'"whole"\n' + b"x" * (3 * MIB))
    Journal(file).close()
    assert file.read_bytes() == b'"whole"\n'


@pytest.fixture
def saved_run(tmp_path: Path, pallet_directory: Path) -> Path:
    """Return a run directory in which nothing is finished."""
    pallet = load_pallet(pallet_directory)
    # Without JAX, which maps more addresses than it takes memory.
    request = HypotestRequest(engine=EngineOptions(engine="pyhf"))
    limits = Limits(10**6, 10, 1)
    manifest, inputs = prepare(pallet, request, (), "inline", {}, limits=limits)
    RunStore.create(tmp_path / "run", manifest, inputs).close()
    return tmp_path / "run"
