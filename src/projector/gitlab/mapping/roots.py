"""The root namespace of each namespace, by `parent_id`.

GitLab's own `traversal_ids` are not used: other transactions may write them later. A namespace
whose ancestors are not all there, or are a circle, has no root.
"""

import sqlite3

_MOVED = """SELECT c.id FROM changed_namespaces c LEFT JOIN namespaces n ON n.id = c.id
    GROUP BY c.id HAVING n.root IS NULL OR count(*) % 2 = 1
    OR min(c.parent_id) IS NOT max(c.parent_id) OR count(c.parent_id) NOT IN (0, count(*))"""
_BELOW_MOVED = f"""INSERT INTO reparented WITH RECURSIVE below (id) AS ({_MOVED}
    UNION SELECT n.id FROM below CROSS JOIN namespaces n ON n.parent_id = below.id)
    SELECT id FROM below"""
_ALL = "INSERT INTO reparented SELECT id FROM namespaces"

# Begins where the parent stays as it was. A circle has no such place, so its roots stay NULL.
_NEW_ROOTS = """INSERT INTO new_roots WITH RECURSIVE found (id, root) AS (
    SELECT n.id, CASE WHEN n.parent_id IS NULL THEN CAST(n.id AS TEXT) ELSE p.root END
        FROM reparented r CROSS JOIN namespaces n ON n.id = r.id
        LEFT JOIN namespaces p ON p.id = n.parent_id
        WHERE n.parent_id IS NULL OR n.parent_id NOT IN (SELECT id FROM reparented)
    UNION ALL SELECT n.id, f.root FROM found f CROSS JOIN namespaces n ON n.parent_id = f.id)
    SELECT id, root FROM found"""
# A row that went and came back in one batch has lost the root that it had.
_REROOTED = """INSERT INTO rerooted SELECT r.id FROM reparented r
    LEFT JOIN namespaces n ON n.id = r.id LEFT JOIN new_roots f ON f.id = r.id
    WHERE n.id IS NULL OR n.root IS NOT f.root
    OR n.root IS NULL AND r.id IN (SELECT id FROM changed_namespaces)"""
_STORE = """UPDATE namespaces SET root = (SELECT f.root FROM new_roots f WHERE f.id = namespaces.id)
    WHERE id IN (SELECT id FROM rerooted)"""


def create(db: sqlite3.Connection) -> None:
    """Create the temporary tables of namespaces that moved."""
    db.execute("CREATE TEMP TABLE reparented (id INTEGER PRIMARY KEY)")
    db.execute("CREATE TEMP TABLE rerooted (id INTEGER PRIMARY KEY)")
    db.execute("CREATE TEMP TABLE new_roots (id INTEGER PRIMARY KEY, root TEXT)")


def follow_moves(db: sqlite3.Connection) -> set[str]:
    """Work out roots below all that moved; return those of `reparented`, `rerooted` with rows."""
    return _work_out(db, _BELOW_MOVED)


def work_out_all(db: sqlite3.Connection) -> None:
    """Work out the roots of all namespaces."""
    _work_out(db, _ALL)
    forget(db)


def forget(db: sqlite3.Connection) -> None:
    """Empty the temporary tables."""
    for table in ("reparented", "rerooted", "new_roots"):
        db.execute(f"DELETE FROM {table}")


def _work_out(db: sqlite3.Connection, reparented: str) -> set[str]:
    if not db.execute(reparented).rowcount:
        return set()
    db.execute(_NEW_ROOTS)
    rerooted = db.execute(_REROOTED).rowcount
    db.execute(_STORE)
    return {"reparented", "rerooted"} if rerooted else {"reparented"}
