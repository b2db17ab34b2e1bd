"""What `projector dev` says of servers that it does not bring itself."""

import pytest

from projector.dev import place_of


@pytest.mark.parametrize("setting", ["kafka", "redis_url"])
def test_a_server_of_ones_own_is_named_with_the_variable_that_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    name = f"PROJECTOR_{setting.upper()}"
    monkeypatch.delenv(name, raising=False)
    assert place_of(setting, "h:1") == "h:1"
    monkeypatch.setenv(name, "h:1")
    assert place_of(setting, "h:1") == (
        f"h:1 (not embedded, because {name} is set; unset it to have it embedded)"
    )
