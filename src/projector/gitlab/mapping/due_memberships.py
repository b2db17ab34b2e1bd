"""SELECTs of due groups, projects, memberships and users; see `due`."""

from typing import Final

# Members count as in GitLab's lib/gitlab/project_authorizations.rb.
_COUNTS: Final = (
    "m.user_id IS NOT NULL AND m.access_level > 5 AND m.requested_at IS NULL AND m.state = 0"
)
# Sorts behind every date.
_NEVER: Final = "9"
_LONG_AGO: Final = "0001-01-01"
_DATE: Final = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*"


def _ends(row: str) -> str:
    """Return the SQL of a row's expiry as a text that sorts by time.

    PostgreSQL writes years from 10000 with five digits, and has the dates `infinity` and
    `-infinity`.
    """
    date = f"{row}.expires_at"
    return (
        f"CASE WHEN {date} IS NULL OR {date} = 'infinity' THEN '{_NEVER}'"
        f" WHEN {date} GLOB '{_DATE}' THEN substr({date}, 1, 10)"
        f" WHEN {date} GLOB '[0-9]*' THEN '{_NEVER}' ELSE '{_LONG_AGO}' END"
    )


def _membership(user: str, scope: str, role: str, via: str, ends: str) -> str:
    return (
        f"json_object('user_id', {user}, {scope}, 'role', {role}, 'via', {via},"
        f" 'expires_at', nullif({ends}, '{_NEVER}'))"
    )


def _of_users(select: str) -> str:
    """Return the SELECT for all users of a link, and for the one in `dirty.b`, by indexes."""
    conditions = ("d.b = 0", "d.b <> 0 AND m.user_id = d.b")
    return " UNION ALL ".join(f"{select} AND {condition}" for condition in conditions)


# groups and projects


GROUP: Final = """
SELECT n.id, 0, '', n.root, json_object('id', n.id, 'parent_id', n.parent_id, 'path', r.path)
FROM dirty d CROSS JOIN namespaces n ON n.id = d.a
CROSS JOIN routes r ON r.source_id = n.id AND r.source_type = 'Namespace'
WHERE d.kind = 'group' AND n.type = 'Group' AND n.root IS NOT NULL
"""

PROJECT: Final = """
SELECT p.id, 0, '', n.root, json_object(
    'id', p.id, 'group_id', CASE n.type WHEN 'Group' THEN n.id END, 'path', r.path)
FROM dirty d CROSS JOIN projects p ON p.id = d.a CROSS JOIN namespaces n ON n.id = p.namespace_id
CROSS JOIN routes r ON r.source_id = p.id AND r.source_type = 'Project'
WHERE d.kind = 'project' AND NOT coalesce(p.pending_delete, 0) AND n.root IS NOT NULL
"""

# memberships: due where the group or project is told, so that they come and go with it


def _members(source: str, kind: str) -> str:
    data = _membership(
        "m.user_id", f"'{kind}_id', m.source_id", "m.access_level", "'m' || m.id", _ends("m")
    )
    return (
        f"SELECT m.id, m.user_id, 'm' || m.id, s.root, {data}"
        " FROM dirty d CROSS JOIN members m ON m.id = d.a"
        f" CROSS JOIN told s ON s.kind = '{kind}' AND s.a = m.source_id"
        f" WHERE d.kind = 'member' AND m.source_type = '{source}' AND {_COUNTS}"
    )


MEMBER: Final = f"{_members('Namespace', 'group')} UNION ALL {_members('Project', 'project')}"

OWNER: Final = """
SELECT p.id, n.owner_id, 'owner', s.root, json_object(
    'user_id', n.owner_id, 'project_id', p.id, 'role', 50, 'via', 'owner')
FROM dirty d CROSS JOIN projects p ON p.id = d.a
CROSS JOIN namespaces n ON n.id = p.namespace_id
CROSS JOIN told s ON s.kind = 'project' AND s.a = p.id
WHERE d.kind = 'owner' AND n.type = 'User' AND n.owner_id IS NOT NULL
"""

_INVITED: Final = "CROSS JOIN members m ON m.source_type = 'Namespace' AND m.source_id ="
_GROUP_SHARE_ROLE: Final = "min(m.access_level, l.group_access)"
_GROUP_SHARE_VIA: Final = "'g' || l.id || '/m' || m.id"
_GROUP_SHARE_DATA: Final = _membership(
    "m.user_id",
    "'group_id', l.shared_group_id",
    _GROUP_SHARE_ROLE,
    _GROUP_SHARE_VIA,
    f"min({_ends('m')}, {_ends('l')})",
)
GROUP_SHARE: Final = _of_users(
    f"SELECT l.id, m.user_id, {_GROUP_SHARE_VIA}, s.root, {_GROUP_SHARE_DATA}"
    " FROM dirty d CROSS JOIN group_group_links l ON l.id = d.a"
    " CROSS JOIN told s ON s.kind = 'group' AND s.a = l.shared_group_id"
    f" {_INVITED} l.shared_with_group_id"
    f" WHERE d.kind = 'group_share' AND {_COUNTS} AND {_GROUP_SHARE_ROLE} > 5"
)

_DIRECT: Final = _of_users(
    f"SELECT d.link, m.user_id, m.access_level, {_ends('m')}, 'm' || m.id"
    f" FROM up d {_INVITED} d.id WHERE {_COUNTS}"
)
_SHARED: Final = _of_users(
    "SELECT d.link, m.user_id, min(m.access_level, g.group_access),"
    f" min({_ends('m')}, {_ends('g')}), 'g' || g.id || '/m' || m.id"
    " FROM up d CROSS JOIN group_group_links g ON g.shared_group_id = d.id"
    f" {_INVITED} g.shared_with_group_id WHERE {_COUNTS}"
)
_PROJECT_SHARE_VIA: Final = "'p' || l.id || '/' || w.via"
_PROJECT_SHARE_DATA: Final = _membership(
    "w.user_id",
    "'project_id', l.project_id",
    "min(w.level, l.group_access)",
    _PROJECT_SHARE_VIA,
    f"min(w.ends, {_ends('l')})",
)
# `up` has the invited group and the groups above it; UNION ends where they run in a circle.
PROJECT_SHARE: Final = f"""
WITH RECURSIVE up (link, b, id) AS (
    SELECT l.id, d.b, l.group_id FROM dirty d CROSS JOIN project_group_links l ON l.id = d.a
    CROSS JOIN projects p ON p.id = l.project_id CROSS JOIN namespaces n ON n.id = p.namespace_id
    WHERE d.kind = 'project_share' AND n.share_with_group_lock = 0
    UNION SELECT u.link, u.b, n.parent_id FROM up u CROSS JOIN namespaces n ON n.id = u.id
    WHERE n.parent_id IS NOT NULL),
ways (link, user_id, level, ends, via) AS ({_DIRECT} UNION ALL {_SHARED})
SELECT l.id, w.user_id, {_PROJECT_SHARE_VIA}, s.root, {_PROJECT_SHARE_DATA}
FROM ways w CROSS JOIN project_group_links l ON l.id = w.link
CROSS JOIN told s ON s.kind = 'project' AND s.a = l.project_id
WHERE min(w.level, l.group_access) > 5
"""

# users: a worker takes a user without `user.set` as active

USER: Final = """
SELECT u.id, 0, '', '*', json_object('id', u.id, 'username', u.username, 'state', u.state)
FROM dirty d CROSS JOIN users u ON u.id = d.a
WHERE d.kind = 'user' AND (u.state IS NOT 'active'
    OR EXISTS (SELECT 1 FROM told t WHERE t.kind = 'user' AND t.a = u.id))
"""
