"""The units that are rendered, judged by systemd itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fitserve import __version__
from sitekit.load import load_site
from sitekit.render import Rendering, render_site
from sitekit.target.places import places_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.deploy

MULTI = {
    "contact": "mailto:help@site.example",
    "access": {"mode": "multi-user", "domains": ["site.example"]},
    "environment": {"container": None, "venv": "/opt/fitserve/venv"},
}
PROXY = {"network": {"proxy": {"https": "http://proxy.site.example:3128"}}}


@pytest.mark.parametrize(
    ("extends", "scope", "fields"),
    [("slurm", "--user", {}), ("local", "--user", PROXY), ("slurm", "--system", MULTI)],
)
def test_systemd_understands_a_unit(
    tmp_path: Path, extends: str, scope: str, fields: dict[str, Any]
) -> None:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("no systemd-analyze: apt-get install systemd")
        pytest.skip("no systemd-analyze")
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    program = venv / "bin" / "globus-compute-endpoint"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": extends, **fields, "endpoint": {"venv": str(venv)}}))
    files, _ = render_site(load_site(str(path))[0], Rendering(__version__, tmp_path))
    unit = tmp_path / "fitserve-mine.service"

    def judged(text: str) -> tuple[int, str]:
        unit.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", scope, str(unit)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "XDG_RUNTIME_DIR": str(tmp_path),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    good = files[unit.name]
    assert judged(good) == (0, "")
    # What a killed endpoint left is ended by the deployment's script, or by nobody.
    state = places_of(load_site(str(path))[0]).state
    assert f"\nExecStartPre=-{state}/tidy\n" in good
    # It would tell.
    assert "Restrat" in judged(good.replace("Restart=", "Restrat="))[1]
    program.unlink()
    assert judged(good)[0] != 0
