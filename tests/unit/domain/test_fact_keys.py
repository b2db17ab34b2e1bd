"""Keys of facts: what is built from ids is parsed into the same ids."""

from hypothesis import given
from hypothesis import strategies as st

from projector.domain import fact_keys
from projector.domain.entities import ENTITY_KINDS

ROOTS = st.integers(1, 10**18).map(str)
IDS = st.integers(1, 2**63 - 1)
DIGEST = "a" * 64


@given(ROOTS, IDS)
def test_keys_name_their_root_namespace_kind_and_id(root: str, number: int) -> None:
    keys = {
        "group": fact_keys.group_key(root, number),
        "project": fact_keys.project_key(root, number),
        "agent": fact_keys.agent_key(root, number),
        "configuration": fact_keys.configuration_key(root, number),
        "shared-agent": fact_keys.shared_agent_key(root, number),
        "job": fact_keys.job_key(root, number),
    }
    for kind, key in keys.items():
        assert (fact_keys.kind_of(key), fact_keys.root_of(key)) == (kind, root)
        assert (fact_keys.name_of(key), fact_keys.id_of(key)) == (str(number), number)
    assert fact_keys.job_of(keys["job"]) == (root, number)
    assert {*keys, "member", "user", "instance-agent", "token"} == ENTITY_KINDS.keys()


@given(ROOTS, st.sampled_from([fact_keys.group_key, fact_keys.project_key]), IDS, IDS, st.text())
def test_a_membership_names_its_scope_its_user_and_any_via(
    root: str, scope_key: object, number: int, user: int, via: str
) -> None:
    assert callable(scope_key)
    scope = scope_key(root, number)
    key = fact_keys.member_key(scope, user, via)
    assert fact_keys.membership_of(key) == (scope, user)
    assert fact_keys.via_of(key) == via
    assert fact_keys.MEMBER in key
    assert fact_keys.USER in key


def test_users_and_agents_of_the_instance_belong_to_no_root_namespace() -> None:
    assert fact_keys.user_key(1) == "*/user/1"
    assert fact_keys.instance_agent_key(5) == "*/instance-agent/5"
    assert fact_keys.token_key("12", DIGEST) == f"12/token/{DIGEST}"


def test_a_grant_by_path_has_the_key_of_that_path_in_any_case() -> None:
    project = fact_keys.project_key("12", 7)
    assert fact_keys.target_key("12", "project", 7) == project
    by_path = fact_keys.target_key("12", "project", "acme/shop")
    assert by_path == fact_keys.path_of(project, "Acme/Shop") == "12/project-path/acme/shop"
    assert by_path != fact_keys.path_of(fact_keys.group_key("12", 7), "acme/shop")
