"""Users, their memberships, and groups that are shared with groups and projects."""

from typing import Any

from tests.integration.gitlab.company.session import Session
from tests.integration.gitlab.company.tree import GROUPS, Act, delete_project, new_personal

LEVELS = (5, 10, 15, 20, 25, 30, 40, 50)
# Mostly levels at which a change shows in the list of agents.
USUAL = (20, 30, 30, 40, 40, 50)
# A day before and after today are different days in every time zone, and on both sides of a run.
DAYS = (None, None, None, "-400 days", "-1 day", "0 days", "2 days", "400 days")
STATES = ("blocked", "blocked_pending_approval", "deactivated", "ldap_blocked", "banned")
NAMES = ("o'neill", "zoë", "漢字", "x" * 200, "a.b-c_d")


def day(it: Session, days: str | None) -> Any:
    return days and it.value("SELECT ((now() AT TIME ZONE 'UTC')::date + %s::interval)::date", days)


def a_level(it: Session) -> int:
    return it.choice(*USUAL) if it.chance(0.7) else it.choice(*LEVELS)


def new_user(it: Session) -> int:
    name = it.name("u") if it.chance(0.8) else f"{it.choice(*NAMES)}{it.name('')}"
    user = it.insert("users", username=name, email=it.name("mail"), name="N", state="active")
    if it.chance(0.3):
        new_personal(it, user)
    return user


def rename_user(it: Session) -> None:
    it.update("users", it.pick("users"), username=it.name("renamed"))


def block(it: Session) -> None:
    """Block an active user, or make one of the others active again."""
    if (user := it.pick("users WHERE state <> 'active'")) and it.chance(0.6):
        it.update("users", user, state="active")
    else:
        it.update("users", it.pick("users"), state=it.choice(*STATES))


def delete_user(it: Session) -> None:
    """Delete a user with all memberships; jobs keep a number that is nobody's, or none."""
    if it.value("SELECT count(*) FROM users") < 15:
        return
    user = it.pick("users")
    for space in it.rows("SELECT id FROM namespaces WHERE owner_id = %s", user):
        for project in it.rows("SELECT id FROM projects WHERE namespace_id = %s", space["id"]):
            delete_project(it, project["id"])
        it.rows(
            "DELETE FROM routes WHERE source_type = 'Namespace' AND source_id = %s", space["id"]
        )
        it.delete("namespaces", space["id"])
    it.delete("users", user)
    if it.chance(0.5):
        it.rows("UPDATE p_ci_builds SET user_id = NULL WHERE user_id = %s", user)


def touch_user(it: Session) -> None:
    it.rows("UPDATE users SET last_activity_on = now()::date WHERE id = %s", it.pick("users"))


def join(it: Session, **columns: Any) -> None:
    """Make somebody a member of a group or project, perhaps asked for, invited or for a time."""
    in_group = it.chance(0.75)
    source = it.pick(GROUPS) if in_group else it.pick("projects")
    if source is None:
        return
    known: dict[str, Any] = {
        "access_level": a_level(it),
        "source_id": source,
        "source_type": "Namespace" if in_group else "Project",
        "type": "GroupMember" if in_group else "ProjectMember",
        "user_id": it.pick("users"),
        "requested_at": "2026-01-01" if it.chance(0.08) else None,
        "expires_at": day(it, it.choice(*DAYS)),
        "state": 1 if it.chance(0.05) else it.choice(0, 0, 0, None),
    }
    if it.chance(0.08):
        known |= {"user_id": None, "invite_email": it.name("invited")}
    it.insert("members", **known | columns)


def accept_invitation(it: Session) -> None:
    if member := it.pick("members WHERE user_id IS NULL"):
        it.update("members", member, user_id=it.pick("users"), invite_email=None)


def approve(it: Session) -> None:
    """Grant a request, or let somebody in who waits for a seat."""
    if member := it.pick("members WHERE requested_at IS NOT NULL OR state = 1"):
        it.update("members", member, requested_at=None, state=0)


def leave(it: Session) -> None:
    it.delete("members", it.pick("members"))


def empty_group(it: Session) -> None:
    it.rows(
        "DELETE FROM members WHERE source_type = 'Namespace' AND source_id = %s", it.pick(GROUPS)
    )


def change_level(it: Session) -> None:
    it.update("members", it.pick("members"), access_level=a_level(it))


def change_expiry(it: Session) -> None:
    table = it.choice("members", "members", "group_group_links", "project_group_links")
    if row := it.pick(table):
        it.update(table, row, expires_at=day(it, it.choice(*DAYS)))


def remove_expired(it: Session) -> None:
    """Do what GitLab's nightly job does."""
    it.rows("DELETE FROM members WHERE expires_at < (now() AT TIME ZONE 'UTC')::date")


def touch_member(it: Session) -> None:
    it.rows("UPDATE members SET notification_level = 1 WHERE id = %s", it.pick("members"))


def share_group(it: Session) -> None:
    shared, invited = it.pick(GROUPS), it.pick(GROUPS)
    if shared != invited:
        it.rows(
            "INSERT INTO group_group_links (shared_group_id, shared_with_group_id, group_access,"
            " expires_at) VALUES (%s, %s, %s, %s) ON CONFLICT (shared_group_id,"
            " shared_with_group_id) DO UPDATE SET group_access = excluded.group_access",
            shared, invited, a_level(it), day(it, it.choice(*DAYS)),
        )  # fmt: skip


def unshare_group(it: Session) -> None:
    it.delete("group_group_links", it.pick("group_group_links"))


def share_project(it: Session) -> None:
    if project := it.pick("projects"):
        it.insert(
            "project_group_links", project_id=project, group_id=it.pick(GROUPS),
            group_access=a_level(it), expires_at=day(it, it.choice(*DAYS)),
        )  # fmt: skip


def unshare_project(it: Session) -> None:
    it.delete("project_group_links", it.pick("project_group_links"))


def change_share(it: Session) -> None:
    table = it.choice("group_group_links", "project_group_links")
    if link := it.pick(table):
        it.update(table, link, group_access=a_level(it))


WEIGHTS: dict[Act, int] = {
    new_user: 2, rename_user: 2, block: 3, delete_user: 1, touch_user: 2, join: 20,
    accept_invitation: 2, approve: 3, leave: 6, empty_group: 1, change_level: 7, change_expiry: 4,
    remove_expired: 1, touch_member: 2, share_group: 6, unshare_group: 3, share_project: 6,
    unshare_project: 3, change_share: 4,
}  # fmt: skip
