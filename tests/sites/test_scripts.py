"""Rendered scripts are sound: parsed, linted, and run."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sitekit.golden import GOLDEN
from sitekit.load import load_site, shipped_sites
from sitekit.render import Rendering, render_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sitekit.site import Site

SUBMITTED = sorted(GOLDEN.glob("*/submit.sh"))


def _need(command: str) -> str:
    found = shutil.which(command) or shutil.which(command, path=str(Path(sys.executable).parent))
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{command} is not installed")
        pytest.skip(f"{command} is not installed")
    return found


def _ours(rendered: Path) -> list[Path]:
    return sorted([*rendered.glob("*/worker_init.sh"), *rendered.glob("*/preflight.sh")])


def test_there_are_scripts(rendered: Path) -> None:
    assert len(_ours(rendered)) >= 2 * 15
    assert len(SUBMITTED) == 7


@pytest.mark.parametrize("path", SUBMITTED, ids=lambda path: path.parent.name)
def test_bash_parses_what_is_submitted(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("name", ["worker_init.sh", "preflight.sh"])
@pytest.mark.parametrize("site", shipped_sites())
def test_bash_parses_it(site: str, name: str, rendered: Path) -> None:
    path = rendered / site / name
    if path.is_file() or name == "worker_init.sh":
        subprocess.run(["bash", "-n", str(path)], check=True)
    else:
        assert (rendered / site / "preflight.json").is_file()


def test_shellcheck_finds_nothing(rendered: Path) -> None:
    shellcheck = _need("shellcheck")
    done = subprocess.run(
        [shellcheck, "--severity=style", *map(str, _ours(rendered))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("multi", [False, True], ids=["single-user", "multi-user"])
def test_systemd_accepts_the_unit(
    make_site: Callable[..., Site], tmp_path: Path, *, multi: bool
) -> None:
    analyze = _need("systemd-analyze")
    program = tmp_path / "venv" / "bin" / "globus-compute-endpoint"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    access = {"mode": "multi-user", "domains": ["example.edu"]} if multi else {}
    site = make_site(
        "slurm",
        contact="mailto:fitserve@example.edu",
        access=access,
        endpoint={"venv": str(tmp_path / "venv")},
        environment={"container": {"image": "/opt/fitserve/worker.sif"}},
        network={"proxy": {"https": "http://proxy.example.edu:3128"}},
    )
    files, _ = render_site(site, Rendering("1", tmp_path))
    unit = tmp_path / "fitserve-mine.service"
    unit.write_text(files["fitserve-mine.service"])
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "fitserve-mine.service" not in done.stderr, done.stderr


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a home directory with a short name: sockets are made below it."""
    with tempfile.TemporaryDirectory(prefix="fs") as directory:
        yield Path(directory)


def _init(site: Site) -> str:
    return render_site(site, Rendering("1", Path("/home/x")))[0]["worker_init.sh"]


def _run(script: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"{script}\nenv -0"],
        env={"HOME": str(home), "USER": "ada", "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _variables(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(item.partition("=")[::2] for item in done.stdout.split("\0") if "=" in item)


def _venv(home: Path) -> None:
    activate = home / "venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("export VIRTUAL_ENV=here\n")


def _site(make_site: Callable[..., Site], base: str = "slurm", **changes: object) -> Site:
    return make_site(
        base,
        environment={"container": None, "venv": "~/venv", **changes},
        directories={"scratch": "~/scratch"},
    )


def test_it_prepares_a_node(make_site: Callable[..., Site], home: Path) -> None:
    _venv(home)
    found = _variables(_run(_init(_site(make_site, variables={"MY_FLAG": "a b"})), home))
    assert found["VIRTUAL_ENV"] == "here"
    assert found["OMP_NUM_THREADS"] == found["FITSERVE_THREADS"] == "1"
    assert "intra_op_parallelism_threads=1" in found["XLA_FLAGS"]
    assert found["JAX_PLATFORMS"] == "cpu"
    assert found["MY_FLAG"] == "a b"
    assert Path(found["TMPDIR"]) == home / "scratch"
    assert Path(found["TMPDIR"]).is_dir()
    assert Path(found["FITSERVE_CACHE_DIR"]).is_dir()
    assert (home / ".fitserve" / "run").is_dir()


def test_a_user_with_fewer_workers_gets_more_threads(
    make_site: Callable[..., Site], home: Path
) -> None:
    _venv(home)
    found = _variables(_run(_init(_site(make_site)), home, FITSERVE_THREADS="4"))
    assert found["OMP_NUM_THREADS"] == "4"
    assert "XLA_FLAGS" not in found


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1"]),
        ("2,5", ["2", "5"]),
        ("GPU-ab,GPU-cd", ["GPU-ab", "GPU-cd"]),
        ("7", ["7", ""]),
    ],
)
def test_each_worker_gets_a_gpu_of_the_job(
    make_site: Callable[..., Site], home: Path, visible: str | None, expected: list[str]
) -> None:
    _venv(home)
    site = make_site(
        "slurm-gpu",
        environment={"container": None, "venv": "~/venv"},
        directories={"scratch": "~/scratch"},
        node={"gpus": {"count": 2}},
    )
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = _variables(_run(_init(site), home, **environment))
    assert [found["FITSERVE_GPU_0"], found["FITSERVE_GPU_1"]] == expected
    assert found["JAX_PLATFORMS"] == "cuda"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"venv": "~/gone"}, "environment.venv"),
        ({"modules": ["nothing/1"]}, "environment.modules"),
        ({"venv": None, "conda": {"base": "~/gone", "name": "x"}}, "environment.conda"),
        (
            {"venv": None, "container": {"type": "apptainer", "image": "~/gone.sif"}},
            "container.image",
        ),
    ],
)
def test_a_broken_environment_ends_the_block_and_names_the_field(
    make_site: Callable[..., Site], home: Path, changes: dict[str, object], words: str
) -> None:
    _venv(home)
    fields = {"container": None, "venv": "~/venv", **changes}
    site = make_site("slurm", environment=fields, directories={"scratch": "~/scratch"})
    done = _run("module() { return 1; }\n" + _init(site), home)
    assert done.returncode == 78
    assert words in done.stderr
    assert "site file" in done.stderr


