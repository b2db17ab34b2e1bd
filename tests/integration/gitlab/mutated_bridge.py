"""The bridge without one of its mechanisms, to prove that the judge notices.

    BRIDGE_MUTATION='["without_rule", "job: environments"]' \\
        python -m tests.integration.gitlab.mutated_bridge gitlab run
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from projector.cli import main as cli
from projector.config.settings import Settings
from projector.gitlab import lost_state
from projector.gitlab.mapping.dirty import RULES
from projector.gitlab.mapping.state import State
from projector.gitlab.postgres.replication import Replication

VARIABLE: Final = "BRIDGE_MUTATION"


def outbox_forgotten() -> None:
    """What was remembered and not yet sent when the bridge was killed is not sent again."""

    def forget(state: Any) -> None:
        with state._transaction():
            state._db.execute("DELETE FROM outbox")

    _after(State, "__init__", forget)


def remembered_after_sending() -> None:
    """From its second run on, the bridge sends, and is killed before it has stored what it sent.

    The marks of heartbeats and a confirmed slot would show it: neither is there.
    """
    opened = State.__init__

    async def none_was_sent(_settings: Settings) -> None:
        return None

    def open_a_copy(self: State, path: Path, **options: Any) -> None:
        copy = path.with_name("copy.db")
        for old in path.parent.glob(f"{copy.name}*"):
            old.unlink()
        for end in ("", "-wal"):
            if (file := path.with_name(path.name + end)).exists():
                shutil.copy(file, copy.with_name(copy.name + end))
        opened(self, copy if path.exists() else path, **options)

    _replace(State, "__init__", open_a_copy)
    _replace(State, "confirm", lambda *_: False)
    _replace(Replication, "confirm", lambda *_: None)
    _replace(lost_state, "read_last_sent", none_was_sent)


def told_forgotten_at_a_snapshot() -> None:
    """A snapshot sends what there is, and nothing about what has gone."""
    _after(State, "start_snapshot", lambda state: state._db.execute("DELETE FROM told"))


def without_rule(name: str) -> None:
    """One kind of change does not lead to one kind of event."""
    rules = [rule for rule in RULES if rule.name != name]
    assert len(rules) == len(RULES) - 1, f"there is no rule {name!r}: adapt the mutation"
    opened = State.__init__

    def open_without(self: State, *args: Any, **options: Any) -> None:
        opened(self, *args, **{**options, "rules": rules})

    _replace(State, "__init__", open_without)


def _after(owner: Any, name: str, act: Callable[[Any], object]) -> None:
    method = getattr(owner, name)

    def then_act(self: Any, *args: Any, **options: Any) -> Any:
        result = method(self, *args, **options)
        act(self)
        return result

    _replace(owner, name, then_act)


def _replace(owner: Any, name: str, by: Any) -> None:
    assert hasattr(owner, name), f"{owner} has no {name} any more: adapt the mutation"
    setattr(owner, name, by)


def main() -> None:
    """Mutate, then run the command line."""
    name, *arguments = json.loads(os.environ[VARIABLE])
    globals()[name](*arguments)
    cli.main()


if __name__ == "__main__":
    main()
