"""Users, passwords and certificates as settings: what is wrong or contradictory is said at once."""

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.asyncio.cluster import ClusterNode

from projector.clients import access_errors
from projector.clients import kafka as kafka_clients
from projector.clients import redis_client as connections
from projector.config.settings import Settings
from projector.errors import SettingsError

SECRET = "hunter2-glcbt"
SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_USERNAME": "u", "KAFKA_PASSWORD": SECRET}
TLS = {"KAFKA_SECURITY_PROTOCOL": "SSL"}
REDISS = {"REDIS_URL": "rediss://h:1/0"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"PROJECTOR_{name}", value)
    return Settings.load()


def refusal(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, variables)
    assert SECRET not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="session")
def pems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CA, a certificate and its key, another's key, and files that are none of these."""
    folder = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    mine, other = authority.issue_cert("me.example"), authority.issue_cert("other.example")
    content = {
        "ca": authority.cert_pem.bytes(),
        "certificate": mine.cert_chain_pems[0].bytes(),
        "key": mine.private_key_pem.bytes(),
        "other_key": other.private_key_pem.bytes(),
        "nothing": b"",
        "password": f"{SECRET}\r\n".encode(),
        "binary": b"\xff\xfe",
    }
    for name, written in content.items():
        (folder / name).write_bytes(written)
    return {name: str(folder / name) for name in content} | {"missing": str(folder / "missing")}


def test_without_settings_kafka_is_reached_in_the_clear_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kafka_clients.client_arguments(load(monkeypatch, {"KAFKA": "a:1,b:2"})) == {
        "bootstrap_servers": ["a:1", "b:2"],
        "security_protocol": "PLAINTEXT",
        "ssl_context": None,
    }


def test_kafka_is_told_user_and_password_and_its_certificate_is_checked(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    how = kafka_clients.client_arguments(load(monkeypatch, SASL | {"KAFKA_CA_FILE": pems["ca"]}))
    assert how["security_protocol"] == "SASL_SSL"
    assert how["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (how["sasl_plain_username"], how["sasl_plain_password"]) == ("u", SECRET)
    tls = how["ssl_context"]
    assert tls.check_hostname
    assert tls.verify_mode.name == "CERT_REQUIRED"
    assert len(tls.get_ca_certs()) == 1, "the CA file's alone is trusted"


def test_without_a_ca_file_the_systems_authorities_are_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tls = kafka_clients.client_arguments(load(monkeypatch, TLS))["ssl_context"]
    assert tls.check_hostname
    assert tls.cert_store_stats()["x509_ca"] != 1


def test_a_password_comes_from_a_file_without_its_line_break(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    kafka = {**SASL, "KAFKA_PASSWORD_FILE": pems["password"]}
    del kafka["KAFKA_PASSWORD"]
    settings = load(monkeypatch, kafka | {"REDIS_PASSWORD_FILE": pems["password"]})
    assert kafka_clients.client_arguments(settings)["sasl_plain_password"] == SECRET
    how = connections.create_redis(settings).connection_pool.connection_kwargs
    assert how["password"] == SECRET


def test_redis_is_told_user_and_password(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, {"REDIS_USERNAME": "worker", "REDIS_PASSWORD": SECRET})
    how = connections.create_redis(settings).connection_pool.connection_kwargs
    assert (how["username"], how["password"]) == ("worker", SECRET)


def test_a_user_in_the_settings_goes_with_a_password_in_the_url(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"redis://:{SECRET}@h:1/0"
    settings = load(monkeypatch, {"REDIS_URL": url, "REDIS_USERNAME": "worker"})
    how = connections.create_redis(settings).connection_pool.connection_kwargs
    assert (how["username"], how["password"]) == ("worker", SECRET)


async def test_sentinels_are_asked_as_the_url_says_and_the_server_as_the_settings_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "redis+sentinel://watch:man%40@a:1,b:2/main/3"
    settings = load(
        monkeypatch, {"REDIS_URL": url, "REDIS_USERNAME": "worker", "REDIS_PASSWORD": SECRET}
    )
    redis = connections.create_redis(settings)
    pool = redis.connection_pool
    assert isinstance(pool, connections.SentinelPool)
    how = pool.connection_kwargs
    assert (how["username"], how["password"], how["db"]) == ("worker", SECRET, 3)
    assert pool.service_name == "main"
    asked = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in asked] == [("a", 1), ("b", 2)]
    assert {(each["username"], each["password"]) for each in asked} == {("watch", "man@")}
    await redis.aclose()


async def test_sentinels_get_no_password_that_is_not_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = load(
        monkeypatch, {"REDIS_URL": "redis+sentinel://a:1/main", "REDIS_PASSWORD": SECRET}
    )
    pool: Any = connections.create_redis(settings).connection_pool
    (asked,) = pool.sentinel_manager.sentinels
    assert asked.connection_pool.connection_kwargs.get("password") is None


async def test_sentinels_and_the_server_behind_are_trusted_alike(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    url = "rediss+sentinel://a:1/main"
    settings = load(monkeypatch, {"REDIS_URL": url, "REDIS_CA_FILE": pems["ca"]})
    pool: Any = connections.create_redis(settings).connection_pool
    (sentinel,) = pool.sentinel_manager.sentinels
    for each in (pool, sentinel.connection_pool):
        connection = each.make_connection()
        assert isinstance(connection, connections.TlsConnection)
        assert connection.ssl_context.get() is settings.redis_tls


async def test_every_server_of_a_cluster_is_told_the_same_and_trusted_alike(
    monkeypatch: pytest.MonkeyPatch, pems: dict[str, str]
) -> None:
    url = f"rediss+cluster://u:{SECRET}@a.example:1,b.example:2"
    settings = load(monkeypatch, {"REDIS_URL": url, "REDIS_CA_FILE": pems["ca"]})
    cluster: Any = connections.create_redis(settings)
    later = ClusterNode("c.example", 3, **cluster.connection_kwargs)
    assert [node.name for node in cluster.startup_nodes] == ["a.example:1", "b.example:2"]
    for node in (*cluster.startup_nodes, later):
        connection = node.acquire_connection()
        assert isinstance(connection, connections.TlsConnection)
        assert connection.ssl_context.get() is settings.redis_tls
        assert connection.redis_connect_func
        assert (connection.username, connection.password) == ("u", SECRET)
        assert connection.socket_timeout == connections.TIMEOUT_S


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
            ["PROJECTOR_KAFKA_CA_FILE: {key} holds no certificate in PEM format"],
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
                "{other_key}, is no certificate in PEM format with its own key"
            ],
        ),
        (
            REDISS | {"REDIS_CERTIFICATE_FILE": "{ca}", "REDIS_KEY_FILE": "{nothing}"},
            ["PROJECTOR_REDIS_CERTIFICATE_FILE: {ca}, with PROJECTOR_REDIS_KEY_FILE {nothing},"],
        ),
        (
            REDISS | {"REDIS_CA_FILE": "{nothing}"},
            ["PROJECTOR_REDIS_CA_FILE: {nothing} holds no certificate in PEM format"],
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
    """Nobody may believe in a protection that is not there."""
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


def test_a_tls_error_of_python_itself_has_no_reason_and_breaks_nothing() -> None:
    assert (
        access_errors.tls_reason(ssl.SSLError("the peer went away"), "redis", "PROJECTOR_X") is None
    )
    untrusted = ssl.SSLCertVerificationError("no certificate")
    assert "not trusted" in str(access_errors.tls_reason(untrusted, "redis", "PROJECTOR_X"))
