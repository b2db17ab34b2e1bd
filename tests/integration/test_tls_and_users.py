"""The product on servers with TLS and users; refusals name the setting to correct."""

import signal
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from projector.ports import is_listening
from tests import builders
from tests.integration import secure_servers
from tests.integration.conftest import apache_or_skip
from tests.integration.deployment import Deployment
from tests.integration.ports import free_port
from tests.integration.secure_servers import (
    ANY_ADDRESS,
    NAME,
    PASSWORD,
    USER,
    WRONG_PASSWORD,
    Certificates,
    SecureKafka,
)
from tests.integration.servers import REPOSITORY, eventually, running

USERS = REPOSITORY / "deploy" / "redis" / "users.acl"
# A new database of the one Redis for each test: a checkpoint belongs to one set of topics.
databases = cycle(range(16))
PROTOCOL = "PROJECTOR_KAFKA_SECURITY_PROTOCOL"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def kafka(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureKafka]:
    apache_or_skip("apache")
    kafka = SecureKafka(tmp_path_factory.mktemp("kafka"), certificates)
    with running(kafka.server):
        eventually(lambda: all(map(is_listening, kafka.ports)), f"Kafka: {kafka.server.log()}")
        yield kafka


@pytest.fixture(scope="module")
def redis_port(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[int]:
    secure_servers.redis_or_skip()
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    with running(secure_servers.redis_server(folder, port, certificates, USERS)) as server:
        eventually(lambda: is_listening(port), f"Redis: {server.log()}")
        yield port


@pytest.fixture
def deployment(
    kafka: SecureKafka, redis_port: int, certificates: Certificates, tmp_path: Path
) -> Iterator[Deployment]:
    """Yield a deployment with correct settings; a test changes one."""
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    prefix = f"secure{free_port()}."
    with Deployment(kafka.plaintext, redis_port, prefix, tmp_path) as deployment:
        deployment.env |= {
            "PROJECTOR_KAFKA": kafka.sasl_ssl,
            PROTOCOL: "SASL_SSL",
            "PROJECTOR_KAFKA_USERNAME": USER,
            "PROJECTOR_KAFKA_PASSWORD_FILE": str(password),
            "PROJECTOR_KAFKA_CA_FILE": str(certificates.authority),
            "PROJECTOR_REDIS_URL": f"rediss://{NAME}:{redis_port}/{next(databases)}",
            "PROJECTOR_REDIS_CA_FILE": str(certificates.authority),
        }
        yield deployment


def as_user(user: str) -> dict[str, str]:
    return {"PROJECTOR_REDIS_USERNAME": user, "PROJECTOR_REDIS_PASSWORD": f"change-me-{user}"}


def use(deployment: Deployment, changes: dict[str, str | None]) -> None:
    """Change settings; None removes one."""
    for name, value in changes.items():
        if value is None:
            del deployment.env[f"PROJECTOR_{name}"]
        else:
            deployment.env[f"PROJECTOR_{name}"] = value


def runs_end_to_end(deployment: Deployment) -> str:
    """Run every process until a token is answered and then refused; return all output."""
    outputs = [deployment.command("topics")]
    assert outputs[0].returncode == 0, outputs[0].stderr
    worker = deployment.start("worker", **as_user("worker"))
    api = deployment.start_api(**as_user("api"))
    deployment.until_fresh()
    deployment.feed(builders.group(3), builders.project(7, 3), builders.started(9, 7))
    deployment.until("token-9", 200)
    assert deployment.look_up("unknown").status == 401
    deployment.produce(b"{not json", topic="membership")
    deployment.feed(builders.removed("job", 9))
    deployment.until("token-9", 401)
    eventually(
        lambda: "1 dead letter in" in deployment.command("dead-letters", "list").stdout,
        "the letter",
    )
    outputs += [deployment.command(*words.split()) for words in ("dead-letters list", "topics")]
    assert [done.returncode for done in outputs] == [0, 0, 0]
    for process in (worker, api):
        process.signal(signal.SIGTERM)
        process.process.wait(30)
    return "".join([*(done.stdout + done.stderr for done in outputs), worker.log(), api.log()])


@pytest.mark.usefixtures("real_processes")
def test_the_product_runs_with_users_and_tls(deployment: Deployment) -> None:
    output = runs_end_to_end(deployment)
    assert not [secret for secret in (PASSWORD, "change-me", "token-9") if secret in output]


def test_a_password_may_be_sent_as_it_is_under_tls(deployment: Deployment) -> None:
    use(deployment, {"KAFKA_SASL_MECHANISM": "PLAIN"})
    assert deployment.command("topics").returncode == 0


def test_the_product_runs_with_certificates_of_its_own(
    deployment: Deployment, kafka: SecureKafka, certificates: Certificates, redis_port: int
) -> None:
    """Kafka requires one; Redis may require one in addition to the password."""
    use(
        deployment,
        {
            "KAFKA": kafka.mutual_tls,
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_USERNAME": None,
            "KAFKA_PASSWORD_FILE": None,
            "KAFKA_CERTIFICATE_FILE": str(certificates.client),
            "KAFKA_KEY_FILE": str(certificates.client_key),
            "REDIS_CERTIFICATE_FILE": str(certificates.client),
            "REDIS_KEY_FILE": str(certificates.client_key),
        },
    )
    runs_end_to_end(deployment)


KAFKA_REFUSALS: list[tuple[str, dict[str, str | None], str]] = [
    (
        "wrong password",
        {"KAFKA_PASSWORD": WRONG_PASSWORD, "KAFKA_PASSWORD_FILE": None},
        "does not know the user projector with this password and SCRAM-SHA-512. "
        "Set PROJECTOR_KAFKA_USERNAME, PROJECTOR_KAFKA_PASSWORD",
    ),
    (
        "wrong password in the clear",
        {
            "KAFKA_PASSWORD": WRONG_PASSWORD,
            "KAFKA_PASSWORD_FILE": None,
            "KAFKA_SASL_MECHANISM": "PLAIN",
        },
        "does not know the user projector with this password and PLAIN. Set PROJECTOR_KAFKA_USER",
    ),
    (
        "unknown mechanism",
        {"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"},
        "does not accept SCRAM-SHA-256. Set PROJECTOR_KAFKA_SASL_MECHANISM to another",
    ),
    (
        "untrusted",
        {"KAFKA_CA_FILE": "{stranger}"},
        "shows a certificate that is not trusted: ",
    ),
    (
        "untrusted by the system",
        {"KAFKA_CA_FILE": None},
        "Set PROJECTOR_KAFKA_CA_FILE to the certificate of the CA that signed it",
    ),
    (
        "wrong name",
        {"KAFKA": "{other_name}"},
        "shows a certificate for another name: ",
    ),
    (
        "advertised wrongly",
        {"KAFKA": "{advertised_strangely}"},
        "shows a certificate for another name: IP address mismatch",
    ),
    (
        "without TLS",
        {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_CA_FILE": None},
        "speaks TLS at this port, but there is PROJECTOR_KAFKA_SECURITY_PROTOCOL=SASL_PLAINTEXT",
    ),
    (
        "without SASL there",
        {"KAFKA": "{mutual_tls}", "KAFKA_CERTIFICATE_FILE": "{client}", "KAFKA_KEY_FILE": "{key}"},
        "takes no user and password at this port, but there is PROJECTOR_KAFKA_SECURITY_PROTOCOL=",
    ),
    (
        "without a certificate of its own",
        {
            "KAFKA": "{mutual_tls}",
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_USERNAME": None,
            "KAFKA_PASSWORD_FILE": None,
        },
        "Set PROJECTOR_KAFKA_CERTIFICATE_FILE and PROJECTOR_KAFKA_KEY_FILE",
    ),
]


@pytest.mark.parametrize(
    ("_what", "changes", "expected"), KAFKA_REFUSALS, ids=lambda v: str(v)[:30]
)
def test_kafkas_refusal_ends_a_command_with_what_to_mend(
    deployment: Deployment,
    kafka: SecureKafka,
    certificates: Certificates,
    _what: str,
    changes: dict[str, str | None],
    expected: str,
) -> None:
    names = {
        "stranger": certificates.stranger,
        "client": certificates.client,
        "key": certificates.client_key,
        "mutual_tls": kafka.mutual_tls,
        "other_name": kafka.sasl_ssl.replace(NAME, ANY_ADDRESS),
        "advertised_strangely": kafka.advertised_strangely,
    }
    use(deployment, {name: value and value.format(**names) for name, value in changes.items()})
    done = deployment.command("topics")
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Kafka at ")
    assert expected in last
    assert not [secret for secret in (PASSWORD, WRONG_PASSWORD) if secret in done.stderr]


@pytest.mark.usefixtures("real_processes")
def test_kafkas_refusal_ends_a_starting_worker(deployment: Deployment) -> None:
    use(deployment, {"KAFKA_PASSWORD": WRONG_PASSWORD, "KAFKA_PASSWORD_FILE": None})
    worker = deployment.start("worker", **as_user("worker"))
    assert worker.process.wait(30) == 2
    assert "Set PROJECTOR_KAFKA_USERNAME, PROJECTOR_KAFKA_PASSWORD" in worker.log()
    assert WRONG_PASSWORD not in worker.log()


def test_a_broker_that_is_away_is_no_refusal(deployment: Deployment) -> None:
    use(deployment, {"KAFKA": f"{NAME}:{free_port()}"})
    done = deployment.command("topics")
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr


REDIS_REFUSALS: list[tuple[str, dict[str, str | None], str]] = [
    (
        "wrong password",
        {"REDIS_USERNAME": "worker", "REDIS_PASSWORD": WRONG_PASSWORD},
        "does not know this user and password. Set PROJECTOR_REDIS_USERNAME and PROJECTOR_REDIS_P",
    ),
    ("no password", {}, "does not know this user and password"),
    (
        "untrusted",
        {"REDIS_CA_FILE": "{stranger}", **as_user("worker")},
        "shows a certificate that is not trusted: ",
    ),
    (
        "untrusted by the system",
        {"REDIS_CA_FILE": None, **as_user("worker")},
        "Set PROJECTOR_REDIS_CA_FILE to the certificate of the CA that signed it",
    ),
    (
        "wrong name",
        {"REDIS_URL": "rediss://127.0.0.1:{port}/0", **as_user("worker")},
        "shows a certificate for another name: ",
    ),
]


@pytest.mark.parametrize(
    ("_what", "changes", "expected"), REDIS_REFUSALS, ids=lambda v: str(v)[:30]
)
def test_redis_refusal_ends_a_starting_worker_and_is_in_the_apis_log(
    deployment: Deployment,
    certificates: Certificates,
    redis_port: int,
    _what: str,
    changes: dict[str, str | None],
    expected: str,
) -> None:
    names = {"stranger": certificates.stranger, "port": redis_port}
    found = {name.removeprefix("PROJECTOR_"): value for name, value in changes.items()}
    use(deployment, {name: value and value.format(**names) for name, value in found.items()})
    worker, api = deployment.start("worker"), deployment.start_api()
    assert worker.process.wait(30) == 2
    assert expected in worker.log()
    eventually(lambda: expected in api.log(), "the API logs it too")
    assert deployment.look_up("token-9").status == 503
    output = worker.log() + api.log()
    assert not [secret for secret in (WRONG_PASSWORD, "change-me") if secret in output]
