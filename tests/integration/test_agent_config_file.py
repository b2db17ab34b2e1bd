"""An agent's `config.yaml`, fed by the command and answered over HTTP."""

from typing import Any

import pytest

from tests import builders
from tests.integration.deployment import Deployment
from tests.integration.servers import eventually

FILE = """\
ci_access:
  projects:
    - id: Acme/Shop
      default_namespace: shop
"""
ROOTS = ["3", "40"]


def fed(deployment: Deployment, text: str) -> tuple[int, str]:
    done = deployment.command(
        "feed", "--agent-config", "-", "--agent", "5", "--name", "production", "--project", "30",
        "--partitionkey", "3", stdin=text,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def namespace(root: str) -> list[dict[str, Any]]:
    job = int(root) + 7
    return [
        builders.event("project.set", {"id": job, "group_id": None, "path": "acme/shop"}, root),
        builders.project(int(root) * 10, root=root),
        builders.member(1, project_id=job, root=root),
        builders.started(job, job, token=f"token-{root}", root=root),
    ]


@pytest.mark.parametrize("kafka", ["embedded"], indirect=True)
def test_a_file_grants_and_shares_with_the_instance_for_as_long_as_it_says_so(
    deployment: Deployment,
) -> None:
    """Two root namespaces in two partitions: one has a grant, both share the instance's agent."""
    deployment.start_all()
    deployment.feed(*(message for root in ROOTS for message in namespace(root)))

    def configurations() -> list[list[dict[str, str]]]:
        bodies = [deployment.until(f"token-{root}", 200).body for root in ROOTS]
        return [[agent["configuration"] for agent in body["allowed_agents"]] for body in bodies]

    shop = {"default_namespace": "shop"}
    assert fed(deployment, FILE) == (0, "3 events acknowledged by Kafka\n")
    eventually(lambda: configurations() == [[shop], []], "granted to the project")
    assert fed(deployment, FILE + "  instance: {default_namespace: ci}\n")[0] == 0
    both = [[shop], [{"default_namespace": "ci"}]]
    eventually(lambda: configurations() == both, "shared with the instance")
    code, output = fed(deployment, FILE + "  groups: 7\n")
    assert (code, output) == (2, "-:5: `ci_access.groups` must be a list\nnothing was sent\n")
    code, output = fed(deployment, FILE + "      protected_branch_only: true\n")
    assert (code, output) == (
        2,
        "-:5: `protected_branch_only` in an entry of `ci_access.projects` is unknown; "
        "did you mean `protected_branches_only`?\nnothing was sent\n",
    )
    assert fed(deployment, "ci_access:\n")[0] == 0
    eventually(lambda: configurations() == [[], []], "no longer granted or shared")
