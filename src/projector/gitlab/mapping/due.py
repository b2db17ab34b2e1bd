"""The facts that GitLab's rows give, as one SELECT for each kind, and their events.

Each SELECT joins `dirty`, so the same text serves one change and a full comparison. It gives
(a, b, via, root, data): `a` is the row's id, `b` the user of a membership, `data` the event's.
CROSS JOIN keeps SQLite to the order as written: `dirty` first. No function fails on a row,
whatever is in it: malformed JSON is never parsed.
"""

from typing import Final, NamedTuple

from projector.gitlab.mapping import due_agents, due_jobs, due_memberships


class Kind(NamedTuple):
    """The types of a kind's events, and the place of its removals behind all sets."""

    set: str
    removed: str = ""
    place: int = 0


# In the order of events. Jobs come first, so that they end first; they start last of all.
KINDS: Final = {
    "job": Kind("job.started", "job.finished"),
    "user": Kind("user.set"),
    "group": Kind("group.set", "group.removed", 6),
    "project": Kind("project.set", "project.removed", 5),
    "owner": Kind("member.set", "member.removed", 4),
    "member": Kind("member.set", "member.removed", 4),
    "group_share": Kind("member.set", "member.removed", 4),
    "project_share": Kind("member.set", "member.removed", 4),
    "agent": Kind("agent.set", "agent.removed", 3),
    "configuration": Kind("agent.configured"),
    "instance_agent": Kind("instance-agent.set", "instance-agent.removed", 1),
    "shared_agent": Kind("shared-agent.set", "shared-agent.removed", 2),
}

DUE: Final = {
    "group": due_memberships.GROUP,
    "project": due_memberships.PROJECT,
    "owner": due_memberships.OWNER,
    "member": due_memberships.MEMBER,
    "group_share": due_memberships.GROUP_SHARE,
    "project_share": due_memberships.PROJECT_SHARE,
    "user": due_memberships.USER,
    "agent": due_agents.AGENT,
    "configuration": due_agents.CONFIGURATION,
    "shared_agent": due_agents.SHARED_AGENT,
    "instance_agent": due_agents.INSTANCE_AGENT,
    "job": due_jobs.JOB,
}

# All `a` of a kind that the mirror can have; those of `told` come in addition.
EVERYTHING: Final = {
    "group": "SELECT id FROM namespaces WHERE type = 'Group'",
    "project": "SELECT id FROM projects",
    "owner": "SELECT p.id AS id FROM projects p JOIN namespaces n ON n.id = p.namespace_id"
    " WHERE n.type = 'User'",
    "member": "SELECT id FROM members",
    "group_share": "SELECT id FROM group_group_links",
    "project_share": "SELECT id FROM project_group_links",
    "user": "SELECT id FROM users WHERE state IS NOT 'active'",
    "agent": "SELECT id FROM cluster_agents",
    "configuration": "SELECT id FROM cluster_agents",
    "shared_agent": "SELECT id FROM cluster_agents",
    "instance_agent": "SELECT DISTINCT agent_id AS id FROM agent_organization_authorizations"
    " WHERE agent_id IS NOT NULL",
    "job": "SELECT id FROM p_ci_builds",
}
