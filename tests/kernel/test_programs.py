"""Compiled programs: how many there are, where they are kept, and what that costs."""

from __future__ import annotations

import copy
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from filelock import Timeout

from fitserve_contract import Hypothesis, ModelOptions
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.jit_cache import VARIABLE, JitCache, default_location, machine_key
from fitserve_worker.kernel.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    Case = Any


def _entry(directory: Path, name: str, content: bytes = b"program") -> None:
    (directory / name).write_bytes(content)


def test_one_program_serves_any_number_of_hypotheses_and_tasks(everything: Case) -> None:
    from fitserve_worker.kernel import program

    def fit(hypotheses: list[Hypothesis], mus: tuple[float, ...]) -> None:
        (batch,) = compile_hypotheses(everything.workspace, hypotheses, ModelOptions()).batches
        size = batch.capacity(runtime().capacity)
        for first in range(0, len(hypotheses), size):
            members = range(len(hypotheses))[first : first + size]
            hypotest(load(batch, members, runtime()), mus, "qtilde")

    many = [
        Hypothesis(name=str(copy), values=(), patch=everything.hypotheses[0].patch)
        for copy in range(40)
    ]
    fit(many[:1], (1.0,))
    before = program.run._cache_size()
    for hypotheses, mus in ((many[:3], (0.5, 1.5)), (many, (1.0,)), (many[:7], (2.0,))):
        fit(hypotheses, mus)
    assert program.run._cache_size() == before


def test_patches_with_other_numbers_of_own_parameters_share_a_program(everything: Case) -> None:
    from fitserve_worker.kernel import program

    def with_own(count: int) -> Hypothesis:
        """Return a signal with as many nuisance parameters of its own besides."""
        patch = copy.deepcopy(everything.hypotheses[1].patch)
        for number in range(count):
            factors = {"hi": 1.1 + 0.01 * number, "lo": 0.9}
            patch[0]["value"]["modifiers"].append(
                {"name": f"own{number}", "type": "normsys", "data": factors}
            )
        return Hypothesis(name=f"own {count}", values=(), patch=patch)

    def fit(counts: list[int]) -> tuple[Any, dict[int, float]]:
        hypotheses = [with_own(count) for count in counts]
        (batch,) = compile_hypotheses(everything.workspace, hypotheses, ModelOptions()).batches
        tests = hypotest(load(batch, range(len(counts)), runtime()), (1.0,), "qtilde")
        return batch.shape, dict(zip(counts, tests.CLs_obs[:, 0], strict=True))

    shape, alone = fit([2])
    before = program.run._cache_size()
    # Tasks of their own, and one in which they are mixed.
    for counts in ([0], [1], [0, 2, 1], [1, 2]):
        other, together = fit(counts)
        assert other == shape
        assert together.get(2, alone[2]) == pytest.approx(alone[2], abs=1e-9)
    assert program.run._cache_size() == before


