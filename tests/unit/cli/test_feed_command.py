"""`projector feed`: what it prints about bad input, and that then nothing is sent."""

import json
from pathlib import Path

import fakeredis
import pytest

from projector.cli.terminal import MAX_BAD_LINES_SHOWN, OUTAGE, WRONG
from projector.errors import OperatorError
from projector.events.model import Topic
from projector.store import schema
from tests.builders import configured, group, removed, started
from tests.unit.cli.conftest import Kafka
from tests.unit.cli.runner import NOT_LISTENING, process, run, written
from tests.unit.operators import worlds

TOKEN = "glcbt-64_abcdefghijklmnopqrst"
GOOD = json.dumps(group(3)) + "\n"


def test_feed_sends_every_line_in_order_and_says_how_many(tmp_path: Path, kafka: Kafka) -> None:
    other = json.dumps(removed("group", 3))
    result = run("feed", written(tmp_path, GOOD, "\n", other))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "2 events acknowledged by Kafka\n"
    assert kafka.sent == [GOOD.strip().encode(), other.encode()]


def test_feed_reads_standard_input_where_the_file_is_a_dash(kafka: Kafka) -> None:
    result = run("feed", "-", stdin=GOOD)
    assert (result.exit_code, result.stdout) == (0, "1 event acknowledged by Kafka\n")
    assert kafka.sent == [GOOD.strip().encode()]


@pytest.mark.parametrize("nothing", ["", "\n \n"])
def test_a_feed_of_nothing_is_no_success(tmp_path: Path, kafka: Kafka, nothing: str) -> None:
    """In a pipe, the command that should have written the events has perhaps failed."""
    result = run("feed", file := written(tmp_path, nothing))
    assert (result.exit_code, result.stdout) == (WRONG, "")
    assert result.stderr == f"{file}: there is no event in it; nothing was sent\n"


def test_feed_names_a_bad_line_and_sends_nothing(tmp_path: Path, kafka: Kafka) -> None:
    file = written(tmp_path, GOOD, "\n", "{\n", GOOD, "[]\n")
    result = run("feed", file)
    assert result.exit_code == WRONG == 2
    first, second, last = result.stderr.splitlines()
    assert first.startswith(f"{file}:3: the value is not JSON")
    assert second.startswith(f"{file}:5: `event` must be an object")
    assert last == "nothing was sent"
    assert (result.stdout, kafka.sent) == ("", [])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (json.dumps([group(3)]), "; write one event a line, as `jq -c '.[]'` does with an array"),
        (json.dumps([group(3)], indent=2), "; write one event a line, as `jq -c '.[]'` does"),
        ("\n" + json.dumps(group(3), indent=2), "; write one event a line, as `jq -c .` does"),
        ("{]\n[]\n", ""),
    ],
)
def test_feed_names_how_to_write_one_event_a_line(text: str, hint: str, kafka: Kafka) -> None:
    result = run("feed", "-", stdin=text)
    assert result.exit_code == WRONG
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"nothing was sent{hint}")
    assert hint or last == "nothing was sent"
    assert kafka.sent == []


def test_feed_names_a_bad_line_of_standard_input(kafka: Kafka) -> None:
    result = run("feed", "-", stdin=GOOD + "{\n")
    assert result.exit_code == WRONG
    assert result.stderr.startswith("-:2: ")
    assert kafka.sent == []


@pytest.mark.parametrize("number", [100, 1234])
def test_feed_writes_line_numbers_as_they_are(tmp_path: Path, kafka: Kafka, number: int) -> None:
    """Rich has emoji by the names of :100: and :1234:."""
    file = written(tmp_path, GOOD * (number - 1), "{\n")
    assert run("feed", file).stderr.startswith(f"{file}:{number}: ")


def test_feed_never_shows_a_token(tmp_path: Path, kafka: Kafka) -> None:
    lines = [json.dumps(group(3, note=TOKEN)), json.dumps(removed("job", 9, note=TOKEN))]
    result = run("feed", written(tmp_path, "\n".join(lines)))
    assert result.exit_code == WRONG
    assert "glcbt" not in result.output
    assert kafka.sent == []


HOLLOW = json.dumps(configured(5, projects=[{"id": 7}, {"id": 8, "access_as": {}}])) + "\n"


