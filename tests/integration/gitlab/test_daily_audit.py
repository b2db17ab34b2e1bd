"""The daily audit of the guide: an export from GitLab against the facts of the workers."""

from tests import builders
from tests.integration.gitlab.bridged import CLEAN
from tests.integration.gitlab.conftest import NewBridged

GONE = "999999"


def test_facts_of_a_root_namespace_that_gitlab_does_not_have_are_found_and_repaired(
    new_bridged: NewBridged,
) -> None:
    it = new_bridged()
    it.start()
    it.audit()
    it.deployment.feed(
        builders.group(int(GONE), root=GONE),
        builders.member(1, "owner", group_id=int(GONE), root=GONE),
    )
    it.settle()
    export = it.deployment.command("gitlab", "export", "--state", str(it.state))
    assert export.returncode == 0, export.stderr
    exact = ("--clock-skew", "0", "-")
    # The namespaces of the export alone: what is gone is in none of them.
    assert CLEAN in it.deployment.command("audit", *exact, stdin=export.stdout).stdout
    found = it.deployment.command("audit", "--all", *exact, stdin=export.stdout)
    assert found.returncode == 1
    assert "0 missing, 2 extra, 0 different" in found.stdout
    repaired = it.deployment.command("audit", "--all", "--repair", *exact, stdin=export.stdout)
    assert repaired.returncode == 0, repaired.stderr
    it.audit()
