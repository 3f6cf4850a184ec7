"""What the client reads of pyhf without importing it is what pyhf has."""

import subprocess
import sys

import pyhf
import pytest

from fitserve.pallet import schema
from fitserve.pallet.schema import pyhf_digest

CONTENT = {"b": [1, 2.0, 1e-300, 1e22], "a": {"z": "τ̃", "y": None, "x": True}, "": -0.0}


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_the_digest_is_that_of_pyhf(algorithm: str) -> None:
    assert pyhf_digest(CONTENT, algorithm) == pyhf.utils.digest(CONTENT, algorithm=algorithm)


def test_the_schema_and_its_version_are_those_of_pyhf() -> None:
    assert pyhf.schema.version == schema._DEFAULT
    assert schema._definitions(schema._DEFAULT) == pyhf.schema.load_schema(
        f"{pyhf.schema.version}/defs.json"
    )


def test_reading_a_pallet_does_not_import_pyhf() -> None:
    code = (
        "import sys; from fitserve.pallet.load import load_pallet; load_pallet('example');"
        " print('pyhf' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "False"
