"""The keys of facts, built and parsed.

A key is the entity's root namespace, its kind and its ids (`12/group/3`; `*` where an entity
belongs to no root namespace). The keys are also the fields of the checkpoint in Redis.
"""

from typing import Final, NewType

Key = NewType("Key", str)
Root = str

# The kind of a dead letter that waits for Kafka, beside the facts.
WAITING_LETTER: Final = "dead-letter"
# Only keys of memberships contain these; the second comes before the user's id.
MEMBER: Final = "/member/"
USER: Final = "/user:"


def group_key(root: Root, group: int) -> Key:
    """Return `12/group/3`."""
    return Key(f"{root}/group/{group}")


def project_key(root: Root, project: int) -> Key:
    """Return `12/project/7`."""
    return Key(f"{root}/project/{project}")


def member_key(scope: Key, user: int, via: str) -> Key:
    """Return `12/member/group:3/user:1/direct` for a membership in the scope `12/group/3`."""
    root, kind, number = scope.split("/")
    return Key(f"{root}/member/{kind}:{number}/user:{user}/{via}")


def user_key(user: int) -> Key:
    """Return `*/user/1`: users belong to no root namespace."""
    return Key(f"*/user/{user}")


def agent_key(root: Root, agent: int) -> Key:
    """Return `12/agent/5`."""
    return Key(f"{root}/agent/{agent}")


def configuration_key(root: Root, agent: int) -> Key:
    """Return `12/configuration/5`, for the agent 5."""
    return Key(f"{root}/configuration/{agent}")


def shared_agent_key(root: Root, agent: int) -> Key:
    """Return `12/shared-agent/5`, for the agent 5 of another root namespace."""
    return Key(f"{root}/shared-agent/{agent}")


def instance_agent_key(agent: int) -> Key:
    """Return `*/instance-agent/5`."""
    return Key(f"*/instance-agent/{agent}")


def path_of(key: Key, path: str) -> Key:
    """Return `12/project-path/acme/shop` for the project `12/project/7`; case does not matter."""
    return Key(f"{root_of(key)}/{kind_of(key)}-path/{path.lower()}")


def target_key(root: Root, kind: str, target: int | str) -> Key:
    """Return the target of a grant: `12/project/7`, or `12/project-path/acme/shop`."""
    return Key(f"{root}/{kind}{'-path' if isinstance(target, str) else ''}/{target}")


def job_key(root: Root, job: int) -> Key:
    """Return `12/job/9`."""
    return Key(f"{root}/job/{job}")


def job_of(key: Key) -> tuple[Root, int]:
    """Return the root namespace 12 and the job's id 9 from `12/job/9`."""
    root, _, number = key.split("/")
    return root, int(number)


def token_key(root: Root, digest: str) -> Key:
    """Return `12/token/<sha256>`: only for tokens that ended before their job."""
    return Key(f"{root}/token/{digest}")


def kind_of(key: Key) -> str:
    """Return `group` from `12/group/3`."""
    return key.split("/", 2)[1]


def root_of(key: Key) -> Root:
    """Return `12` from `12/group/3`."""
    return key.split("/", 1)[0]


def name_of(key: Key) -> str:
    """Return `3` from `12/group/3`."""
    return key.rsplit("/", 1)[1]


def id_of(key: Key) -> int:
    """Return the number 3 from `12/group/3`."""
    return int(name_of(key))


def membership_of(key: Key) -> tuple[Key, int]:
    """Return the scope `12/group/3` and the user 1 from `12/member/group:3/user:1/direct`."""
    scope, _, user = key.partition(USER)
    scope = scope.replace(MEMBER, "/", 1).replace(":", "/", 1)
    return Key(scope), int(user.partition("/")[0])


def via_of(key: Key) -> str:
    """Return `direct` from `12/member/group:3/user:1/direct`."""
    return key.split("/", 4)[4]