def test_feed_sends_what_a_worker_applies_and_names_the_entry_left_out(
    tmp_path: Path, kafka: Kafka
) -> None:
    result = run("feed", file := written(tmp_path, GOOD, HOLLOW, GOOD))
    assert (result.exit_code, result.stdout) == (0, "3 events acknowledged by Kafka\n")
    [warning] = result.stderr.splitlines()
    assert warning.startswith(f"{file}:2: warning: `ci_access.projects[1]` does not count")
    assert kafka.sent == [line.strip().encode() for line in (GOOD, HOLLOW, GOOD)]


def test_a_strict_feed_refuses_what_a_worker_would_leave_out(tmp_path: Path, kafka: Kafka) -> None:
    result = run("feed", "--strict", file := written(tmp_path, "{]\n", HOLLOW, "{\n"))
    assert result.exit_code == WRONG
    assert [line.removeprefix(file)[:3] for line in result.stderr.splitlines()[:3]] == [
        ":1:", ":2:", ":3:",
    ]  # fmt: skip
    assert result.stderr.splitlines()[3:] == ["nothing was sent"]
    assert run("feed", "--strict", written(tmp_path, HOLLOW)).exit_code == WRONG
    assert kafka.sent == []
    assert run("feed", "--strict", written(tmp_path, GOOD)).exit_code == 0


def test_feed_shows_so_many_warnings_and_counts_the_rest(tmp_path: Path, kafka: Kafka) -> None:
    result = run("feed", written(tmp_path, HOLLOW * (MAX_BAD_LINES_SHOWN + 7)))
    assert result.exit_code == 0
    said = result.stderr.splitlines()
    assert len(said) == MAX_BAD_LINES_SHOWN + 1
    assert said[-1] == "... and 7 more warnings"


def test_feed_shows_so_many_bad_lines_and_counts_the_rest(tmp_path: Path, kafka: Kafka) -> None:
    said = run("feed", written(tmp_path, "{]\n" * (MAX_BAD_LINES_SHOWN + 7))).stderr.splitlines()
    assert len(said) == MAX_BAD_LINES_SHOWN + 2
    assert said[-2:] == ["... and 7 more bad lines", "nothing was sent"]


def test_a_missing_file_is_named(tmp_path: Path, kafka: Kafka) -> None:
    file = str(tmp_path / "missing")
    result = run("feed", file)
    assert result.exit_code == WRONG
    assert file in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_directory_is_no_file(tmp_path: Path, kafka: Kafka) -> None:
    result = run("feed", str(tmp_path))
    assert result.exit_code == WRONG
    assert "directory" in result.stderr


def test_feed_reads_a_pipe_that_cannot_be_read_twice() -> None:
    """As in `projector feed <(...)`: going back to its beginning for sending must not fail."""
    done = process("feed", "/dev/stdin", stdin=GOOD)
    assert "Traceback" not in done.stderr
    assert done.returncode == OUTAGE


def test_without_kafka_feed_says_where_it_should_be(tmp_path: Path) -> None:
    result = run("feed", written(tmp_path, GOOD))
    assert result.exit_code == OUTAGE == 3
    assert f"Kafka at {NOT_LISTENING} cannot be reached" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("error", [OSError("away"), TimeoutError("away")], ids=repr)
def test_an_outage_while_sending_is_an_outage(
    tmp_path: Path, kafka: Kafka, error: Exception
) -> None:
    kafka.error = error
    assert run("feed", written(tmp_path, GOOD)).exit_code == OUTAGE


def test_what_a_person_must_set_up_is_one_sentence(tmp_path: Path, kafka: Kafka) -> None:
    kafka.error = OperatorError("create the topics first")
    result = run("feed", written(tmp_path, GOOD))
    assert (result.exit_code, result.stderr) == (WRONG, "create the topics first\n")


# feed --agent-config

ABOUT = ["--agent", "5", "--name", "production", "--project", "3", "--partitionkey", "12"]


