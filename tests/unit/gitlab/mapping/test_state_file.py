"""The version of the state's schema: a bridge must refuse a file with other tables."""

import hashlib
from contextlib import closing
from pathlib import Path

from projector.gitlab.mapping.state_file import VERSION, StateFile

# After a change of the schema: raise VERSION, unless no release has had it; then put both here.
KNOWN = (1, "67287501ee48bf98")


def test_a_change_of_the_schema_changes_its_version(tmp_path: Path) -> None:
    with closing(StateFile(tmp_path / "state.db")) as file:
        tables = file.db.execute(
            "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%' ORDER BY name"
        )
        schema = " ".join("\n".join(sql for (sql,) in tables).split())
    assert (VERSION, hashlib.sha256(schema.encode()).hexdigest()[:16]) == KNOWN, schema
