"""The OpenAPI documents, held against the services by schemathesis.

It draws requests from the document, right ones and wrong ones, and compares each answer with it.
Its own packages are in the cache of `scripts/producers`: they are too many for `requirements.lock`.
"""

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.absence import skip_test
from tests.integration.ingest import TOKEN, Ingest
from tests.integration.servers import eventually
from tests.integration.test_producers import Company, agents_of, clients

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
# The document of the ingest has thousands of cases; these seconds try some hundred of them.
INGEST = ("--max-time", "20")
# The one of the lookups has few.
LOOKUPS = ("--max-examples", "20")


@pytest.fixture(scope="module")
def schemathesis() -> str:
    """Return the path of the program; skip without it."""
    if not (clients() / "python-schemathesis.complete").exists():
        skip_test("NO TEST HOLDS THE OPENAPI DOCUMENTS: no schemathesis; run `make producers`")
    return str(clients() / "python-schemathesis" / "bin" / "schemathesis")


def check(program: str, folder: Path, url: str, header: str, *options: str) -> None:
    """Run schemathesis against a service; fail with its report. It writes into the folder."""
    done = subprocess.run(
        [
            program, "run", f"{url}/openapi.json", "--header", header, "--seed", "1",
            "--checks", ",".join(CHECKS), *options,
            "--generation-database", "none", "--warnings", "off", "--no-color",
        ],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_ingest_keeps_to_its_openapi_document(
    ingest: Ingest, schemathesis: str, tmp_path: Path
) -> None:
    check(schemathesis, tmp_path, ingest.url, f"Authorization: Bearer {TOKEN}", *INGEST)
    assert ingest.answered(204) > 0
    assert ingest.answered(400) > 0


def test_the_lookups_keep_to_their_openapi_document(
    ingest: Ingest, schemathesis: str, tmp_path: Path
) -> None:
    company = Company(6000)
    ingest.product.feed(*company.events())
    eventually(lambda: agents_of(ingest.product, company) == company.agents, "all agents", 30)
    check(schemathesis, tmp_path, ingest.product.api, f"Job-Token: {company.token}", *LOOKUPS)


def test_the_log_of_the_ingest_has_nothing_of_a_body(ingest: Ingest) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/cloudevents+json"}
    for body in '{"secret-of-a-body"', '{"type": "secret-of-a-body"}':
        answer = httpx.post(f"{ingest.url}/events", content=body, headers=headers, timeout=10)
        assert answer.status_code == 400
    assert "secret-of-a-body" not in ingest.server.log()
