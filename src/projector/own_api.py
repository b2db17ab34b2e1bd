"""The package `api` that is installed beside this one, whatever else has that name."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent.parent / "api"


def claim() -> None:
    """Import the package by its own path, so that later imports find no other `api`.

    A folder of that name may be in the working directory or in PYTHONPATH.
    """
    file = FOLDER / "__init__.py"
    found = sys.modules.get("api")
    if found is not None and found.__file__ == str(file):
        return
    spec = spec_from_file_location("api", file)
    assert spec is not None  # noqa: S101  it is a Python file
    assert spec.loader is not None  # noqa: S101
    sys.modules["api"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["api"])
