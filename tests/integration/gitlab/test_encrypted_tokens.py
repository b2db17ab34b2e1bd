"""Test the digests of encrypted tokens in a snapshot and in the stream."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from projector.gitlab.mapping.tables import TABLES
from projector.gitlab.postgres.database import copy_table, reading
from projector.gitlab.postgres.token_digests import TokenDigests
from tests.integration.gitlab.follower import following
from tests.integration.gitlab.gitlab_database import GitlabDatabase

VECTOR = json.loads((Path(__file__).parents[2] / "data" / "encrypted-job-tokens.json").read_text())[
    0
]
BUILDS = TABLES["p_ci_builds"]


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenDigests]:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(VECTOR["db_key_base"][:32])
    with TokenDigests(key) as digests:
        yield digests


def add_builds(gitlab: psycopg.Connection[Any]) -> None:
    for number, token in enumerate((VECTOR["dynamic"], None, "garbage", VECTOR["static"]), 1):
        gitlab.execute(
            "INSERT INTO p_ci_builds (id, partition_id, status, type, token_encrypted)"
            " VALUES (%s, 100, 'running', 'Ci::Build', %s)",
            [number, token],
        )


EXPECTED = [(1, VECTOR["sha256"]), (2, None), (3, None), (4, VECTOR["sha256"])]


async def test_rows_have_the_digest_and_never_the_token(
    gitlab_database: GitlabDatabase, tokens: TokenDigests
) -> None:
    with gitlab_database.connect() as gitlab:
        gitlab.execute("GRANT SELECT (token_encrypted) ON p_ci_builds TO projector")
        async with following(gitlab_database, digests=tokens.digests) as follower:
            add_builds(gitlab)
            await follower.until(lambda: len(follower.changes) == 4)
    assert [(c.id, c.row and c.row[-1]) for c in follower.changes] == EXPECTED
    with reading(gitlab_database.bridge_dsn) as connection:
        rows = sorted(copy_table(connection, BUILDS, digests=tokens.digests), key=str)
        assert [(row[0], row[-1]) for row in rows] == EXPECTED
        # Without the key the tokens are not even read.
        assert {row[-1] for row in copy_table(connection, BUILDS)} == {None}


async def test_without_the_key_no_right_to_tokens_is_needed(
    gitlab_database: GitlabDatabase,
) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            add_builds(gitlab)
            await follower.until(lambda: len(follower.changes) == 4)
    assert {change.row and change.row[-1] for change in follower.changes} == {None}
    with reading(gitlab_database.bridge_dsn) as connection:
        assert len(list(copy_table(connection, BUILDS))) == 4
