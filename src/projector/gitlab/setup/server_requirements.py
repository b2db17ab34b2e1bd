"""Requirements of the server, its settings, the role, and the slot."""

from collections.abc import Callable, Iterator
from typing import Final

from projector.config.env import GITLAB, variable_name
from projector.gitlab.setup.findings import (
    ENVIRONMENT,
    Finding,
    Remedy,
    finding,
    hint,
    name,
    statement,
)
from projector.gitlab.setup.setup_reading import OLDEST_VERSION, ServerSetup, Setup, Slot

Findings = Iterator[Finding]
RESTART: Final = "-- then restart PostgreSQL"
RELOAD: Final = "SELECT pg_reload_conf();"


def _version(server: ServerSetup) -> Findings:
    if server.version < OLDEST_VERSION:
        yield Finding(
            f"PostgreSQL is {server.version_name}, and the bridge needs 14 or newer; upgrade it."
        )


def _primary(server: ServerSetup) -> Findings:
    if server.standby:
        sentence = "This server is a standby, whose rows may be old; connect to the primary."
        yield Finding(sentence, (_database_variable(server, "the primary"),))


def _schema(server: ServerSetup) -> Findings:
    if not server.may_use_schema:
        yield finding(
            f"The role {server.user} may not use the schema public.",
            statement("GRANT USAGE ON SCHEMA public TO {role};", role=name(server.user)),
        )


def _database_variable(server: ServerSetup, what: str) -> Remedy:
    variable = variable_name(GITLAB + "database")
    return Remedy(ENVIRONMENT, f"{variable}=host=<{what}> dbname={server.database} …")


def pooled(server: ServerSetup, client_pid: int) -> Findings:
    """Find a pooler between: it makes up the process id that clients get at the start."""
    if server.backend_pid != client_pid:
        yield Finding(
            "Something like PgBouncer is between the bridge and PostgreSQL, and replication and "
            "snapshots do not pass it; connect to PostgreSQL itself.",
            (_database_variable(server, "PostgreSQL itself, often port 5432"),),
        )


def _encoding(server: ServerSetup) -> Findings:
    if server.encoding != "UTF8":
        yield Finding(
            f"The database {server.database} has the encoding {server.encoding}, and GitLab's is "
            "UTF8; it may be the wrong database."
        )


def _superuser(setup: Setup) -> Findings:
    if setup.server.superuser:
        right = "REPLICATION" if setup.wanted.streams else "NOREPLICATION"
        yield hint(
            f"The role {setup.server.user} is a superuser, which the bridge does not need.",
            statement(f"ALTER ROLE {{role}} NOSUPERUSER {right};", role=name(setup.server.user)),
        )


def _replication(setup: Setup) -> Findings:
    if setup.wanted.streams and not setup.server.replication:
        yield finding(
            f"The role {setup.server.user} may not replicate.",
            statement("ALTER ROLE {role} REPLICATION;", role=name(setup.server.user)),
        )


def _wal_level(setup: Setup) -> Findings:
    level = setup.settings["wal_level"]
    if setup.wanted.streams and level != "logical":
        yield finding(
            f"wal_level is {level}, so PostgreSQL does not log what logical replication needs "
            "(Omnibus: postgresql['wal_level'] = 'logical' in gitlab.rb).",
            f"ALTER SYSTEM SET wal_level = 'logical';  {RESTART}",
        )


def _free_slots(setup: Setup) -> Findings:
    most, used = int(setup.settings["max_replication_slots"]), len(setup.slots)
    if setup.wanted.streams and used >= most and _slot(setup) is None:
        yield finding(
            f"max_replication_slots is {most} with {used} in use, and the bridge needs one more "
            "(Omnibus: postgresql['max_replication_slots'] in gitlab.rb).",
            f"ALTER SYSTEM SET max_replication_slots = {used + 2};  {RESTART}",
        )


def _free_senders(setup: Setup) -> Findings:
    most, slot = int(setup.settings["max_wal_senders"]), _slot(setup)
    is_ours = slot is not None and slot.active_pid is not None
    if setup.wanted.streams and setup.senders >= most and not is_ours:
        yield finding(
            f"max_wal_senders is {most} with {setup.senders} in use, and the bridge needs one "
            "more, and another for a moment (Omnibus: postgresql['max_wal_senders']).",
            f"ALTER SYSTEM SET max_wal_senders = {setup.senders + 2};  {RESTART}",
        )


def _bounded_wal(setup: Setup) -> Findings:
    if setup.wanted.streams and setup.settings["max_slot_wal_keep_size"] == "-1":
        yield finding(
            "max_slot_wal_keep_size is -1, so a bridge that stands still would fill GitLab's disk "
            "(Omnibus: postgresql['max_slot_wal_keep_size'] = '10GB' in gitlab.rb).",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';",
            RELOAD,
        )


def _slot(setup: Setup) -> Slot | None:
    return next((slot for slot in setup.slots if slot.slot_name == setup.wanted.slot), None)


def _foreign_slot(setup: Setup) -> Findings:
    slot = _slot(setup)
    if not setup.wanted.streams or slot is None:
        return
    if slot.plugin == "pgoutput" and slot.database == setup.server.database:
        return
    owner = f"the plugin {slot.plugin} in the database {slot.database}"
    if slot.plugin is None:
        owner = "physical replication"
    variable = variable_name(GITLAB + "slot")
    drop = "SELECT pg_drop_replication_slot({slot});  -- or set {variable} to another name"
    yield finding(
        f"The replication slot {setup.wanted.slot} belongs to {owner}, not to the bridge.",
        statement(drop.replace("{variable}", variable), slot=setup.wanted.slot),
    )


def _slot_in_use(setup: Setup) -> Findings:
    slot = _slot(setup)
    if setup.wanted.streams and slot is not None and slot.active_pid is not None:
        yield hint(
            f"The replication slot {setup.wanted.slot} is in use by process {slot.active_pid}, so "
            "another bridge runs, and a second one waits until that ends."
        )


def _lost_slot(setup: Setup) -> Findings:
    slot = _slot(setup)
    if setup.wanted.streams and slot is not None and slot.wal_status == "lost":
        yield hint(
            f"The replication slot {setup.wanted.slot} has lost its WAL, so the bridge will take a "
            "new snapshot when it starts."
        )


def _blockers(setup: Setup) -> Findings:
    if setup.blockers and _slot(setup) is None:
        count = len(setup.blockers)
        yield hint(
            f"{count} open transaction{'' if count == 1 else 's'} would hold up the bridge's "
            "first snapshot for as long as they last.",
            *setup.blockers,
        )


def _setting(setup: Setup) -> Findings:
    if setup.setting_readable is False:
        yield hint(
            f"The role {setup.server.user} may not read the setting that lets agents serve other "
            "groups or the whole instance, so the bridge takes it as off.",
            statement(
                "GRANT SELECT (id, cluster_agents) ON public.application_settings TO {role};",
                role=name(setup.server.user),
            ),
        )


# Nothing else can be read unless these are met.
FIRST: Final[tuple[Callable[[ServerSetup], Findings], ...]] = (_version, _primary)
SERVER: Final[tuple[Callable[[ServerSetup], Findings], ...]] = (
    _encoding,
    _schema,
)
SETTINGS: Final[tuple[Callable[[Setup], Findings], ...]] = (
    _superuser,
    _replication,
    _wal_level,
    _free_slots,
    _free_senders,
    _bounded_wal,
    _foreign_slot,
    _slot_in_use,
    _lost_slot,
    _blockers,
    _setting,
)
