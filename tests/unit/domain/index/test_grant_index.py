"""Grants by the project or group that they name, by id or by path."""

from projector.domain import fact_keys
from projector.domain.entities import Configuration, Project, SharedAgent
from projector.domain.index.grant_index import GrantIndex

SHOP = Project(None, "Acme/Shop")
KEY = fact_keys.project_key("3", 7)
AGENT = fact_keys.configuration_key("3", 5)


def grants(*entries: dict[str, object]) -> Configuration:
    return Configuration(projects=list(entries), groups=[])


def named(index: GrantIndex, scope: Project | None = SHOP) -> dict[int, object]:
    found = index.of_scope(KEY, scope).items()
    return {agent: grant.configuration.get("default_namespace") for agent, grant in found}


def test_the_last_entry_counts_whether_it_names_the_id_or_the_path() -> None:
    by_id = {"id": 7, "default_namespace": "id"}
    by_path = {"id": "acme/SHOP", "default_namespace": "path"}
    for entries, expected in (((by_id, by_path), "path"), ((by_path, by_id), "id")):
        index = GrantIndex()
        index.add(AGENT, grants(*entries))
        assert named(index) == {5: expected}
        assert named(index, scope=None) == {5: "id"}, "a project without a fact has no path"


def test_a_path_leads_to_every_scope_that_has_it_and_else_to_itself() -> None:
    index, path = GrantIndex(), fact_keys.path_of(KEY, SHOP.path)
    assert index.scopes_of(path) == (path,)
    index.add_scope(KEY, SHOP)
    assert index.scopes_of(path) == {KEY}
    index.discard_scope(KEY, SHOP)
    assert index.scopes_of(path) == (path,)


def test_what_is_discarded_leaves_nothing_behind() -> None:
    index, configuration = GrantIndex(), grants({"id": 7}, {"id": "acme/shop"})
    index.add(AGENT, configuration)
    index.add(fact_keys.configuration_key("3", 6), grants({"id": 7}))
    assert index.names_path(KEY, SHOP)
    index.discard(AGENT, configuration)
    assert not index.names_path(KEY, SHOP)
    assert named(index) == {6: None}
    index.discard(fact_keys.configuration_key("3", 6), grants({"id": 7}))
    assert not index._grants


def test_grants_of_shared_agents_are_kept_apart_from_those_of_configurations() -> None:
    index, key = GrantIndex(), fact_keys.shared_agent_key("3", 5)
    shared = SharedAgent("far", 99, [{"id": 7}, {"id": "ACME/shop", "default_namespace": "s"}], [])
    index.add(AGENT, grants({"id": 7, "default_namespace": "c"}))
    index.add(key, shared)
    assert index.names_path(KEY, SHOP)
    assert named(index) == {5: "c"}
    assert index.shared_with(KEY, SHOP)[5].configuration == {"default_namespace": "s"}
    assert index.shared_with(KEY, None)[5].configuration == {}
    index.discard(key, shared)
    assert not index.names_path(KEY, SHOP)
    assert named(index) == {5: "c"}
    assert index.shared_with(KEY, SHOP) == {}
    assert not index._shared