def test_a_directory_that_cannot_be_made_ends_the_block(
    make_site: Callable[..., Site], home: Path
) -> None:
    _venv(home)
    (home / "scratch").write_text("a file")
    done = _run(_init(_site(make_site)), home)
    assert done.returncode == 78
    assert "directories" in done.stderr


def _open_above(home: Path) -> None:
    (home / "shared").mkdir()
    (home / "shared").chmod(0o777)


def _made_by_a_group(home: Path) -> None:
    (home / "shared" / "scratch").mkdir(parents=True)
    (home / "shared" / "scratch").chmod(0o777)


def _behind_a_link(home: Path) -> None:
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    (home / "open" / "scratch").mkdir(mode=0o700)
    (home / "shared").symlink_to("open")


@pytest.mark.parametrize("prepare", [_open_above, _made_by_a_group, _behind_a_link])
def test_a_scratch_directory_that_others_can_replace_ends_the_block(
    make_site: Callable[..., Site], home: Path, prepare: Callable[[Path], None]
) -> None:
    """Whoever makes it first could put programs there that are run by everybody's workers."""
    _venv(home)
    prepare(home)
    site = make_site(
        "slurm",
        environment={"container": None, "venv": "~/venv"},
        directories={"scratch": "~/shared/scratch"},
    )
    done = _run(_init(site), home)
    assert done.returncode == 78
    assert "is not private" in done.stderr
    assert "directories.scratch" in done.stderr


def test_a_scratch_directory_in_a_shared_one_is_its_users_alone(
    make_site: Callable[..., Site], home: Path
) -> None:
    _venv(home)
    (home / "shared").mkdir()
    (home / "shared").chmod(0o1777)
    site = make_site(
        "slurm",
        environment={"container": None, "venv": "~/venv"},
        directories={"scratch": "~/shared/scratch-$USER"},
    )
    found = _variables(_run(_init(site), home))
    assert Path(found["TMPDIR"]) == home / "shared" / "scratch-ada"
    assert stat.S_IMODE(Path(found["TMPDIR"]).stat().st_mode) == 0o700


def test_a_scratch_directory_too_long_for_a_socket_ends_the_block(
    make_site: Callable[..., Site], home: Path
) -> None:
    """Workers would die of "AF_UNIX path too long", which names no field."""
    _venv(home)
    site = make_site(
        "slurm",
        environment={"container": None, "venv": "~/venv"},
        directories={"scratch": "~/" + "long/" * 15},
    )
    done = _run(_init(site), home)
    assert done.returncode == 78
    assert "directories.scratch" in done.stderr


def test_modules_are_loaded_in_order(make_site: Callable[..., Site], home: Path) -> None:
    _venv(home)
    site = _site(make_site, module_paths=["/soft/modules"], modules=["gcc/12", "python"])
    done = _run(f'module() {{ echo "$*" >> "$HOME/loaded"; }}\n{_init(site)}', home)
    assert done.returncode == 0, done.stderr
    assert (home / "loaded").read_text().splitlines() == [
        "use /soft/modules",
        "load gcc/12",
        "load python",
    ]


def test_the_local_site_prepares_this_machine(home: Path) -> None:
    found = _variables(_run(_init(load_site("local")[0]), home))
    assert found["FITSERVE_CACHE_DIR"].startswith(str(home))
