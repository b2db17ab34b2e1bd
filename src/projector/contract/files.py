"""The files of the contract for events: AsyncAPI as YAML, and a JSON Schema of every type."""

import json
from typing import Any

import yaml

from projector.contract import asyncapi, json_schemas


def contract() -> dict[str, str]:
    """Return the text of each file of the contract, by its path."""
    return {"asyncapi.yaml": asyncapi_yaml()} | {
        f"schemas/{name}.json": json.dumps(json_schemas.event(name), indent=2) + "\n"
        for name in json_schemas.TYPES
    }


class _Dumper(yaml.SafeDumper):
    """Writes YAML without anchors, which some readers do not follow."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", str(text), style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_multi_representer(str, _Dumper.represent_text)


def asyncapi_yaml() -> str:
    """Return the AsyncAPI document."""
    text: str = yaml.dump(
        asyncapi.document(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text
