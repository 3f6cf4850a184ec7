"""The command line behind `make images`, `make sif` and `make image-check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fitserve.errors import FitserveError
from imagekit.build import build
from imagekit.check import check_image, check_machine, run_selftest
from imagekit.engine import find_engine
from imagekit.names import ROOT, image_name
from imagekit.sif import make_sif, save_archive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagekit.engine import Engine

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error is printed without a traceback, with its exit code."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    options = [word for word in rest if word != "--"]
    try:
        _do(parsed, find_engine(parsed.engine or None), options)
    except FitserveError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imagekit", description="Build, convert and check fitserve's container images."
    )
    parser.add_argument("command", choices=["build", "sif", "check"])
    parser.add_argument("target", nargs="?", default="worker")
    parser.add_argument(
        "--engine", default="", help="podman or docker; by default the one that is installed"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "images", help="directory of image files"
    )
    parser.add_argument(
        "--archive-only", action="store_true", help="write the archive that Apptainer reads"
    )
    return parser


def _do(parsed: argparse.Namespace, engine: Engine, options: Sequence[str]) -> None:
    if parsed.command == "build":
        print(build(engine, parsed.target, options))
    elif parsed.command == "sif":
        if parsed.archive_only:
            print(save_archive(engine, parsed.target, parsed.out))
        else:
            print(make_sif(engine, parsed.target, parsed.out, options))
    else:
        _check(engine, parsed.target)


def _check(engine: Engine, target: str) -> None:
    """Print what is wrong with the machine, or what the image is."""
    problems = list(check_machine(engine, target))
    for problem in problems:
        sys.stderr.write(f"error: {problem}\n")
    if problems:
        sys.exit(problems[0].exit_code)
    image = check_image(engine, target)
    tested = run_selftest(engine, target)
    print(
        f"{image_name(target)} is in order: {image['Size'] / 1e6:.0f} MB, {tested['device']}, "
        f"JAX {tested['versions']['jax']}, CLs {tested['CLs_obs']:.6f} after "
        f"{tested['seconds']:.1f} s"
    )
