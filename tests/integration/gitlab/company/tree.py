"""Groups and projects: made, moved, renamed and deleted, with their paths, as Rails does it."""

from collections.abc import Callable
from typing import Any

from tests.integration.gitlab.company.session import Row, Session

Act = Callable[[Session], Any]
GROUPS = "namespaces WHERE type = 'Group'"
PLACES = "namespaces WHERE type IN ('Group', 'User')"
PATH = "SELECT path FROM routes WHERE source_type = %s AND source_id = %s"
BELOW = """
WITH RECURSIVE below (id, depth) AS (
  SELECT id, 0 FROM namespaces WHERE id = %s
  UNION ALL
  SELECT n.id, depth + 1 FROM below JOIN namespaces n ON n.parent_id = below.id
    AND n.type = 'Group')
SELECT id FROM below ORDER BY depth DESC, id
"""
DEPTH = """
WITH RECURSIVE above (id, depth) AS (
  SELECT %s::bigint, 1
  UNION ALL
  SELECT n.parent_id, depth + 1 FROM above JOIN namespaces n USING (id) WHERE parent_id IS NOT NULL)
SELECT max(depth) FROM above
"""
ROOT = """
WITH RECURSIVE above (id, parent_id) AS (
  SELECT id, parent_id FROM namespaces WHERE id = %s
  UNION ALL
  SELECT n.id, n.parent_id FROM above JOIN namespaces n ON n.id = above.parent_id)
SELECT id FROM above WHERE parent_id IS NULL
"""
DEEPEST = 6
TIERS = {"production": 0, "staging": 1, "testing": 2, "development": 3, "other": 4}


def new_personal(it: Session, user: int) -> int:
    """Make a user's own namespace."""
    name = it.value("SELECT username FROM users WHERE id = %s", user)
    path = it.name("home")
    space = it.insert("namespaces", name=name, path=path, type="User", owner_id=user)
    it.update("namespaces", space, traversal_ids=[space])
    it.insert("routes", source_type="Namespace", source_id=space, path=path, namespace_id=space)
    return space


def new_group(it: Session, parent: int | None = None) -> int:
    path = it.name("g")
    group = it.insert(
        "namespaces", name=path, path=path, type="Group", parent_id=parent,
        description_html=it.text(3000) if it.chance(0.2) else None,
    )  # fmt: skip
    full = full_path(it, parent, path)
    it.insert("routes", source_type="Namespace", source_id=group, path=full, namespace_id=group)
    sync_traversal_ids(it, group)
    return group


def new_subgroup(it: Session) -> None:
    parent = it.pick(GROUPS)
    if it.value(DEPTH, parent) < DEEPEST:
        new_group(it, parent)


def new_root(it: Session) -> None:
    new_project(it, new_group(it))


def new_project(it: Session, place: int | None = None) -> int:
    """Make a project, with the namespace that GitLab gives each project, and environments."""
    place = place or it.pick(PLACES)
    path = it.name("s")
    own = it.insert("namespaces", name=path, path=path, type="Project", parent_id=place)
    project = it.insert(
        "projects", name=path, path=path, namespace_id=place, project_namespace_id=own,
        description_html=it.text(3000) if it.chance(0.2) else None,
    )  # fmt: skip
    full = full_path(it, place, path)
    it.insert("routes", source_type="Project", source_id=project, path=full, namespace_id=own)
    for name in ("production", "review/1"):
        new_environment(it, project, name)
    return project


def new_environment(it: Session, project: int, name: str) -> None:
    slug = name.replace("/", "-")[:24]
    tier = TIERS.get(name, it.random.randrange(5))
    it.insert("environments", project_id=project, name=name, slug=slug, tier=tier)


def full_path(it: Session, parent: int | None, path: str) -> str:
    above = it.value(PATH, "Namespace", parent) if parent else None
    return f"{above}/{path}" if above else path


def sync_traversal_ids(it: Session, namespace: int) -> None:
    """Write the derived column of everything below, as GitLab may do later."""
    for row in reversed(it.rows(BELOW, namespace)):
        it.rows(
            "UPDATE namespaces n SET traversal_ids ="
            " coalesce((SELECT traversal_ids FROM namespaces WHERE id = n.parent_id), '{}') || id"
            " WHERE id = %s", row["id"],
        )  # fmt: skip


def write_routes(it: Session, group: int) -> None:
    """Write the paths of a group and of everything below, row by row."""
    for row in reversed(it.rows(BELOW, group)):
        known = it.rows("SELECT parent_id, path FROM namespaces WHERE id = %s", row["id"])[0]
        set_route(it, "Namespace", row["id"], full_path(it, known["parent_id"], known["path"]))
        for project in it.rows("SELECT id, path FROM projects WHERE namespace_id = %s", row["id"]):
            full = full_path(it, row["id"], project["path"])
            set_route(it, "Project", project["id"], full)


def set_route(it: Session, kind: str, source: int, path: str) -> None:
    it.rows(
        "UPDATE routes SET path = %s WHERE source_type = %s AND source_id = %s", path, kind, source
    )


