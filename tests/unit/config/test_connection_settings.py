"""Users, passwords and certificates as settings: what is wrong or contradictory is said at once."""

from pathlib import Path

import pytest

from projector.clients import kafka, redis_client
from projector.errors import SettingsError
from tests.unit.config.environment import SASL, SECRET, TLS, load

REDISS = {"REDIS_URL": "rediss://h:1/0"}


def refusal(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, variables)
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_a_password_comes_from_a_file_without_its_line_break(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    variables = {**SASL, "KAFKA_PASSWORD_FILE": pems["password"]}
    del variables["KAFKA_PASSWORD"]
    settings = load(monkeypatch, variables | {"REDIS_PASSWORD_FILE": pems["password"]})
    assert kafka.client_arguments(settings)["sasl_plain_password"] == SECRET
    how = redis_client.create_redis(settings).connection_pool.connection_kwargs
    assert how["password"] == SECRET


def test_the_settings_as_text_show_no_password(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    settings = load(monkeypatch, SASL | {"REDIS_PASSWORD_FILE": pems["password"]})
    assert settings.redis_secret
    for text in (repr(settings), str(settings), repr(vars(settings)), settings.model_dump_json()):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, ["PROJECTOR_KAFKA_SECURITY_PROTOCOL: input should"]),
        ({"KAFKA_SASL_MECHANISM": "GSSAPI"}, ["PROJECTOR_KAFKA_SASL_MECHANISM: input should be"]),
        (
            {"KAFKA_USERNAME": "u", "KAFKA_PASSWORD": SECRET},
            [
                "PROJECTOR_KAFKA_PASSWORD: has no effect with "
                "PROJECTOR_KAFKA_SECURITY_PROTOCOL=PLAINTEXT",
                "PROJECTOR_KAFKA_USERNAME: has no effect with "
                "PROJECTOR_KAFKA_SECURITY_PROTOCOL=PLAINTEXT",
            ],
        ),
        (
            TLS | {"KAFKA_SASL_MECHANISM": "PLAIN"},
            ["PROJECTOR_KAFKA_SASL_MECHANISM: has no effect with"],
        ),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"},
            [
                "PROJECTOR_KAFKA_USERNAME: is needed with",
                "PROJECTOR_KAFKA_PASSWORD: is needed with",
            ],
        ),
        (
            SASL | {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_CA_FILE": "{ca}"},
            ["PROJECTOR_KAFKA_CA_FILE: has no effect with"],
        ),
        (
            SASL | {"KAFKA_PASSWORD_FILE": "{password}"},
            ["PROJECTOR_KAFKA_PASSWORD_FILE: PROJECTOR_KAFKA_PASSWORD is set as well"],
        ),
        (SASL | {"KAFKA_PASSWORD": ""}, ["PROJECTOR_KAFKA_PASSWORD: value should have at least 1"]),
        (SASL | {"KAFKA_USERNAME": ""}, ["PROJECTOR_KAFKA_USERNAME: string should have at least"]),
        (
            {"REDIS_PASSWORD_FILE": "{nothing}"},
            ["PROJECTOR_REDIS_PASSWORD_FILE: {nothing} is empty"],
        ),
        (
            {"REDIS_PASSWORD_FILE": "{binary}"},
            ["PROJECTOR_REDIS_PASSWORD_FILE: {binary} cannot be read as text"],
        ),
        (
            TLS | {"KAFKA_CA_FILE": "{missing}"},
            ["PROJECTOR_KAFKA_CA_FILE: {missing}: No such file or directory"],
        ),
        (
            TLS | {"KAFKA_CA_FILE": "{key}"},
            ["PROJECTOR_KAFKA_CA_FILE: {key} does not hold a certificate in PEM format"],
        ),
        (
            TLS | {"KAFKA_CERTIFICATE_FILE": "{certificate}"},
            ["PROJECTOR_KAFKA_KEY_FILE: is needed with PROJECTOR_KAFKA_CERTIFICATE_FILE"],
        ),
        (
            TLS | {"KAFKA_KEY_FILE": "{key}"},
            ["PROJECTOR_KAFKA_CERTIFICATE_FILE: is needed with PROJECTOR_KAFKA_KEY_FILE"],
        ),
        (
            TLS | {"KAFKA_CERTIFICATE_FILE": "{certificate}", "KAFKA_KEY_FILE": "{other_key}"},
            [
                "PROJECTOR_KAFKA_CERTIFICATE_FILE: {certificate}, with PROJECTOR_KAFKA_KEY_FILE "
                "{other_key}, is not a certificate in PEM format with its own key"
            ],
        ),
        (
            REDISS | {"REDIS_CERTIFICATE_FILE": "{ca}", "REDIS_KEY_FILE": "{nothing}"},
            ["PROJECTOR_REDIS_CERTIFICATE_FILE: {ca}, with PROJECTOR_REDIS_KEY_FILE {nothing},"],
        ),
        (
            REDISS | {"REDIS_CA_FILE": "{nothing}"},
            ["PROJECTOR_REDIS_CA_FILE: {nothing} does not hold a certificate in PEM format"],
        ),
        (
            {"REDIS_CA_FILE": "{ca}"},
            ["PROJECTOR_REDIS_CA_FILE: has no effect unless PROJECTOR_REDIS_URL begins with red"],
        ),
        (
            {"REDIS_URL": f"redis://u:{SECRET}@h", "REDIS_PASSWORD": SECRET, "REDIS_USERNAME": "u"},
            [
                "PROJECTOR_REDIS_PASSWORD: PROJECTOR_REDIS_URL has a password as well",
                "PROJECTOR_REDIS_USERNAME: PROJECTOR_REDIS_URL has a user as well",
            ],
        ),
        (
            {"REDIS_URL": f"redis://h?password={SECRET}", "REDIS_PASSWORD_FILE": "{password}"},
            ["PROJECTOR_REDIS_PASSWORD_FILE: PROJECTOR_REDIS_URL has a password as well"],
        ),
        (
            {"REDIS_URL": "rediss://h:1/0?ssl_cert_reqs=none"},
            ["PROJECTOR_REDIS_URL: must not have options for TLS; certificates are always checked"],
        ),
        (
            {"REDIS_URL": "rediss://h:1/0?ssl_check_hostname="},
            ["PROJECTOR_REDIS_URL: must not have options for TLS"],
        ),
        (
            {"REDIS_URL": "redis://h:1/0?socket_timeout=60"},
            ["PROJECTOR_REDIS_URL: must not have the option 'socket_timeout'"],
        ),
        ({"REDIS_URL": "unix:///run/redis?db=x"}, ["PROJECTOR_REDIS_URL: must have the number"]),
        (
            {"REDIS_URL": f"redis+cluster://:{SECRET}@h:1", "REDIS_PASSWORD": SECRET},
            ["PROJECTOR_REDIS_PASSWORD: PROJECTOR_REDIS_URL has a password as well"],
        ),
        (
            {"REDIS_URL": "redis+sentinel://h:1/main", "REDIS_CA_FILE": "{ca}"},
            ["PROJECTOR_REDIS_CA_FILE: has no effect unless PROJECTOR_REDIS_URL begins with red"],
        ),
        ({"REDIS_URL": "REDISS://h:1/0"}, ["PROJECTOR_REDIS_URL: must begin with redis://"]),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_named(
    monkeypatch: pytest.MonkeyPatch,
    pems: dict[str, str],
    variables: dict[str, str],
    says: list[str],
) -> None:
    """An operator must not rely on a protection that is not in use."""
    filled = {name: value.format(**pems) for name, value in variables.items()}
    said = refusal(monkeypatch, filled).splitlines()
    expected = [line.format(**pems) for line in says]
    assert len(said) == len(expected)
    for line, begins in zip(said, expected, strict=True):
        assert line.startswith(begins)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as pem  # noqa: PLC0415

    key = pem.load_pem_private_key(Path(pems["key"]).read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"x")
        )
    )
    files = {"KAFKA_CERTIFICATE_FILE": pems["certificate"], "KAFKA_KEY_FILE": str(encrypted)}
    assert "unencrypted" in refusal(monkeypatch, TLS | files)
