"""Check of the licences in the image's bill of materials; prints them, one package a line.

Exits with 1 if a package has a licence that nobody has looked at.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

CLASSIFIER = "License :: OSI Approved :: "
# The image fulfils each as it is: unmodified packages, with the texts of their licences.
ALLOWED = {
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "LGPL-3.0-only", "MIT", "MIT-0",
    "MPL-2.0", "PSF-2.0", "Python-2.0", "Apache Software License", "BSD License",
    "Mozilla Public License 2.0 (MPL 2.0)", "License :: Repoze Public License",
}  # fmt: skip
# Their metadata lacks it; the text of the licence is in the package.
IN_TEXT = {"protobuf": ["BSD-3-Clause"]}


def licences(component: dict[str, Any]) -> list[str]:
    """Return what the metadata of a package names, without repeats."""
    found = {
        entry.get("expression") or entry["license"].get("id") or entry["license"]["name"]
        for entry in component.get("licenses", [])
    }
    names = sorted(name.removeprefix(CLASSIFIER) for name in found)
    return names or IN_TEXT.get(component["name"], [])


def is_allowed(licence: str) -> bool:
    """Whether every part of the expression is in the list."""
    if licence in ALLOWED:
        return True
    return ALLOWED.issuperset(re.split(r" (?:AND|OR) ", licence.replace("(", "").replace(")", "")))


def main(file: str) -> int:
    """Print the licences; return the exit status."""
    refused = []
    for component in json.loads(Path(file).read_text())["components"]:
        names = licences(component)
        print(f"{component['name']} {component['version']}: {', '.join(names) or 'none named'}")  # noqa: T201
        if not names or not all(map(is_allowed, names)):
            refused.append(component["name"])
    for name in refused:
        print(f"the licence of {name} is not in ALLOWED of licences.py", file=sys.stderr)  # noqa: T201
    return bool(refused)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
