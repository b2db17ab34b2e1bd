"""Settings: every wrong one is named at once, and no message ever holds the password of Redis."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from projector.clients import redis_client
from projector.config.settings import Settings
from projector.errors import SettingsError

SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"PROJECTOR_{name}", value)
    return Settings.load()


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load(monkeypatch, **variables)
    assert refused.value.__cause__ is None
    return str(refused.value)


def test_without_variables_the_defaults_hold() -> None:
    settings = Settings.load()
    assert settings.kafka == "127.0.0.1:9092"
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert (settings.partitions, settings.max_staleness, settings.miss_grace) == (16, 10, 2)
    assert settings.source_names == ()
    assert settings.tombstone_retention_ms == 7 * 24 * 3600 * 1000
    assert settings.minimum_level == 30


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("KAFKA", "a:1, b.example:9092", "brokers", ["a:1", "b.example:9092"]),
        ("KAFKA", "[::1]:9092", "brokers", ["[::1]:9092"]),
        ("REDIS_URL", "rediss://h:6380/2", "redis_url", "rediss://h:6380/2"),
        ("PARTITIONS", "1", "partitions", 1),
        ("PARTITIONS", "10000", "partitions", 10_000),
        ("TOPIC_PREFIX", "blue.", "topic_prefix", "blue."),
        ("MAX_STALENESS", "2.5", "max_staleness", 2.5),
        ("MINIMUM_ROLE", "none", "minimum_level", 0),
        ("MINIMUM_ROLE", "owner", "minimum_level", 50),
        ("TOMBSTONE_RETENTION", "0.5", "tombstone_retention_ms", 500),
        ("SESSION_TIMEOUT", "6", "session_timeout", 6),
        ("WORKER_WEB_HOST", "0.0.0.0", "worker_web_host", "0.0.0.0"),
        ("WORKER_WEB_PORT", "65535", "worker_web_port", 65535),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("LOG_LEVEL", "INFO", "log_level", "info"),
        ("LOG_LEVEL", "Warn", "log_level", "warning"),
        ("SOURCES", "", "source_names", ()),
        ("SOURCES", "gitlab", "source_names", ("gitlab",)),
        ("SOURCES", "gitlab, hr.eu_1-b,gitlab", "source_names", ("gitlab", "hr.eu_1-b")),
        ("SOURCES", "a,b,c,d,e,f,g,h", "source_names", tuple("abcdefgh")),
    ],
)
def test_a_variable_sets_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, read: object
) -> None:
    assert getattr(load(monkeypatch, **{name: value}), field) == read


def test_the_operators_token_may_stand_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    found = load(monkeypatch, OPS_TOKEN_FILE=str(file)).ops_secret
    assert found is not None
    assert found.get_secret_value() == "0123456789abcdef"
    file.write_text("too short\n")
    assert refusal(monkeypatch).startswith("PROJECTOR_OPS_TOKEN_FILE: must be 16 to 1024")
    file.write_text("0123456789abcdef\n")
    said = refusal(monkeypatch, OPS_TOKEN="0123456789abcdef")
    assert said == "PROJECTOR_OPS_TOKEN and PROJECTOR_OPS_TOKEN_FILE: set one of them"


def test_no_message_and_no_repr_holds_the_operators_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SECRET not in refusal(monkeypatch, OPS_TOKEN=SECRET)
    assert SECRET * 4 not in repr(load(monkeypatch, OPS_TOKEN=SECRET * 4))


def test_the_topic_prefix_stands_before_every_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, TOPIC_PREFIX="blue.").topic("membership") == "blue.membership"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("KAFKA", v) for v in ("", "localhost", "h:", ":9092", "h:0", "h:65536", "h:x", "a:1,")],
        *[("REDIS_URL", v) for v in ("", "localhost:6379", "http://h", "redis://[::1", "redis")],
        *[("REDIS_URL", v) for v in ("redis://h:x/0", "redis://h:99999/0")],
        *[("PARTITIONS", v) for v in ("", "0", "-1", "10001", "1.5", "many")],
        *[("REPLICATION_FACTOR", v) for v in ("-1", "x")],
        *[("TOPIC_PREFIX", v) for v in ("a b", "a/", "ä", "a\n", "x" * 201)],
        *[("MAX_STALENESS", v) for v in ("0", "-1", "nan", "inf", "10s")],
        *[("MISS_GRACE", v) for v in ("0", "nan")],
        *[("MAX_WAITING", v) for v in ("0", "x")],
        *[("MINIMUM_ROLE", v) for v in ("", "Developer", "30", "boss")],
        *[("TOMBSTONE_RETENTION", v) for v in ("0", "inf")],
        *[("SESSION_TIMEOUT", v) for v in ("5.9", "inf")],
        *[("WORKER_WEB_PORT", v) for v in ("-1", "65536")],
        *[("OPS_TOKEN", v) for v in ("", "x" * 15, "x" * 1025, "sixteen and more ", "ä" * 16)],
        *[("OPS_TOKEN_FILE", v) for v in ("", "/nowhere", "/dev/null")],
        *[("LOG_LEVEL", v) for v in ("", "loud", "warnings")],
        *[("SOURCES", v) for v in (",", "a,", "GitLab", "-a", "a b", "a\nb", "x" * 64)],
        ("SOURCES", ",".join(f"s{number}" for number in range(9))),
    ],
    ids=lambda case: ascii(case)[:20],
)
def test_a_wrong_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    said = refusal(monkeypatch, **{name: value})
    assert said.startswith(f"PROJECTOR_{name}: ")
    assert len(said.splitlines()) == 1


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, PARTITIONS="0", KAFKA="here", MAX_STALENESS="nan")
    assert {line.partition(":")[0] for line in said.splitlines()} == {
        "PROJECTOR_PARTITIONS",
        "PROJECTOR_KAFKA",
        "PROJECTOR_MAX_STALENESS",
    }


def test_wrong_and_unknown_settings_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, PARTITIONS="0", KAFKAA="h:1")
    assert "PROJECTOR_PARTITIONS: " in said
    assert "PROJECTOR_KAFKAA is not a setting" in said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("KAFKAS", "PROJECTOR_KAFKAS is not a setting; did you mean PROJECTOR_KAFKA?"),
        ("REDIS", "PROJECTOR_REDIS is not a setting; did you mean PROJECTOR_REDIS_URL?"),
        ("MAX_STALENES", "PROJECTOR_MAX_STALENES is not a setting; did you mean "
         "PROJECTOR_MAX_STALENESS?"),
        ("ZZZZZZZZZZZZZZZZZZZZ", "PROJECTOR_ZZZZZZZZZZZZZZZZZZZZ is not a setting"),
    ],
)  # fmt: skip
def test_an_unknown_variable_is_refused_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    """A misspelt bound must not go unnoticed."""
    assert refusal(monkeypatch, **{name: "1"}) == says


def test_what_kubernetes_sets_for_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {
        "PORT": "tcp://10.0.0.1:80",
        "SERVICE_HOST": "10.0.0.1",
        "API_SERVICE_PORT_HTTP": "80",
        "API_PORT_80_TCP_ADDR": "10.0.0.1",
        "SERVICE_PORT": "80",
        "SERVICE_PORT_HTTP": "80",
        "SERVICE_PORT_WEB_METRICS": "81",
        "PORT_80_TCP": "tcp://10.0.0.1:80",
        "PORT_80_TCP_PROTO": "tcp",
        "PORT_80_TCP_PORT": "80",
        "PORT_80_TCP_ADDR": "10.0.0.1",
        "API_SERVICE_HOST": "10.0.0.1",
        "API_SERVICE_PORT": "80",
        "API_PORT": "tcp://10.0.0.1:80",
        "API_PORT_80_TCP": "tcp://10.0.0.1:80",
        "API_PORT_53_UDP_ADDR": "10.0.0.1",
        "WORKER_2_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert "PROJECTOR_PORT is not a setting" in refusal(monkeypatch, **links)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.2")
    assert Settings.load() == Settings()
    for name in ("KAFKAS", "PORT_80", "SERVICE_HOSTS", "WORKER_WEB_PORTS"):
        assert f"PROJECTOR_{name} is no" in refusal(monkeypatch, **{name: "h:1"})


def test_a_setting_is_read_although_a_service_could_be_named_like_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.2")
    assert load(monkeypatch, WORKER_WEB_PORT="81").worker_web_port == 81


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("KAFKA", "http://h:9092", "without a scheme"),
        ("KAFKA", "a:1,kafka://h:9092", "without a scheme"),
        ("REDIS_URL", "redis://h:1/zero", "number of a database"),
        ("REDIS_URL", "redis://h:1/0/1", "number of a database"),
        ("REDIS_URL", "redis+sentinel://h:1", "name by which the sentinels know"),
        ("REDIS_URL", "redis+sentinel://h:1/", "name by which the sentinels know"),
        ("REDIS_URL", "redis+sentinel://h:1/main/x", "number of a database"),
        ("REDIS_URL", "redis+sentinel://h/main", "must have host:port"),
        ("REDIS_URL", "redis+sentinel://h:1,i/main", "must have host:port"),
        ("REDIS_URL", "redis+sentinel://h:1/main?db=1", "not have options with sentinels"),
        ("REDIS_URL", "redis+cluster://h:1/1", "a cluster has only 0"),
        ("REDIS_URL", "redis+cluster://h:1,i:99999", "must have host:port"),
        ("REDIS_URL", "redis+cluster://", "must have host:port"),
        ("REDIS_URL", "rediss+cluster://h:1?ssl_cert_reqs=none", "not have options for TLS"),
        ("REDIS_URL", "redis+clusters://h:1", "must begin with redis://"),
        ("REDIS_URL", "Redis+Cluster://h:1", "in lower case"),
        ("TOPIC_PREFIX", "a/", "characters a-z"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    assert says in refusal(monkeypatch, **{name: value})


def test_variables_without_the_prefix_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITIONS", "0")
    monkeypatch.setenv("MY_PROJECTOR_KAFKA", "x")
    assert Settings.load() == Settings()


# the password of Redis


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        (f"redis://:{SECRET}@h:1/0", "redis://h:1/0"),
        (f"rediss://user:{SECRET}@h", "rediss://h"),
        (f"redis://:x@{SECRET}@h:1", "redis://h:1"),
        (f"redis://h:1/0?password={SECRET}", "redis://h:1/0"),
        (f"unix://user:{SECRET}@/run/redis.sock", "unix:///run/redis.sock"),
        (f"redis+sentinel://u:{SECRET}@a:1,b:2/main/3", "redis+sentinel://a:1,b:2/main/3"),
        (f"rediss+cluster://:{SECRET}@[::1]:1,b:2", "rediss+cluster://[::1]:1,b:2"),
    ],
)
def test_the_place_of_redis_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, url: str, place: str
) -> None:
    assert load(monkeypatch, REDIS_URL=url).redis_place == place


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:a/{SECRET}@h:1/0",
        f"redis://:{SECRET}/a@h:1/0",
        f"redis://:{SECRET}#a@h:1/0",
        f"redis://:{SECRET}?a@h:1/0",
        f"redis://:1/{SECRET}@h:1/0",
        f"redis://:1?{SECRET}@h:1/0",
        f"redis://:1#{SECRET}@h:1/0",
        f"redis://:{SECRET}[@h:1/0",
        f"redis://:{SECRET}\u2100@h:1/0",
        f"redis://:{SECRET}@h:x/0",
        f"redis://:{SECRET}@h:99999/0",
        f"http://:{SECRET}@h:1/0",
        f"{SECRET}@h:1",
        f"redis+sentinel://:{SECRET}@h/main",
        f"redis+sentinel://:{SECRET}/@h:1/main",
        f"redis+cluster://:{SECRET}@h:0",
    ],
    ids=ascii,
)
def test_a_password_that_spoils_the_address_is_refused_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """Such a password must be percent-encoded; taken as it is, it would end up in messages."""
    said = refusal(monkeypatch, REDIS_URL=url)
    assert said.startswith("PROJECTOR_REDIS_URL: ")
    assert SECRET not in said


def test_an_error_about_another_setting_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, REDIS_URL=f"redis://:{SECRET}@h", PARTITIONS="0")
    assert SECRET not in said


def test_what_pydantic_says_itself_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECTOR_REDIS_URL", f"http://:{SECRET}@h:1/0")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert SECRET not in str(refused.value)


async def test_redis_is_reached_with_the_password_and_gives_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis = redis_client.create_redis(load(monkeypatch, REDIS_URL=f"redis://:{SECRET}@h:1/2"))
    how = redis.connection_pool.connection_kwargs
    assert (how["password"], how["host"], how["port"], how["db"]) == (SECRET, "h", 1, 2)
    assert how["socket_timeout"] == how["socket_connect_timeout"] == redis_client.TIMEOUT_S
    await redis.aclose()


def test_the_settings_as_text_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of the settings, or of an error with them, must not leak it."""
    settings = load(monkeypatch, REDIS_URL=f"redis://:{SECRET}@h:1/0")
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


