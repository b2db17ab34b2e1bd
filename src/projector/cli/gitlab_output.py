"""`projector gitlab check` and `export`: findings on a terminal, and lines of events.

Names in GitLab's database are not trusted: control characters are escaped.
"""

import sys
import textwrap
from pathlib import Path
from typing import Final

import typer

from projector.cli.terminal import OUTAGE, WRONG, fail, run_command
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import OperatorError
from projector.gitlab.export import exported
from projector.gitlab.kafka_check import check_kafka
from projector.gitlab.setup.check import Checked, UnreachableError, check
from projector.gitlab.setup.findings import SQL, Finding
from projector.gitlab.setup.setup_script import script
from projector.log import escape_control_chars

# The beginnings of what the script for the administrator has too.
SCRIPTED: Final = ("GRANT", "ALTER ROLE", "CREATE ROLE", "CREATE PUBLICATION", "ALTER PUBLICATION")


def print_script(gitlab: GitlabSettings) -> None:
    """Print the SQL for the administrator."""
    try:
        typer.echo(script(gitlab), nl=False)
    except OperatorError as error:
        fail(WRONG, str(error))


def print_check(settings: Settings, gitlab: GitlabSettings) -> None:
    """Print all findings; end with an exit code unless the bridge can run."""
    must: list[Finding] = []
    try:
        for checked in check(gitlab):
            must += _print(checked)
    except UnreachableError as error:
        typer.echo(as_text(error.finding))
        raise typer.Exit(OUTAGE) from None
    except OperatorError as error:
        fail(WRONG, str(error))
    must += _print(Checked("Kafka", run_command(settings, check_kafka(settings, gitlab))))
    if must:
        typer.echo(_summary(must))
        raise typer.Exit(WRONG)
    typer.echo("the bridge can run")


def print_export(gitlab: GitlabSettings, state: Path | None) -> None:
    """Print the lines of an export, once all tables are read."""
    try:
        with exported(gitlab, state) as lines:
            for line in lines:
                sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    except UnreachableError as error:
        fail(OUTAGE, str(error))
    except OperatorError as error:
        fail(WRONG, str(error))


def _print(checked: Checked) -> list[Finding]:
    """Print the findings at one place; return those that must be mended."""
    for finding in checked.findings:
        typer.echo(as_text(finding))
    return [finding for finding in checked.findings if not finding.is_hint]


def _summary(must: list[Finding]) -> str:
    statements = (text for each in must for place, text in each.remedies if place == SQL)
    if not any(text.startswith(SCRIPTED) for text in statements):
        return f"{len(must)} to mend"
    return (
        f"{len(must)} to mend; `projector gitlab check --sql` prints role, rights and publication"
    )


def as_text(finding: Finding) -> str:
    """Write the sentence on one line, and below it what mends it."""
    lines = [f"hint: {finding.sentence}" if finding.is_hint else finding.sentence]
    for place, text in finding.remedies:
        escaped = "\n".join(map(escape_control_chars, text.splitlines()))
        lines += [f"    {place}:", textwrap.indent(escaped, " " * 8)]
    return "\n".join([escape_control_chars(lines[0]), *lines[1:]])
