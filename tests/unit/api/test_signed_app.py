"""The application with keys of job tokens: it reads them at the start and watches them."""

import time
from pathlib import Path

import httpx
import pytest

from api.app import create_api
from api.lookup import PATH
from projector.errors import SettingsError
from projector.store import schema
from projector.store.schema import Version, ViewRecord
from tests.job_tokens import ISSUER, JOB, claims_of, signing_key
from tests.unit.api.api_world import BODY, EPOCH, ApiWorld, running

KEY = signing_key(0)


@pytest.fixture
def key_file(api_world: ApiWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (file := tmp_path / "key.pem").write_bytes(KEY.pem)
    monkeypatch.setenv("PROJECTOR_JOB_TOKEN_KEYS", str(file))
    monkeypatch.setenv("PROJECTOR_JOB_TOKEN_ISSUER", ISSUER)
    monkeypatch.setattr("projector.config.watched_files.WATCH_INTERVAL_S", 0.005)
    return file


async def test_a_signed_token_is_answered_and_its_key_is_watched(
    api_world: ApiWorld, key_file: Path
) -> None:
    record = ViewRecord(200, 1, Version(EPOCH, 2), BODY).encode()
    await api_world.writer.set(schema.job_key(JOB), record)
    headers = {"Job-Token": KEY.token(**claims_of(JOB, round(time.time())))}
    app = create_api()
    transport = httpx.ASGITransport(app)
    async with running(app), httpx.AsyncClient(transport=transport, base_url="http://t") as http:
        api_world.http = http
        await api_world.fresh(200)
        reply = await http.get(PATH, headers=headers)
        assert (reply.status_code, reply.content) == (200, BODY)
        assert (
            'projector_api_signed_tokens_total{result="verified"}'
            in (await http.get("/metrics")).text
        )
        # Renamed into its place: a file that is half written would be another reason.
        (other := key_file.with_suffix(".new")).write_bytes(signing_key(1).pem)
        other.rename(key_file)
        deadline = time.monotonic() + 5
        while reply.status_code == 200 and time.monotonic() < deadline:
            reply = await http.get(PATH, headers=headers)
        assert "not configured here" in reply.json()["reason"]


def test_the_application_does_not_start_with_a_key_that_cannot_be_used(key_file: Path) -> None:
    key_file.write_text("s3cr3t")
    with pytest.raises(SettingsError, match="not in PEM format"):
        create_api()
