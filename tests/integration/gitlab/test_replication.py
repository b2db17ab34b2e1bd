"""Test the reader of a replication slot on a real PostgreSQL."""

import asyncio

from projector.gitlab import database
from projector.gitlab.tables import Change
from tests.integration.gitlab.follower import follow, following, new_slot, slot_of
from tests.integration.gitlab.gitlab_database import GitlabDatabase


async def test_rows_arrive_with_their_needed_columns_alone(gitlab_database: GitlabDatabase) -> None:
    with gitlab_database.connect() as gitlab:
        async with following(gitlab_database) as follower:
            gitlab.execute(
                "INSERT INTO users (id, email, username, state) VALUES (7, 'a@b', 'amy', 'active')"
            )
            gitlab.execute("UPDATE users SET state = 'blocked' WHERE id = 7")
            gitlab.execute("UPDATE users SET id = 8 WHERE id = 7")
            gitlab.execute("DELETE FROM users WHERE id = 8")
            await follower.until(lambda: len(follower.changes) == 5)
    assert follower.changes == [
        Change("users", 7, (7, "amy", "active"), inserted=True),
        Change("users", 7, (7, "amy", "blocked"), inserted=False),
        Change("users", 7, None),
        Change("users", 8, (8, "amy", "blocked"), inserted=False),
        Change("users", 8, None),
    ]
