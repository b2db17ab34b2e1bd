"""Lookups of three jobs, and changes of their company in SQL."""

import time

from examples.gitlab.lookups import Answer, lookup, settled
from examples.gitlab.processes import DemoError

CHANGE_S = 10.0
JOBS = {9: "of Ada", 10: "of Ben", 11: "of Ada"}
MOVE = """\
UPDATE namespaces SET parent_id = 1, traversal_ids = '{1,3}' WHERE id = 3;
UPDATE routes SET path = replace(path, 'acme/platform/web', 'acme/web');"""
BLOCK = "UPDATE users SET state = 'blocked' WHERE username = 'ben';"
FINISH = "UPDATE p_ci_builds SET status = 'success', finished_at = now() WHERE id = 9;"


class Story:
    """The steps, numbered as they come."""

    def __init__(self, api: str, dsn: str, tokens: dict[int, str]) -> None:
        self._api = api
        self._dsn = dsn
        self._tokens = tokens
        self._steps = 0

    def look_up(self, job: int) -> None:
        self._step(job, settled(self._api, self._tokens[job]))

    def change(self, what: str, sql: str, job: int) -> None:
        """Run the SQL; show the job's new answer, and how long after COMMIT it came."""
        before = settled(self._api, self._tokens[job])
        print(f"{what}:")
        print("\n".join(f"     {line}" for line in sql.splitlines()), flush=True)
        committed = self._commit(sql)
        while (answer := lookup(self._api, self._tokens[job], max_age=10)) == before:
            if time.monotonic() > committed + CHANGE_S:
                raise DemoError(f"after {CHANGE_S:.0f} seconds the answer is still the same")
            time.sleep(0.002)
        took = (time.monotonic() - committed) * 1000
        self._step(job, answer, f"  ({took:.0f} ms after COMMIT)")

    def fall_silent(self, job: int, source: str) -> None:
        """Show that an answer without news from the source is soon too old for this request."""
        end = time.monotonic() + CHANGE_S
        while True:
            answer = lookup(self._api, self._tokens[job], max_age=1)
            if answer[0] == 503 and source in str(answer[1].get("reason")):
                break
            if time.monotonic() > end:
                raise DemoError(f"without the source {source} the answer is not too old")
            time.sleep(0.1)
        self._step(job, answer)

    def _commit(self, sql: str) -> float:
        import psycopg  # noqa: PLC0415  slow, and Ctrl-C must find main()

        with psycopg.connect(self._dsn) as connection:
            connection.execute(sql)
            connection.commit()
            return time.monotonic()

    def _step(self, job: int, answer: Answer, note: str = "") -> None:
        self._steps += 1
        name = f"job {job}, {JOBS[job]}"
        print(f"  {self._steps}. {name:<16}{describe(answer)}{note}", flush=True)


def describe(answer: Answer) -> str:
    status, body = answer
    if status == 503:
        return f"503 {body.get('reason')}"
    if status != 200:
        return str(body.get("message", status))
    agents = [str(agent["id"]) for agent in body["allowed_agents"]]
    word = "agents" if len(agents) > 1 else "agent"
    return f"200, {word} {' and '.join(agents) or '-'}"