def a_target(it: Session, namespace: int) -> Any:
    """Return a group to move to: mostly in the same root, since other moves end jobs."""
    if it.chance(0.2):
        return it.pick(GROUPS)
    root = it.value(ROOT, namespace)
    return it.choice(*(row["id"] for row in it.rows(BELOW, root)))


def move_group(it: Session) -> None:
    """Move a group: under another one, or to the top."""
    group = it.pick(GROUPS)
    target = None if it.chance(0.05) else a_target(it, group)
    below = [row["id"] for row in it.rows(BELOW, group)]
    if target in below or (target and it.value(DEPTH, target) >= DEEPEST):
        return
    it.update("namespaces", group, parent_id=target)
    write_routes(it, group)
    if it.chance(0.7):  # else in a transaction of its own
        sync_traversal_ids(it, group)


def late_traversal_ids(it: Session) -> None:
    sync_traversal_ids(it, it.pick(GROUPS))


def move_project(it: Session) -> None:
    """Transfer a project to a group or to somebody's own namespace."""
    place = it.pick(PLACES)
    if project := it.pick("projects"):
        known = it.rows(
            "SELECT path, project_namespace_id AS own FROM projects WHERE id = %s", project
        )
        it.update("projects", project, namespace_id=place)
        it.update("namespaces", known[0]["own"], parent_id=place)
        set_route(it, "Project", project, full_path(it, place, known[0]["path"]))


def rename_group(it: Session) -> None:
    group = it.pick(GROUPS)
    it.update("namespaces", group, path=it.name("r"), name=it.name("Renamed "))
    write_routes(it, group)


def swap_paths(it: Session) -> None:
    """Give two projects of one group each other's path."""
    place = it.pick(PLACES)
    projects = it.rows("SELECT id, path FROM projects WHERE namespace_id = %s ORDER BY id", place)
    if len(projects) > 1:
        first, second = it.sample(projects, 2)
        set_route(it, "Project", first["id"], it.name("aside"))
        for to, by in ((second, first), (first, second)):
            it.update("projects", to["id"], path=by["path"])
            set_route(it, "Project", to["id"], full_path(it, place, by["path"]))


def lock_shares(it: Session) -> None:
    it.update(
        "namespaces", it.pick(GROUPS), share_with_group_lock=it.choice(True, False, False, None)
    )


def pending_delete(it: Session) -> None:
    """Mark a project for deletion; rarely GitLab takes that back."""
    if (marked := it.pick("projects WHERE pending_delete")) and it.chance(0.4):
        it.update("projects", marked, pending_delete=it.choice(False, None))
    elif project := it.pick("projects"):
        it.update("projects", project, pending_delete=True)


def delete_project(it: Session, project: int | None = None) -> None:
    """Delete a project, with its jobs or, as GitLab's loose foreign keys do, before them."""
    if not (project := project or it.pick("projects")):
        return
    own = it.value("SELECT project_namespace_id FROM projects WHERE id = %s", project)
    if it.chance(0.7):
        it.rows("DELETE FROM p_ci_builds WHERE project_id = %s", project)
    it.rows("DELETE FROM routes WHERE source_type = 'Project' AND source_id = %s", project)
    it.rows("DELETE FROM members WHERE source_type = 'Project' AND source_id = %s", project)
    it.delete("projects", project)
    it.delete("namespaces", own)


def delete_orphaned_jobs(it: Session) -> None:
    """Delete what a loose foreign key left behind."""
    known = [row["id"] for row in it.rows("SELECT id FROM projects")]
    it.rows("DELETE FROM p_ci_builds WHERE project_id <> ALL (%s)", known)


def delete_group(it: Session, group: int | None = None) -> None:
    """Delete a group with everything below it."""
    group = group or it.pick(GROUPS)
    below: list[Row] = it.rows(BELOW, group)
    if len(below) > 3 or it.value(f"SELECT count(*) FROM {GROUPS}") < 8:
        return
    for row in below:
        for project in it.rows("SELECT id FROM projects WHERE namespace_id = %s", row["id"]):
            delete_project(it, project["id"])
        if it.chance(0.8):  # else members of nothing stay behind
            it.rows(
                "DELETE FROM members WHERE source_type = 'Namespace' AND source_id = %s", row["id"]
            )
        it.rows("DELETE FROM project_group_links WHERE group_id = %s", row["id"])
        it.rows("DELETE FROM routes WHERE source_type = 'Namespace' AND source_id = %s", row["id"])
        it.delete("namespaces", row["id"])


def touch(it: Session) -> None:
    """Write rows without a change of ours, beside values that are stored apart."""
    it.update("projects", it.pick("projects"), last_activity_at="2026-01-02 03:04:05")
    it.rows("UPDATE namespaces SET updated_at = now(), name = name WHERE id = %s", it.pick(GROUPS))
    it.insert("issues", title=it.name("issue "), description=it.text(2000))


WEIGHTS: dict[Act, int] = {
    new_subgroup: 3, new_root: 1, new_project: 3, move_group: 3, late_traversal_ids: 1,
    move_project: 3, rename_group: 2, swap_paths: 1, lock_shares: 3, pending_delete: 1,
    delete_project: 1, delete_orphaned_jobs: 1, delete_group: 1, touch: 3,
}  # fmt: skip
