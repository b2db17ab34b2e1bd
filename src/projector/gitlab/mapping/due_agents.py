"""SELECTs of due agents, and of the rows of their configuration files; see `due`.

A row counts in the root namespace of its project or group. Each row's `config` is kept as text.
"""

from typing import Final

_BLANKS: Final = "char(32, 9, 10, 13)"
# GitLab's setting for grants across root namespaces and of the whole instance. It is off until it
# has been read. NULL: a database without such settings, where only instance agents count.
_SETTING: Final = "EXISTS (SELECT 1 FROM meta WHERE name = 'organization_agents' AND value {})"
_ACROSS_ROOTS: Final = _SETTING.format("= 1")
_OF_INSTANCE: Final = _SETTING.format("IS NOT 0")


AGENT: Final = """
SELECT c.id, 0, '', n.root, json_object('id', c.id, 'name', c.name, 'project_id', c.project_id)
FROM dirty d CROSS JOIN cluster_agents c ON c.id = d.a
CROSS JOIN projects p ON p.id = c.project_id CROSS JOIN namespaces n ON n.id = p.namespace_id
WHERE d.kind = 'agent' AND n.root IS NOT NULL
"""


def _is_object(row: str) -> str:
    return f"json_valid({row}.config) AND substr(ltrim({row}.config, {_BLANKS}), 1, 1) = char(123)"


def _and_more(json_object: str) -> str:
    """Return the SQL of a JSON object's text without its end, and with a comma where it needs one.

    Keeps numbers and texts as PostgreSQL wrote them. Of two fields of one name a reader takes the
    last, so what is added counts.
    """
    text = f"trim({json_object}, {_BLANKS})"
    inside = f"substr({text}, 2, length({text}) - 2)"
    return (
        f"substr({text}, 1, length({text}) - 1)"
        f" || CASE WHEN trim({inside}, {_BLANKS}) = '' THEN '' ELSE ',' END"
    )


_TARGETS: Final = {
    "project": "CROSS JOIN projects q ON q.id = x.project_id"
    " CROSS JOIN namespaces t ON t.id = q.namespace_id",
    "group": "CROSS JOIN namespaces t ON t.id = x.group_id AND t.type = 'Group'",
}


def _entries(target: str) -> str:
    """Return the SQL of an agent's entries for the projects or groups in root `root`."""
    entry = f"""{_and_more("x.config")} || '"id":' || x.{target}_id || char(125)"""
    return (
        f"coalesce((SELECT group_concat(entry) FROM (SELECT {entry} AS entry"
        f" FROM agent_{target}_authorizations x {_TARGETS[target]}"
        f" WHERE x.agent_id = c.id AND t.root = r.root AND {_is_object('x')} ORDER BY x.id)), '')"
    )


# `c` is the agent, `r.root` the root namespace.
_ACCESS: Final = (
    f"""'{{"ci_access":{{"projects":[' || {_entries("project")}"""
    f""" || '],"groups":[' || {_entries("group")} || ']}}}}'"""
)
_EMPTY_ACCESS: Final = '{"ci_access":{"projects":[],"groups":[]}}'


def _configured(agent: str, access: str) -> str:
    return f"""'{{"id":' || {agent} || ',"config":' || {access} || '}}'"""


def empty_configuration(agent: str) -> str:
    """Return the SQL of the data that takes all grants from the agent with this id."""
    return _configured(agent, f"'{_EMPTY_ACCESS}'")


_OF_AGENT: Final = """
dirty d CROSS JOIN cluster_agents c ON c.id = d.a
CROSS JOIN projects p ON p.id = c.project_id CROSS JOIN namespaces {} ON {}.id = p.namespace_id
""".format

CONFIGURATION: Final = f"""
WITH found (a, root, access) AS MATERIALIZED (
    SELECT c.id, r.root, {_ACCESS} FROM {_OF_AGENT("r", "r")}
    WHERE d.kind = 'configuration' AND r.root IS NOT NULL)
SELECT a, 0, '', root, {_configured("a", "access")} FROM found WHERE access <> '{_EMPTY_ACCESS}'
"""


def _roots_of(target: str) -> str:
    return (
        f"SELECT c.id, t.root FROM {_OF_AGENT('n', 'n')}"
        f" CROSS JOIN agent_{target}_authorizations x ON x.agent_id = c.id {_TARGETS[target]}"
        " WHERE d.kind = 'shared_agent' AND t.root <> n.root AND NOT coalesce(p.pending_delete, 0)"
    )


_AGENT_FIELDS: Final = "json_object('id', c.id, 'name', c.name, 'project_id', c.project_id)"

SHARED_AGENT: Final = f"""
WITH roots (agent, root) AS ({_roots_of("project")} UNION {_roots_of("group")}),
found (a, root, agent, access) AS MATERIALIZED (
    SELECT c.id, r.root, {_and_more(_AGENT_FIELDS)}, {_ACCESS}
    FROM roots r CROSS JOIN cluster_agents c ON c.id = r.agent WHERE {_ACROSS_ROOTS})
SELECT a, 0, '', root, agent || '"config":' || access || char(125) FROM found
WHERE access <> '{_EMPTY_ACCESS}'
"""

INSTANCE_AGENT: Final = f"""
SELECT c.id, 0, '', '*', {_and_more(_AGENT_FIELDS)} || '"configuration":' || o.config || char(125)
FROM dirty d CROSS JOIN cluster_agents c ON c.id = d.a
CROSS JOIN agent_organization_authorizations o ON o.id = (
    SELECT max(x.id) FROM agent_organization_authorizations x WHERE x.agent_id = c.id)
WHERE d.kind = 'instance_agent' AND {_OF_INSTANCE} AND {_is_object("o")}
"""