def agents_file(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return str(path)


def test_feed_sends_what_an_agents_file_means(tmp_path: Path, kafka: Kafka) -> None:
    file = agents_file(tmp_path, "ci_access: {projects: [{id: acme/shop}], instance: {}}")
    result = run("feed", "--agent-config", file, *ABOUT)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "3 events acknowledged by Kafka\n"
    types = [json.loads(line)["type"] for line in kafka.sent]
    assert types == ["agent.set", "agent.configured", "instance-agent.set"]
    assert {json.loads(line)["partitionkey"] for line in kafka.sent} == {"12"}


def test_feed_reads_an_agents_file_from_standard_input(kafka: Kafka) -> None:
    assert run("feed", "--agent-config", "-", *ABOUT, stdin="ci_access: {}").exit_code == 0
    assert len(kafka.sent) == 3


def test_feed_names_a_bad_line_of_an_agents_file_and_sends_nothing(
    tmp_path: Path, kafka: Kafka
) -> None:
    file = agents_file(tmp_path, "ci_access:\n  projects:\n    - id: 0\n  groups: 7\n")
    result = run("feed", "--agent-config", file, *ABOUT)
    assert result.exit_code == WRONG
    first, second, last = result.stderr.splitlines()
    assert first.startswith(f"{file}:3: an entry of `ci_access.projects` does not count")
    assert second == f"{file}:4: `ci_access.groups` must be a list"
    assert last == "nothing was sent"
    assert kafka.sent == []


def test_feed_sends_no_agents_file_that_holds_a_token(tmp_path: Path, kafka: Kafka) -> None:
    file = agents_file(tmp_path, f"ci_access: {{projects: [{{id: a, x: {TOKEN}}}]}}")
    result = run("feed", "--agent-config", file, *ABOUT, "--allow-unknown")
    assert result.exit_code == WRONG
    assert result.stderr.startswith(f"{file}: the field `x` holds a job token")
    assert kafka.sent == []


def test_feed_refuses_a_field_that_kas_does_not_know_unless_it_may_be_newer(
    tmp_path: Path, kafka: Kafka
) -> None:
    file = agents_file(tmp_path, "ci_access:\n  groups:\n    - id: a\n      zzz: 1\n")
    result = run("feed", "--agent-config", file, *ABOUT)
    assert result.exit_code == WRONG
    assert result.stderr.startswith(f"{file}:4: `zzz` in an entry of `ci_access.groups` is unknown")
    assert "--allow-unknown" in result.stderr
    assert kafka.sent == []
    assert run("feed", "--agent-config", file, *ABOUT, "--allow-unknown").exit_code == 0
    assert json.loads(kafka.sent[1])["data"]["config"]["ci_access"]["groups"] == [
        {"id": "a", "zzz": 1}
    ]


def test_feed_says_which_entries_of_an_agents_file_are_too_many(
    tmp_path: Path, kafka: Kafka
) -> None:
    file = agents_file(tmp_path, "ci_access:\n  groups:" + "\n    - id: a" * 501)
    result = run("feed", "--agent-config", file, *ABOUT)
    assert result.exit_code == 0
    assert f"{file}:503: warning: `ci_access.groups`: only the first 500 of 501" in result.stderr


def test_a_strict_feed_refuses_an_agents_file_with_a_warning(tmp_path: Path, kafka: Kafka) -> None:
    file = agents_file(tmp_path, "ci_access:\n  groups:\n    - id: a\n      environments: [1]\n")
    assert run("feed", "--agent-config", file, *ABOUT).exit_code == 0
    kafka.sent.clear()
    result = run("feed", "--agent-config", file, *ABOUT, "--strict")
    assert result.exit_code == WRONG
    assert result.stderr.startswith(f"{file}:4: an entry of `ci_access.groups` allows no job")
    assert kafka.sent == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give FILE"),
        (["-", "--agent-config", "-", *ABOUT], "not both"),
        (["--agent-config", "-"], "also needs --agent, --name, --project, --partitionkey"),
        (["--agent-config", "-", *ABOUT[:-2]], "also needs --partitionkey"),
        (["--agent-config", "-", *ABOUT[:-2], "--allow-unknown"], "also needs --partitionkey"),
        (["-", "--allow-unknown"], "--allow-unknown: only with --agent-config"),
        (["-", *ABOUT[:4]], "--agent, --name: only with --agent-config"),
        (["--agent-config", "nowhere.yaml", *ABOUT], "nowhere.yaml: No such file"),
        (["--agent-config", "-", "--agent", "0"], "Invalid value for '--agent'"),
    ],
)
def test_feed_refuses_what_is_half_given(arguments: list[str], says: str, kafka: Kafka) -> None:
    result = run("feed", *arguments)
    assert result.exit_code == WRONG
    assert says in result.stderr
    assert kafka.sent == []


