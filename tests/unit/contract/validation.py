"""Validation by JSON Schema with the patterns of ECMA 262."""

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend


def ecma_pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[Exception]:
    """Match by ECMA 262, where `$` is the end and never before a last newline."""
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


Validator: Any = extend(Draft202012Validator, {"pattern": ecma_pattern})  # type: ignore[no-untyped-call]
