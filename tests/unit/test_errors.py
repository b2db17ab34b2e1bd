"""The tree of exceptions, and that outages of this product's own are treated as such."""

import ast
import re
from pathlib import Path

import pytest
import typer

from projector import errors
from projector.cli.terminal import OUTAGE, WRONG, run_command
from projector.clients.retry import OUTAGES, retry_outages
from projector.config.settings import Settings
from projector.errors import OperatorError, ProjectorError, RangeError, TemporaryError

SOURCE = Path(__file__).parents[2] / "src"
LINE = re.compile(r"^(?P<indent> *)(?P<name>\w+Error)\b", re.MULTILINE)


def documented() -> dict[str, str | None]:
    """Each exception of the docstring's tree, and the one that it is indented below."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    tree = (errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    for line in LINE.finditer(tree):
        depth, name = len(line["indent"]), line["name"]
        above = [each for each in above if each[0] < depth]
        parents[name] = above[-1][1] if above else None
        above.append((depth, name))
    return parents


def test_the_docstring_shows_the_tree_as_it_is() -> None:
    classes = {
        name: None if name == "ProjectorError" else value.__bases__[0].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type)
    }
    assert documented() == classes


def test_every_other_exception_is_named_with_its_module() -> None:
    elsewhere = set[tuple[str, str]]()
    for path in SOURCE.rglob("*.py"):
        module = str(path.relative_to(SOURCE).with_suffix("")).removeprefix("projector/")
        elsewhere |= {
            (node.name, module)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef)
            and module != "errors"
            and not node.name.startswith("_")
            and re.search(r"(Error|Exception)\b", " ".join(map(ast.unparse, node.bases)))
        }
    named = re.findall(r"`(\w+)`\s+in\s+([a-z_/]+)", errors.__doc__ or "")
    assert elsewhere == set(named)


def test_only_operator_errors_wait_for_an_operator() -> None:
    assert issubclass(TemporaryError, OUTAGES)
    assert not issubclass(OperatorError, OUTAGES)
    assert issubclass(errors.NotReadyError, OperatorError)


async def test_a_temporary_error_is_retried() -> None:
    attempts: list[int] = []

    @retry_outages
    async def read() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise RangeError("no progress")
        return "read"

    assert await read() == "read"
    assert len(attempts) == 3


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (TemporaryError("no answer"), OUTAGE, "Kafka at k:1 cannot be reached: no answer\n"),
        (OperatorError("set x"), WRONG, "set x\n"),
    ],
    ids=repr,
)
def test_a_command_ends_with_the_status_of_its_error(
    capsys: pytest.CaptureFixture[str], error: ProjectorError, status: int, says: str
) -> None:
    async def work() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        run_command(Settings(kafka="k:1"), work())
    assert (ended.value.exit_code, capsys.readouterr().err) == (status, says)