def test_importing_the_kernel_does_not_import_jax() -> None:
    code = (
        "import sys, fitserve_worker.engines.kernel_engine, fitserve_worker.kernel.batch;"
        "heavy = {'jax', 'scipy', 'pyhf', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_one_process_publishes_the_next_one_finds(tmp_path: Path) -> None:
    first = JitCache(tmp_path)
    _entry(first.private, "a-cache")
    assert first.publish() == 1
    assert first.publish() == 0
    second = JitCache(tmp_path)
    assert (second.private / "a-cache").read_bytes() == b"program"
    # Its own view of it is a link: only what is new is looked at again.
    assert second.publish() == 0
    shared = tmp_path / machine_key()
    assert [path.name for path in shared.iterdir()] == ["a-cache"]


def test_a_process_killed_while_publishing_leaves_no_entry(tmp_path: Path) -> None:
    shared = tmp_path / machine_key()
    shared.mkdir()
    _entry(shared, ".a-cache.123", b"half of a pro")
    assert list(JitCache(tmp_path).private.iterdir()) == []


def test_many_processes_publish_the_same_program_at_once(tmp_path: Path) -> None:
    caches = [JitCache(tmp_path) for _ in range(8)]
    for cache in caches:
        _entry(cache.private, "a-cache", b"program" * 100_000)
    threads = [threading.Thread(target=cache.publish) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared = tmp_path / machine_key()
    assert [path.name for path in shared.iterdir()] == ["a-cache"]
    assert (shared / "a-cache").read_bytes() == b"program" * 100_000


def test_of_processes_that_need_the_same_program_one_compiles_it(tmp_path: Path) -> None:
    first, second, other = (JitCache(tmp_path) for _ in range(3))
    compiling, finish = threading.Event(), threading.Event()
    names: list[str] = []

    def compile_it() -> None:
        with first.first_use("a"):
            compiling.set()
            assert finish.wait(30)
            _entry(first.private, "a-cache")

    def need_it() -> None:
        with second.first_use("a"):
            names.extend(path.name for path in second.private.iterdir())

    threads = [threading.Thread(target=one) for one in (compile_it, need_it)]
    threads[0].start()
    assert compiling.wait(30)
    threads[1].start()
    with other.first_use("b"):  # another program waits for nobody
        pass
    threads[1].join(0.5)
    assert threads[1].is_alive()
    finish.set()
    for thread in threads:
        thread.join(30)
    assert names == ["a-cache"]


def test_a_program_is_waited_for_once(tmp_path: Path) -> None:
    cache, other = JitCache(tmp_path), JitCache(tmp_path)
    with cache.first_use("a"):
        pass
    with other.first_use("a"), cache.first_use("a"):
        _entry(cache.private, "b-cache")
    # What was compiled later than at the first use is left to the end of the task.
    assert cache.publish() == 1


@pytest.mark.parametrize("error", [PermissionError, NotImplementedError, Timeout])
def test_without_locks_each_process_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[str], Exception]
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise error("no locks here")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    cache = JitCache(tmp_path)
    with cache.first_use("a"):
        _entry(cache.private, "a-cache")
    assert (tmp_path / machine_key() / "a-cache").read_bytes() == b"program"


def test_a_directory_that_cannot_be_written_to_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = JitCache(tmp_path)
    _entry(first.private, "a-cache")
    first.publish()
    reader = JitCache(tmp_path)
    _entry(reader.private, "b-cache")

    def refuse(*_arguments: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr("shutil.copyfile", refuse)
    assert (reader.private / "a-cache").read_bytes() == b"program"
    assert reader.publish() == 0
    assert (reader.private / "b-cache").exists()


def test_a_shared_directory_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = JitCache(blocked / "below")
    _entry(cache.private, "a-cache")
    assert cache.publish() == 0
    assert JitCache(None).publish() == 0


@pytest.mark.parametrize("bit", [stat.S_IWOTH, stat.S_IWGRP], ids=["others", "group"])
def test_programs_that_others_could_have_put_there_are_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bit: int
) -> None:
    shared = tmp_path / machine_key()
    shared.mkdir(mode=0o700)
    _entry(shared, "a-cache")
    _entry(shared, "b-cache")
    (shared / "a-cache").chmod(0o600 | bit)
    (shared / "b-cache").chmod(0o644)
    assert [path.name for path in JitCache(tmp_path).private.iterdir()] == ["b-cache"]
    assert f"{shared / 'a-cache'} is not used: others may write" in caplog.text
    caplog.clear()
    shared.chmod(0o700 | bit)
    assert list(JitCache(tmp_path).private.iterdir()) == []
    assert f"{shared} is not used: others may write" in caplog.text


def test_programs_of_another_user_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / machine_key()
    shared.mkdir(mode=0o700)
    _entry(shared, "a-cache")
    _entry(shared, "b-cache")
    real = Path.stat

    def theirs(path: Path, **options: bool) -> Any:
        status = real(path, **options)
        if path.name != "a-cache":
            return status
        return SimpleNamespace(st_uid=os.getuid() + 1000, st_mode=status.st_mode)

    monkeypatch.setattr(Path, "stat", theirs)
    assert [path.name for path in JitCache(tmp_path).private.iterdir()] == ["b-cache"]
    assert "a-cache is not used" in caplog.text


def test_another_processor_has_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text

    def key(flags: str) -> str:
        lines = f"processor : 0\nmodel name : a\nflags : {flags}\nbugs : some\n\nprocessor : 1\n"

        def read(path: Path, **options: Any) -> str:
            return lines if path == Path("/proc/cpuinfo") else real(path, **options)

        monkeypatch.setattr(Path, "read_text", read)
        return machine_key()

    here = machine_key()
    assert key("sse avx") == key("sse avx")
    assert len({here, key("sse avx"), key("sse avx avx512f")}) == 3
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert key("sse avx") != here
    assert len(here) == 16


# Compiles one program through the cache, and prints its result and how many were compiled.
COMPILING = """
import sys
import fitserve_worker.kernel.runtime as made
setting = made.runtime()
import jax, jax.monitoring
# However little it takes.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
misses = []
jax.monitoring.register_event_listener(
    lambda name, **_: misses.append(name) if name.endswith("cache_misses") else None
)
print("ready", flush=True)
sys.stdin.readline()
with setting.cache.first_use("a program"):
    print(float(jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((64, 64)))))
print(len(misses))
"""


def _compiling(cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMPILING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {VARIABLE: str(cache)},
    )


def _together(cache: Path, count: int) -> list[tuple[str, int]]:
    """Have processes compile the same at the same time; returns result and number of compiled."""
    processes = [_compiling(cache) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = []
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0
        value, misses = output.split()
        outputs.append((value, int(misses)))
    return outputs


def _programs(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*-cache") if not path.name.startswith("."))


def test_two_processes_that_begin_at_once_compile_once_and_a_damaged_program_anew(
    tmp_path: Path,
) -> None:
    first, second = _together(tmp_path, 2)
    assert first[0] == second[0] == "262144.0"
    whole = {path: path.read_bytes() for path in _programs(tmp_path)}
    compiled = first[1] + second[1]
    # Each program was compiled by one of them, and kept.
    assert compiled == len(whole) > 0
    assert _together(tmp_path, 1) == [("262144.0", 0)]
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])
    assert _together(tmp_path, 1) == [("262144.0", compiled)]


def test_the_place_for_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_location() == tmp_path / "fitserve" / "jit"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    assert default_location() == tmp_path / "elsewhere"
    monkeypatch.setenv(VARIABLE, "")
    assert default_location() is None


def test_the_private_directory_goes_with_the_process(tmp_path: Path) -> None:
    code = (
        "from fitserve_worker.kernel.jit_cache import JitCache; from pathlib import Path;"
        f"print(JitCache(Path({str(tmp_path)!r})).private)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not Path(done.stdout.strip()).exists()


def test_a_device_that_is_not_there_is_an_error() -> None:
    code = "from fitserve_worker.kernel.runtime import runtime; runtime()"
    environment = os.environ | {"JAX_PLATFORMS": "cuda", VARIABLE: ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "BackendError: JAX finds no device to fit on" in done.stderr
    assert "JAX_PLATFORMS=cuda" in done.stderr


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, time; from fitserve_worker.kernel.jit_cache import JitCache;"
        "cache = JitCache(None); print(cache.private.parent, flush=True); time.sleep(60)"
    )

    def begin() -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    processes = [begin() for _ in range(2)]
    (killed, left), (_, used) = processes
    try:
        killed.kill()
        killed.wait()
        assert left.exists()
        processes.append(begin())
        assert not left.exists()
        assert used.exists()
    finally:
        for process, _ in processes:
            process.kill()
            process.communicate()
