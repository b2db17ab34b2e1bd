"""A random company behind the bridge: every answer against the oracle, in every mode of the bridge.

A stop of the company ends when a heartbeat has vouched for it; then nothing may differ.
"""

import time
from statistics import quantiles

import pytest

from tests.integration.conftest import BROKERS
from tests.integration.gitlab.bridged import Bridged
from tests.integration.gitlab.company import jobs, people, tree
from tests.integration.gitlab.company.database_tokens import DB_KEY_BASE
from tests.integration.gitlab.conftest import NewBridged

ROUNDS = 3
CHANGES = 40
POLL = {
    "PROJECTOR_GITLAB_SOURCE": "poll",
    "PROJECTOR_GITLAB_POLL_INTERVAL": "0.7",
    "PROJECTOR_GITLAB_POLL_JOBS_INTERVAL": "0.2",
}


def run_rounds(it: Bridged, rounds: int = ROUNDS) -> None:
    """Let the company change and be judged, again and again."""
    it.judge()
    for _ in range(rounds):
        it.company.change(CHANGES)
        it.judge()
    it.audit()
    assert min(it.answers["200 with agents"], it.answers["401"]) > 5, it.answers


def start_job(it: Bridged, project: int, user: int) -> int:
    return it.company.insert(
        "p_ci_builds", partition_id=100, status="running", type="Ci::Build", commit_id=1,
        project_id=project, user_id=user,
    )  # fmt: skip


@pytest.mark.parametrize("broker", list(BROKERS))
def test_every_answer_is_gitlabs(new_bridged: NewBridged, broker: str) -> None:
    it = new_bridged(broker)
    it.start()
    run_rounds(it)


def test_without_grants_across_top_level_groups(new_bridged: NewBridged) -> None:
    it = new_bridged(seed=2)
    # No setting of the server may change what the bridge reads.
    for name, value in (
        ("datestyle", "SQL, DMY"),
        ("timezone", "Asia/Tokyo"),
        ("search_path", "x"),
    ):
        it.server.execute(f"ALTER ROLE projector SET {name} = '{value}'")
    it.start(cross_root=False)
    run_rounds(it)


def test_polling(new_bridged: NewBridged) -> None:
    it = new_bridged(seed=3, **POLL)
    it.server.execute("ALTER ROLE projector NOREPLICATION")
    it.start()
    run_rounds(it)
    with it.changing():
        for _ in range(2):
            time.sleep(0.7)
            it.restart_bridge()
    it.check()


def test_polling_sees_a_job_and_the_move_of_its_project_at_once(new_bridged: NewBridged) -> None:
    """A job that were started under the old root would lose its tokens for good."""
    it = new_bridged(seed=8, **POLL | {"PROJECTOR_GITLAB_POLL_INTERVAL": "2"})
    it.start()
    user, (old, new) = people.new_user(it.company), [tree.new_group(it.company) for _ in range(2)]
    projects = [tree.new_project(it.company, old) for _ in range(5)]
    it.settle()
    running = []
    for project in projects:
        it.company.update("projects", project, namespace_id=new)
        running.append(start_job(it, project, user))
        time.sleep(0.5)
    it.settle()
    assert [it.look_up(it.tokens(job)[0]).status for job in running] == [200] * 5


def test_jobs_in_a_database_of_their_own(new_bridged: NewBridged) -> None:
    it = new_bridged(seed=4, separate_ci=True)
    it.start()
    run_rounds(it)
    with it.changing():
        for _ in range(2):
            time.sleep(0.7)
            it.restart_bridge()
    it.check()


def test_polling_jobs_in_a_database_of_their_own(new_bridged: NewBridged) -> None:
    it = new_bridged(seed=9, separate_ci=True, **POLL)
    it.start()
    run_rounds(it, 2)


def test_decrypted_tokens(new_bridged: NewBridged) -> None:
    it = new_bridged(seed=5, PROJECTOR_GITLAB_TOKENS="decrypt")
    (file := it.deployment.folder / "db-key").write_text(DB_KEY_BASE[:32])
    file.chmod(0o400)
    it.deployment.env["PROJECTOR_GITLAB_DB_KEY_FILE"] = str(file)
    it.rows("GRANT SELECT (token_encrypted) ON p_ci_builds TO projector")
    it.start()
    run_rounds(it)
    kept = b"".join(path.read_bytes() for path in it.deployment.folder.glob("gitlab*"))
    for token in it.company.encrypted.values():
        assert token.encode() not in kept
    encrypted = it.company.rows("SELECT token_encrypted AS text FROM p_ci_builds")
    assert not [row for row in encrypted if row["text"] and row["text"].encode() in kept]


def test_a_job_whose_project_leaves_its_root_has_lost_its_tokens(new_bridged: NewBridged) -> None:
    it = new_bridged(seed=6)
    company = it.company
    it.start()
    user, (home, away) = people.new_user(company), [tree.new_group(company) for _ in range(2)]
    project = tree.new_project(company, home)
    moved, ended = (start_job(it, project, user) for _ in range(2))
    it.settle()
    tokens = [it.tokens(job)[0] for job in (moved, ended)]
    assert [it.look_up(token).status for token in tokens] == [200, 200]
    for place in (away, home):  # coming back does not bring the tokens back
        company.update("projects", project, namespace_id=place)
        it.settle()
        assert [it.look_up(token).status for token in tokens] == [401, 401]
    company.update("p_ci_builds", ended, status="success")
    it.audit()


def test_revocations_are_seen_soon(
    new_bridged: NewBridged, capsys: pytest.CaptureFixture[str]
) -> None:
    it = new_bridged(seed=7)
    it.start()
    it.company.rows("UPDATE projects SET pending_delete = false")
    it.company.rows("UPDATE users SET state = 'active'")
    took_ms = []
    for number in range(30):
        job = jobs.run_job(it.company, jobs.new_job(it.company))
        assert job is not None
        it.company.rows("UPDATE p_ci_builds SET type = 'Ci::Build' WHERE id = %s", job)
        token = it.tokens(job)[0]
        it.deployment.until(token, 200)
        if number % 2:
            user = it.company.value("SELECT user_id FROM p_ci_builds WHERE id = %s", job)
            it.company.update("users", user, state="blocked")
        else:
            it.company.update("p_ci_builds", job, status="success")
        committed = time.perf_counter()
        while it.deployment.look_up(token).status == 200:
            pass
        took_ms.append((time.perf_counter() - committed) * 1000)
        it.company.rows("UPDATE users SET state = 'active' WHERE state = 'blocked'")
    twentieths = quantiles(took_ms, n=20)
    p50, p95 = twentieths[9], twentieths[18]
    with capsys.disabled():
        print(f"\nfrom COMMIT to the refusal: p50 {p50:.0f} ms, p95 {p95:.0f} ms")