def test_feed_sends_a_job_without_a_digest_and_never_its_token(
    tmp_path: Path, kafka: Kafka
) -> None:
    signed = started(9, 7, token=None)
    lines = [
        json.dumps(signed),
        json.dumps(signed | {"data": signed["data"] | {"token_sha256": None}}),
    ]
    assert run("feed", written(tmp_path, "\n".join(lines))).exit_code == 0
    assert kafka.sent == [line.encode() for line in lines]
    for wrong in ("", 7, "x" * 64, TOKEN):
        bad = json.dumps(signed | {"data": signed["data"] | {"token_sha256": wrong}})
        result = run("feed", written(tmp_path, bad))
        assert result.exit_code == WRONG
        assert "token_sha256`" in result.stderr
        assert TOKEN not in result.output
    result = run(
        "feed", written(tmp_path, json.dumps(signed | {"data": signed["data"] | {"t": TOKEN}}))
    )
    assert (result.exit_code, TOKEN in result.output) == (WRONG, False)
    assert len(kafka.sent) == 2


def test_feed_waits_until_answers_contain_the_events(
    tmp_path: Path, kafka: Kafka, company: fakeredis.FakeServer
) -> None:
    kafka.positions = {(Topic.MEMBERSHIP, worlds.HOME): 1}
    result = run("feed", written(tmp_path, GOOD), "--wait", "5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "1 event acknowledged by Kafka\nanswers contain them\n"


def test_feed_names_the_partitions_whose_answers_lack_events(
    tmp_path: Path, kafka: Kafka, company: fakeredis.FakeServer
) -> None:
    kafka.positions = {(Topic.MEMBERSHIP, p): 99 for p in (worlds.HOME, *range(7, 40))}
    result = run("feed", written(tmp_path, GOOD), "--wait", "0.05")
    assert (result.exit_code, result.stdout) == (1, "1 event acknowledged by Kafka\n")
    applying, unclaimed, last = result.stderr.splitlines()
    assert applying == (
        f"worker me-{worlds.HOME} still applies events of partition {worlds.HOME}: wait longer "
        "with --wait"
    )
    assert unclaimed.startswith("no worker has claimed partitions 7, 8, 9, ")
    assert unclaimed.endswith("… (33 in all): start `projector worker` on this Redis")
    assert last == (
        "answers lack some of the events after 0.05 s; Kafka has all of them, so do not send them "
        "again"
    )


def test_feed_names_a_worker_that_is_silent(
    tmp_path: Path, kafka: Kafka, company: fakeredis.FakeServer
) -> None:
    redis = fakeredis.FakeRedis(server=company)
    key = schema.partition_key(worlds.HOME)
    redis.hincrby(key, "stamp", -60_000)
    kafka.positions = {(Topic.MEMBERSHIP, worlds.HOME): 99}
    result = run("feed", written(tmp_path, GOOD), "--wait", "0")
    assert f"has not stamped partition {worlds.HOME} for 60 s: look at `projector" in result.stderr
    redis.hdel(key, "stamp")
    result = run("feed", written(tmp_path, GOOD), "--wait", "0")
    assert "has not yet stamped partition" in result.stderr


def test_feed_names_topics_that_were_recreated(
    tmp_path: Path, kafka: Kafka, company: fakeredis.FakeServer
) -> None:
    """The offset in Redis is far higher, but it is of the topic before."""
    redis = fakeredis.FakeRedis(server=company)
    key = schema.partition_key(worlds.HOME)
    redis.hset(key, mapping={"offset:membership": 1000, "log:membership": "old-id 999 90 00ff"})
    kafka.positions = {(Topic.MEMBERSHIP, worlds.HOME): 6}
    kafka.ids = {Topic.MEMBERSHIP: "new-id"}
    result = run("feed", written(tmp_path, GOOD), "--wait", "0")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"the topics of partition {worlds.HOME} in Kafka are not those whose events were applied: "
        "look at `projector status`\n"
    )


def test_feed_that_waits_names_a_redis_that_is_away(
    tmp_path: Path, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.positions = {(Topic.MEMBERSHIP, 0): 1}
    monkeypatch.setenv("PROJECTOR_REDIS_URL", f"redis://{NOT_LISTENING}/0")
    result = run("feed", written(tmp_path, GOOD), "--wait", "0.05")
    assert result.exit_code == OUTAGE
    assert result.stdout == "1 event acknowledged by Kafka\n"
    assert f"{NOT_LISTENING}/0 cannot be reached" in result.stderr
