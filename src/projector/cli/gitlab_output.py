"""`projector gitlab check` and `export`: findings on a terminal, and lines of events.

Names in GitLab's database are not trusted: control characters are escaped.
"""

import sys
import textwrap
from pathlib import Path

import typer

from projector.cli.terminal import OUTAGE, WRONG, fail, run_command
from projector.config.gitlab_settings import GitlabSettings
from projector.config.settings import Settings
from projector.errors import OperatorError
from projector.gitlab.export import exported
from projector.gitlab.kafka_check import check_kafka
from projector.gitlab.setup.check import Checked, UnreachableError, check
from projector.gitlab.setup.findings import Finding
from projector.gitlab.setup.setup_script import script
from projector.log import escape_control_chars


def print_script(gitlab: GitlabSettings) -> None:
    """Print the SQL for the administrator."""
    try:
        typer.echo(script(gitlab), nl=False)
    except OperatorError as error:
        fail(WRONG, str(error))


def print_check(settings: Settings, gitlab: GitlabSettings) -> None:
    """Print all findings; end with an exit code unless the bridge can run."""
    must = 0
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
        typer.echo(f"{must} to mend; `projector gitlab check --sql` prints all of the SQL")
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


def _print(checked: Checked) -> int:
    """Print the findings at one place; return how many must be mended."""
    for finding in checked.findings:
        typer.echo(as_text(finding))
    return sum(not finding.is_hint for finding in checked.findings)


def as_text(finding: Finding) -> str:
    """Write the sentence on one line, and below it what mends it."""
    lines = [f"hint: {finding.sentence}" if finding.is_hint else finding.sentence]
    for place, text in finding.remedies:
        escaped = "\n".join(map(escape_control_chars, text.splitlines()))
        lines += [f"    {place}:", textwrap.indent(escaped, " " * 8)]
    return "\n".join([escape_control_chars(lines[0]), *lines[1:]])
