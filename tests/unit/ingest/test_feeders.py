"""The file of tokens, and which events each token may send."""

import json
from typing import Any

import pytest

from projector.events.model import EVENT_TYPES
from projector.feed.event_file import parse_line
from projector.ingest.feeders import Feeder, WrongFeedersError, find_feeder, parse_feeders
from tests.builders import (
    agent,
    configured,
    group,
    member,
    removed,
    shared,
    shared_agent,
    started,
    user,
)  # fmt: skip
from tests.unit.ingest.ingest_world import ALL, IAM, digest, feeder


def only(**rights: Any) -> Feeder:
    (found,) = parse_feeders(json.dumps([feeder("one", ALL, **rights)]).encode()).values()
    return found


def refusal(feeder: Feeder, message: dict[str, Any]) -> str | None:
    return feeder.refusal(parse_line(json.dumps(message).encode()), message["source"])


TEAM: dict[str, Any] = {"partitionkeys": ["3"]}
BROADCASTS = [user(1), shared(5, 7), removed("instance-agent", 5)]
AGENTS = [agent(5, 7), configured(5), removed("agent", 5), shared_agent(5, 7),
          removed("shared-agent", 5)]  # fmt: skip


def test_a_token_with_all_rights_may_send_every_type() -> None:
    for message in [*BROADCASTS, *AGENTS, group(3), member(1, group_id=3), started(9, 7)]:
        assert refusal(only(), message) is None


@pytest.mark.parametrize("message", BROADCASTS, ids=lambda m: m["type"])
def test_a_token_of_one_namespace_sends_no_broadcast(message: dict[str, Any]) -> None:
    """Broadcasts hold for every namespace, whatever their own partitionkey is."""
    reason = refusal(only(**TEAM, agents="*"), message | {"partitionkey": "3"})
    assert reason
    assert "holds for every namespace" in reason


@pytest.mark.parametrize("message", AGENTS, ids=lambda m: m["type"])
def test_a_token_of_one_namespace_names_only_its_own_agents(message: dict[str, Any]) -> None:
    """Ids of agents are global: any other would let its jobs into another team's cluster."""
    assert refusal(only(**TEAM), message) == "this token may not send events about agent 5"
    assert refusal(only(**TEAM, agents=[4]), message)
    assert refusal(only(**TEAM, agents=[4, 5]), message) is None
    assert refusal(only(**TEAM, agents="*"), message) is None


def test_agents_may_be_bound_where_namespaces_are_not() -> None:
    assert refusal(only(agents=[4]), shared(5, 7))
    assert refusal(only(agents=[]), agent(5, 7))


def test_a_token_is_bound_to_its_types_namespaces_and_sources() -> None:
    team = only(types=["group.*"], partitionkeys=["3", 12], sources=["/acme/*"])
    assert refusal(team, group(3, source="/acme/iam")) is None
    assert refusal(team, group(3, source="/acme/iam", root="12")) is None
    assert "member.set" in str(refusal(team, member(1, group_id=3, source="/acme/iam")))
    assert "partitionkey 33" in str(refusal(team, group(3, source="/acme/iam", root="33")))
    assert "`source`" in str(refusal(team, group(3, source="/other")))
    unreadable = parse_line(json.dumps(group(3)).encode())
    assert "`source`" in str(team.refusal(unreadable, None))


def test_a_prefix_of_a_type_gives_no_other_right() -> None:
    team = only(types=["group.*"])
    assert refusal(team, group(3) | {"type": "com.example.group.set"}) is None
    assert refusal(team, member(1, group_id=3) | {"type": "group.x.member.set"})


def test_heartbeats_are_a_right_of_their_own() -> None:
    assert only().heartbeat_refusal("acme", "/a")
    team = only(heartbeats=["acme"], sources=["/a"])
    assert team.heartbeat_refusal("acme", "/a") is None
    assert team.heartbeat_refusal("gitlab", "/a")
    assert team.heartbeat_refusal("acme", "/b")


def test_a_token_is_found_by_its_digest() -> None:
    feeders = parse_feeders(json.dumps([feeder("a", ALL), feeder("b", IAM)]).encode())
    found = find_feeder(feeders, IAM.encode())
    assert found
    assert found.name == "b"
    assert find_feeder(feeders, digest(IAM).encode()) is None
    assert find_feeder(feeders, b"") is None


def test_the_file_may_be_yaml_with_digests_in_capitals() -> None:
    text = f"""
    - name: iam
      token_sha256: {digest(IAM).upper()}
      types: [group.*]
      partitionkeys: [3]
      sources: "*"
    """
    feeders = parse_feeders(text.encode())
    assert find_feeder(feeders, IAM.encode()) is feeders[digest(IAM)]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"token": "secret"}, "write `token_sha256`"),
        ({"token_sha256": "secret"}, "64 hex digits"),
        ({"token_sha256": digest("")}, "of an empty text"),
        ({"types": ["groups.*"]}, "no type matches"),
        ({"types": "group.set"}, "Expected `array`"),
        ({"types": ["source.heartbeat"]}, "`heartbeats`"),
        ({"partitionkeys": "3"}, "partitionkeys"),
        ({"partitionkeys": ["acme"]}, "digits"),
        ({"sources": "secret"}, "sources"),
        ({"heartbeats": ["A"]}, "source's name"),
        ({"agents": ["5"]}, "agents"),
        ({"name": "two words"}, "1 to 63 of A-Z.* at `name`"),
    ],
)
def test_a_wrong_entry_is_named_without_its_values(wrong: dict[str, Any], reason: str) -> None:
    entry = feeder("iam", IAM) | wrong
    with pytest.raises(WrongFeedersError, match=reason) as caught:
        parse_feeders(json.dumps([feeder("all", ALL), entry]).encode())
    assert "entry 2" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("missing", ["name", "token_sha256", "types", "partitionkeys", "sources"])
def test_no_right_is_given_by_leaving_a_field_out(missing: str) -> None:
    entry = feeder("iam", IAM)
    del entry[missing]
    with pytest.raises(WrongFeedersError, match=missing):
        parse_feeders(json.dumps([entry]).encode())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "must be a list"),
        (b"[]", "at least one entry"),
        (b"{}", "must be a list"),
        (b"- a: [", "line 1"),
        (b"- name: a\n  name: b", "given twice"),
        (b"\xff", "not YAML"),
    ],
)
def test_a_file_without_entries_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(WrongFeedersError, match=reason):
        parse_feeders(content)


def test_two_entries_have_different_names_and_tokens() -> None:
    for other in feeder("a", IAM), feeder("b", ALL):
        with pytest.raises(WrongFeedersError, match="the same"):
            parse_feeders(json.dumps([feeder("a", ALL), other]).encode())


def test_every_type_is_an_agents_a_broadcast_or_stays_in_its_namespace() -> None:
    """A new type that names an agent must be added to those that `agents` bounds."""
    agents = {name for name in EVENT_TYPES if "agent" in name.partition(".")[0]}
    assert agents == {m["type"] for m in [*AGENTS, *BROADCASTS]} - {"user.set"}