# keys of job tokens


def test_keys_of_job_tokens_are_files_with_commas_between(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, JOB_TOKEN_KEYS="/a.pem, b.pem,", JOB_TOKEN_ISSUER="gitlab.example")
    assert settings.job_token_key_files == (Path("/a.pem"), Path("b.pem"))
    assert Settings().job_token_prefix == ""


def test_without_keys_of_job_tokens_there_are_no_files() -> None:
    assert Settings.load().job_token_key_files == ()


def test_keys_of_job_tokens_need_an_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    said = refusal(monkeypatch, JOB_TOKEN_KEYS="/a.pem")
    assert said.startswith("PROJECTOR_JOB_TOKEN_ISSUER: must be set with PROJECTOR_JOB_TOKEN_KEYS")


@pytest.mark.parametrize("name", ["JOB_TOKEN_ISSUER", "JOB_TOKEN_PREFIX"])
def test_what_belongs_to_keys_of_job_tokens_needs_them(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    said = refusal(monkeypatch, **{name: "gitlab.example"})
    assert said.startswith(f"PROJECTOR_JOB_TOKEN_KEYS: must be set with PROJECTOR_{name}")


@pytest.mark.parametrize("keys", [",", " ", " , "])
def test_keys_of_job_tokens_that_name_no_file_are_refused(
    monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    said = refusal(monkeypatch, JOB_TOKEN_KEYS=keys, JOB_TOKEN_ISSUER="x")
    assert said == "PROJECTOR_JOB_TOKEN_KEYS: must name PEM files, comma-separated"


@pytest.mark.parametrize(
    "issuer", ["", "https://gitlab.example", "gitlab:443", "a b", "a/b", "a\n"]
)
def test_an_issuer_is_a_host_name(monkeypatch: pytest.MonkeyPatch, issuer: str) -> None:
    said = refusal(monkeypatch, JOB_TOKEN_ISSUER=issuer)
    assert "PROJECTOR_JOB_TOKEN_ISSUER: must be a host name" in said


@pytest.mark.parametrize("prefix", ["a b", "\u00e9", "x" * 101, "a\n"])
def test_a_prefix_of_job_tokens_is_visible_ascii(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    said = refusal(monkeypatch, JOB_TOKEN_PREFIX=prefix)
    assert "PROJECTOR_JOB_TOKEN_PREFIX: must be at most 100 visible ASCII characters" in said
