"""The page's address, as `projector ops` logs it."""

import pytest

from api.ops.app import page_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8001/ops/"),
        ("0.0.0.0", "http://localhost:8001/ops/"),
        ("::", "http://localhost:8001/ops/"),
        ("::1", "http://[::1]:8001/ops/"),
        ("ops.internal", "http://ops.internal:8001/ops/"),
    ],
)
def test_the_address_can_be_opened_in_a_browser(host: str, url: str) -> None:
    assert page_url(host, 8001) == url
