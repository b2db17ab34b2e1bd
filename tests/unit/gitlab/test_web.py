"""The bridge's web page, and the port that it cannot have."""

import errno

import pytest
from aiohttp import web as aiohttp_web
from pydantic import SecretStr

from projector.config.gitlab_settings import GitlabSettings
from projector.errors import WebPortError
from projector.gitlab import web


async def test_a_port_that_is_taken_at_the_last_moment_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def taken(_site: object) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    monkeypatch.setattr(aiohttp_web.TCPSite, "start", taken)
    settings = GitlabSettings(database=SecretStr("host=db dbname=gitlab"))
    with pytest.raises(WebPortError, match=r"already in use.*PROJECTOR_GITLAB_WEB_PORT"):
        async with web.serving(settings, dict):
            pass
