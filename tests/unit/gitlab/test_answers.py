"""The product's answers from the bridge's events, against GitLab's rules over the same rows."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from projector.domain.projection import Policy, Projection
from projector.domain.views import ViewId
from projector.events.cloudevents import subject
from projector.events.model import EVENT_TYPES, KafkaRecord, Topic
from projector.gitlab.mapping.envelope import encode
from projector.gitlab.mapping.state import Mark, Position, State
from projector.gitlab.mapping.tables import TABLES, Change
from tests.oracle import milliseconds
from tests.unit.gitlab.gitlab_world import GitLab
from tests.unit.gitlab.rules import UNKNOWN, Rules
from tests.unit.gitlab.worlds import BUILDS, ENVIRONMENTS, PROJECTS, STARTED, USERS, World

TODAY = "2026-11-28"
NOW = milliseconds("2026-11-28T10:30:00Z")
SOON = {"2031-01-31": TODAY}  # one of the two expiries is over
GENERATION = 100
NAMED = 10**6
LIVE = ("running", "canceling")
Fact = tuple[Any, ...]


class Product:
    """One partition of the product, fed from the outbox."""

    def __init__(self) -> None:
        self.projection = Projection(0, Policy(1, 30, 7 * 24 * 3600 * 1000))
        self.offsets = dict.fromkeys(Topic, 0)
        self.sent = 0
        self.entities: set[tuple[str, str, str | None]] = set()

    def follow(self, state: State) -> None:
        for row in state.unsent(self.sent, 10**6):
            topic = EVENT_TYPES[row.type].topic
            record = KafkaRecord(topic, 0, self.offsets[topic], NOW, None, encode(row, NOW))
            entity = (row.sequence, row.root, subject(record))
            assert entity not in self.entities, row  # a worker ignores the second one
            self.entities.add(entity)
            fault = self.projection.apply(record)
            assert fault is None or "is above itself" in fault, (row, fault)
            self.offsets[topic] += 1
            self.sent = row.number

    def answer(self, job: int) -> tuple[int, Any]:
        found = list(self.projection.views([ViewId(str(job))], NOW))
        if not found or found[0].status != 200:
            return (int(found[0].status) if found else UNKNOWN), None
        document = json.loads(found[0].body)
        document["allowed_agents"].sort(key=lambda agent: agent["id"])
        return 200, document


@dataclass
class Judge:
    """The rows that the bridge was given, and what became of the jobs in them."""

    tables: Any = field(default_factory=lambda: {name: {} for name in TABLES})
    generations: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BUILDS, 0))
    roots: dict[int, int | None] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def take(self, changes: Iterable[Change]) -> list[Change]:
        """Note the changes; a build that comes again gets a new id, as in GitLab."""
        return [self._note(self._renamed(change)) for change in changes]

    def _renamed(self, change: Change) -> Change:
        row: Any = change.row and [SOON.get(str(value), value) for value in change.row]
        row_id = change.id
        columns = list(TABLES[change.table].columns)
        builds = {"job_environments": "ci_job_id", "p_ci_builds_metadata": "build_id"}
        if change.table == "p_ci_builds":
            row_id = self._generation(row_id)
            if row:
                row[0] = row_id
        elif (
            row and change.table == "namespaces" and (row[2] or 0) >= row_id and row[4] is not None
        ):
            row[2] = None if row[2] != 99 and (row_id + row[2]) % 5 else row[2]  # few circles
        elif row and change.table in builds:
            at = columns.index(builds[change.table])
            row[at] = self._generation(row[at])
        # Rows of a build's environment may name another build now, as no row of GitLab does.
        return Change(change.table, row_id, tuple(row) if row else None, inserted=True)

    def _generation(self, build: int) -> int:
        return build + GENERATION * self.generations[build]

    def _note(self, change: Change) -> Change:
        rows = self.tables[change.table]
        row = (
            dict(zip(TABLES[change.table].columns, change.row, strict=True)) if change.row else None
        )
        if change.table == "p_ci_builds" and not is_live(row):
            if is_live(rows.get(change.id)) or not row or row["status"] != "pending":
                self.generations[change.id % GENERATION] += 1
            row = None
        if row is None:
            rows.pop(change.id, None)
        else:
            rows[change.id] = row
        return change

    def renewed(self, rules: Rules, dice: random.Random) -> list[Change]:
        """Start jobs in place of those that ended, mostly of users who are developers there."""
        found = []
        for build in BUILDS:
            number = self._generation(build)
            if number in self.ended or number not in self.tables["p_ci_builds"]:
                found.append(self._note(Change("p_ci_builds", number, None)))
                number = self._generation(build)
                job = (number, "running", "Ci::Build", *self._place(rules, dice))
                found.append(self._note(Change("p_ci_builds", number, job)))
                named = (NAMED + number, number, dice.choice(ENVIRONMENTS))
                found.append(self._note(Change("job_environments", NAMED + number, named)))
        return found

    def _place(self, rules: Rules, dice: random.Random) -> tuple[Any, ...]:
        """Return the project and user of a job, and the rest of its row."""
        for _ in range(30):
            project, user = dice.choice(PROJECTS), dice.choice(USERS)
            job = {"id": 0, "project_id": project, "user_id": user, "commit_id": 1, "protected": 1}
            status, document = rules.answer(job) if rules.is_started(job) else (set(), {})
            if status == {200} and "developer" in document["user"]["roles_in_project"]:
                break
        return project, 1, user, dice.choice((0, 1)), 3600, STARTED, None

    def expected(self, rules: Rules) -> dict[int, tuple[set[int], Any]]:
        """Return the statuses that are right for each live job, and the document of a 200."""
        return {job: self._expected(rules, row) for job, row in self.tables["p_ci_builds"].items()}

    def _expected(self, rules: Rules, job: Any) -> tuple[set[int], Any]:
        number, root = job["id"], rules.root_of_project(job["project_id"])
        may_run = rules.is_started(job)
        if number in self.roots and (not may_run or self.roots[number] != root):
            self.ended.add(number)  # it has left its root, for good
        if may_run and number not in self.roots and not rules.is_deleted_soon(job["project_id"]):
            self.roots[number] = root
        if number in self.ended or number not in self.roots:
            return {UNKNOWN}, None
        return rules.answer(job)


def is_live(row: Any) -> bool:
    return bool(row) and row["status"] in LIVE and row["type"] == "Ci::Build"


class Run:
    """The bridge's heart, the product and the judge, under random changes."""

    def __init__(self, path: Path, seed: int) -> None:
        self.world, self.judge, self.product = World(seed), Judge(), Product()
        self.state = State(path / "state.db", by_counter=True)
        self.setting: int | None = 0  # as long as nobody has read it
        self.batches = 0
        self.state.start_snapshot({"main": Position(1, 1, "1", 1)})
        rows = self.judge.take(self.world.seeded())
        for table in TABLES:
            self.state.load(table, [row.row for row in rows if row.table == table and row.row])
        self.state.finish_snapshot()

    @property
    def rules(self) -> Rules:
        return Rules(self.judge.tables, TODAY, self.setting)

    def change(self) -> None:
        self.batches += 1
        if self.batches % 10 == 0:
            self.setting = self.world.random.choice((None, 0, 1))
            allowed = None if self.setting is None else bool(self.setting)
            self.state.set_organization_agents(allowed, Mark("main", 0, None))
        self.state.apply(self.judge.take(self.world.batch()))
        self.state.apply(self.judge.renewed(self.rules, self.world.random))
        self.state.finish(Mark("main", self.batches + 1, NOW))

    def check_answers(self) -> None:
        self.product.follow(self.state)
        for job, (statuses, document) in self.judge.expected(self.rules).items():
            status, answer = self.product.answer(job)
            assert (status in statuses, answer) == (True, document), (job, status, statuses)

    def told(self) -> set[Fact]:
        return set(self.state._db.execute("SELECT * FROM told"))

    def told_afresh(self) -> set[Fact]:
        """Return what a bridge tells that begins now."""
        fresh = GitLab()
        fresh.setting(self.setting)
        for table, rows in self.judge.tables.items():
            for row in rows.values():
                fresh.db.execute(
                    f"INSERT INTO {table} ({', '.join(row)})"
                    f" VALUES ({', '.join('?' * len(row))})", list(row.values())
                )  # fmt: skip
            if row_filter := TABLES[table].row_filter:
                fresh.db.execute(f"DELETE FROM {table} WHERE NOT coalesce(({row_filter}), 0)")
        fresh.compare()
        return fresh.told()


