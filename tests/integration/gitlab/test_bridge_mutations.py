"""Bridges without one of their mechanisms: the judge must notice each of them."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from projector.ports import is_listening
from tests.integration.gitlab import mutated_bridge
from tests.integration.gitlab.bridged import Bridged
from tests.integration.gitlab.company import people, tree
from tests.integration.gitlab.conftest import NewBridged
from tests.integration.gitlab.test_bridge_faults import drop_slot
from tests.integration.ports import free_port
from tests.integration.servers import Server, embedded_kafka, eventually, running

Story = Callable[[Bridged, Server], None]
MUTANT = mutated_bridge.__name__
TIMES = 5


def killed_with_unsent_events(it: Bridged, kafka: Server) -> None:
    kafka.signal(signal.SIGSTOP)
    it.company.change(60)
    time.sleep(1)
    it.bridge.kill()
    kafka.signal(signal.SIGCONT)
    it.bridge.start()
    it.judge()


def killed_between_a_membership_and_its_end(it: Bridged, _kafka: Server) -> None:
    """Both are one batch for the next bridge; the first one has sent the beginning alone."""
    company = it.company
    user, group = people.new_user(company), tree.new_group(company)
    company.insert(
        "p_ci_builds", partition_id=100, status="running", type="Ci::Build", commit_id=1,
        project_id=tree.new_project(company, group), user_id=user,
    )  # fmt: skip
    it.judge()
    it.restart_bridge()
    member = company.insert(
        "members", user_id=user, access_level=30, source_type="Namespace", source_id=group,
        type="GroupMember",
    )  # fmt: skip
    it.judge()
    it.bridge.signal(signal.SIGSTOP)
    company.delete("members", member)
    it.bridge.kill()
    it.bridge.start()
    it.judge()


def much_has_gone_at_a_snapshot(it: Bridged, _kafka: Server) -> None:
    it.bridge.kill()
    drop_slot(it)
    it.company.transact([people.empty_group] * 10)
    it.company.transact([people.leave] * 20)
    it.bridge.start()
    it.judge()


def a_long_time_passes(it: Bridged, _kafka: Server) -> None:
    for _ in range(5):
        it.company.change(60)
        it.judge()


def tell_again(story: Story, it: Bridged, kafka: Server) -> None:
    """PostgreSQL decides what comes in one batch, so a story may have to be told again."""
    for _ in range(TIMES):
        story(it, kafka)


@pytest.mark.parametrize(
    ("story", "mutation"),
    [
        (killed_with_unsent_events, ["outbox_forgotten"]),
        (killed_between_a_membership_and_its_end, ["remembered_after_sending"]),
        (much_has_gone_at_a_snapshot, ["told_forgotten_at_a_snapshot"]),
        (a_long_time_passes, ["without_rule", "group_share: members"]),
    ],
)
def test_the_judge_notices(
    new_bridged: NewBridged, tmp_path: Path, story: Story, mutation: list[str]
) -> None:
    port = free_port()
    with running(embedded_kafka(tmp_path, port)) as kafka:
        eventually(lambda: is_listening(port), "the broker listening")
        it = new_bridged(kafka=f"127.0.0.1:{port}")
        it.start(module=MUTANT, env={mutated_bridge.VARIABLE: json.dumps(mutation)})
        with pytest.raises(AssertionError, match="wrong"):
            tell_again(story, it, kafka)


@pytest.mark.parametrize(
    "story",
    [
        killed_with_unsent_events,
        killed_between_a_membership_and_its_end,
        much_has_gone_at_a_snapshot,
        a_long_time_passes,
    ],
)
def test_the_bridge_as_it_is_passes(new_bridged: NewBridged, tmp_path: Path, story: Story) -> None:
    port = free_port()
    with running(embedded_kafka(tmp_path, port)) as kafka:
        eventually(lambda: is_listening(port), "the broker listening")
        it = new_bridged(kafka=f"127.0.0.1:{port}")
        it.start()
        story(it, kafka)
