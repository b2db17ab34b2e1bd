"""Test the explanations of refused connections, on the texts of libpq and PostgreSQL."""

import pytest

from projector.gitlab.setup.connection_refusals import Target, explain
from projector.gitlab.setup.findings import ACCESS_FILE, ENVIRONMENT

TARGET = Target("db:5432/gitlabhq_production", "projector", "gitlabhq_production")

MESSAGES = [
    ('FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "projector", database "g", SSL '
     'encryption', "does not admit", False),
    ('FATAL:  pg_hba.conf rejects connection for host "10.0.0.7", user "projector", database "g", '
     "SSL encryption", "above it", False),
    ('FATAL:  password authentication failed for user "projector"',
     "the role projector is wrong or missing, or there is no such role", False),
    ("FATAL:  the database system is starting up", "try again", True),
    ("FATAL:  the database system is not yet accepting connections", "try again", True),
    ("connection timeout expired", "there is no answer", True),
    ("FATAL:  sorry, too many clients already", "all connections", True),
    ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
     "all connections", True),
    ('FATAL:  too many connections for role "projector"', "too many connections", False),
    ('root certificate file "/root/.postgresql/root.crt" does not exist', "is missing", False),
    ("SSL error: certificate verify failed", "trusted CA", False),
    ('server certificate for "a" does not match host name "b"', "another host name", False),
    ("FATAL:  unsupported startup parameter: replication", "PgBouncer", False),
    ("FATAL:  number of requested standby connections exceeds max_wal_senders (currently 1)",
     "WAL senders", False),
    ('FATAL:  permission denied for database "gitlabhq_production"', "may not connect", False),
    ("FATAL:  must be superuser or replication role to start walsender", "not replicate", False),
    ("FATAL:  permission denied to start WAL sender", "may not replicate", False),
    ("FATAL:  connection requires a valid client certificate", "client certificate", False),
    ("session is read-only", "the primary", True),
    ("something new", "something new", True),
]  # fmt: skip


@pytest.mark.parametrize(("message", "sentence", "is_outage"), MESSAGES)
def test_a_message_is_explained(message: str, sentence: str, is_outage: bool) -> None:
    refused = explain(message, TARGET)
    assert sentence in refused.finding.sentence
    assert refused.is_outage == is_outage
    assert is_outage or refused.finding.remedies


@pytest.mark.parametrize(
    ("host", "rest", "line"),
    [
        ("10.0.0.7", "SSL encryption", "hostssl gitlabhq_production projector 10.0.0.7/32"),
        ("fd00::7", "SSL on", "hostssl gitlabhq_production projector fd00::7/128"),
        ("[local]", "no encryption", "local gitlabhq_production projector"),
    ],
)
def test_the_line_of_pg_hba_conf_fits_the_connection(host: str, rest: str, line: str) -> None:
    message = f'FATAL:  no pg_hba.conf entry for host "{host}", user "u", database "d", {rest}'
    finding = explain(message, TARGET).finding
    assert finding.remedies[0] == (ACCESS_FILE, f"{line} scram-sha-256")
    assert "the role projector to the database gitlabhq_production" in finding.sentence


NO_TLS = 'FATAL:  no pg_hba.conf entry for host "10.0.0.7", user "u", database "d", no encryption'
REJECTED = 'FATAL:  pg_hba.conf rejects connection for host "::1", user "u", database "d", SSL off'


@pytest.mark.parametrize(
    "message",
    [NO_TLS, REJECTED, f"server does not support SSL\nconnection to server failed: {NO_TLS}"],
)
def test_a_connection_without_tls_gets_tls_and_no_line_that_admits_it(message: str) -> None:
    finding = explain(message, TARGET).finding
    assert "without TLS" in finding.sentence
    (remedy,) = finding.remedies
    assert remedy.place == ENVIRONMENT
    assert remedy.text.startswith("PROJECTOR_GITLAB_DATABASE=… sslmode=verify-full sslrootcert=")


def test_a_second_attempt_without_tls_does_not_hide_the_first() -> None:
    """libpq tries both with `sslmode=prefer`, its default."""
    message = f"{NO_TLS.replace('no encryption', 'SSL encryption')}\nconnection failed: {NO_TLS}"
    assert explain(message, TARGET).finding.remedies[0].text.startswith("hostssl ")


def test_names_are_quoted() -> None:
    odd = Target("db:5432/x", 'a"b', "x")
    text = explain('FATAL:  role "a" is not permitted to log in', odd).finding.remedies[0].text
    assert text == 'ALTER ROLE "a""b" LOGIN;'