@pytest.mark.parametrize("seed", range(8))
def test_answers_are_right_after_each_of_many_random_changes(tmp_path: Path, seed: int) -> None:
    run = Run(tmp_path, seed)
    for _ in range(150):
        run.check_answers()
        run.change()
    run.state.close()


@pytest.mark.parametrize("seed", range(100, 104))
def test_a_bridge_that_began_early_tells_the_same_as_one_that_begins_now(
    tmp_path: Path, seed: int
) -> None:
    run = Run(tmp_path, seed)
    for _ in range(120):
        run.check_answers()  # notes which jobs have left their root
        run.change()
    run.judge.expected(run.rules)
    early, now = run.told(), run.told_afresh()
    assert without_history(early, run) == without_history(now, run)
    users = {fact for fact in now if fact[0] == "user"}
    assert users <= early
    assert all('"state":"active"' in fact[5] or fact[1] not in run.judge.tables["users"]
               for fact in early - users if fact[0] == "user")  # fmt: skip
    run.state.close()


def without_history(facts: set[Fact], run: Run) -> set[Fact]:
    """Leave out what only a bridge from before can know of."""
    return {fact for fact in facts if fact[0] != "user" and not is_history(fact, run)}


def is_history(fact: Fact, run: Run) -> bool:
    if fact[0] == "configuration":
        return str(fact[5]).endswith('"projects":[],"groups":[]}}}')
    if fact[0] != "job" or fact[1] in run.judge.ended or not fact[5]:
        return bool(fact[0] == "job")
    return run.rules.is_deleted_soon(json.loads(fact[5])["project_id"])
