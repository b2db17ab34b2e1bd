"""Every setting, read once from environment variables with the prefix `PROJECTOR_`."""

import difflib
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from projector.config import credentials
from projector.config.connection_settings import ConnectionSettings
from projector.config.credentials import File, NamedPath
from projector.config.env import GITLAB, PREFIX, variable_name
from projector.config.gitlab_settings import GitlabSettings
from projector.config.problems import described
from projector.errors import SettingsError
from projector.events.model import MAX_VIEW_BYTES, ROLES, SOURCE_PATTERN
from projector.events.partitioning import MAX_PARTITIONS

_TOPIC_PREFIX: Final = re.compile(r"[a-zA-Z0-9._-]{0,200}")
_ISSUER: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_TOKEN_PREFIX: Final = re.compile(r"[!-~]{0,100}")
_SOURCE: Final = re.compile(SOURCE_PATTERN)
# Each owner takes every heartbeat of every source, four a second, and keeps some.
MAX_SOURCES: Final = 8
# Letters in common, with which a name is taken for a misspelt one; the prefix alone has half.
LIKE: Final = 0.85
_OPS_TOKEN: Final = re.compile(r"[!-~]{16,1024}")
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


Role = Literal[
    "none", "minimal_access", "guest", "planner", "reporter",
    "security_manager", "developer", "maintainer", "owner",
]  # fmt: skip


class Settings(ConnectionSettings):
    """The settings of every command: environment variables, read once. Durations are in seconds.

    Every wrong or unknown `PROJECTOR_` variable is named at the start, and ends the command with
    exit code 2. In Kubernetes the variables that it sets itself for a Service named `projector` or
    `projector-...` (`PROJECTOR_PORT`, `PROJECTOR_API_SERVICE_HOST`) are ignored.

    Several projections may share a Kafka if their `PROJECTOR_TOPIC_PREFIX` differs. Each needs a
    Redis database of its own.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, hide_input_in_errors=True)

    partitions: int = Field(
        default=16,
        ge=1,
        le=MAX_PARTITIONS,
        description="partitions per topic, when `projector topics` creates them; fixed from then "
        "on",
    )
    replication_factor: int = Field(
        default=0,
        ge=0,
        description="copies per topic, when `projector topics` creates them; 0: one per broker, at "
        "most 3",
    )
    topic_prefix: str = Field(
        default="",
        description="put before every topic's name; letters, digits, `.`, `_`, `-`",
    )
    sources: str = Field(
        default="",
        description="names of the sources whose heartbeats a stamp waits for, comma-separated; "
        "at most eight, the same for all workers. None: the staleness bound begins at Kafka",
    )
    max_staleness: Seconds = Field(
        default=10.0, description="an answer is never older than this; beyond it lookups get 503"
    )
    miss_grace: Seconds = Field(
        default=2.0,
        description="how long a token may wait for the proof that it is not valid",
    )
    max_waiting: int = Field(
        default=1000, ge=1, description="tokens that may wait for that at once in one API process"
    )
    max_connections: int = Field(
        default=3000,
        ge=1,
        le=1_000_000,
        description="connections to one API process at once; more are closed at once",
    )
    minimum_role: Role = Field(
        default="developer",
        description="the role a job's user needs; `none`: GitLab's own behaviour",
    )
    max_view_bytes: int = Field(
        default=MAX_VIEW_BYTES,
        ge=1024,
        description="bytes that a token's list of agents may take; beyond it its answer is 503. "
        "Every live token repeats its list, in Redis too",
    )
    tombstone_retention: Seconds = Field(
        default=7 * 24 * 3600.0,
        description="how long removed entities are kept (7 days unless set); events that are "
        "later than that are refused (docs/events.md)",
    )
    sweep_interval: Seconds = Field(
        default=600.0, description="how long one comparison of all views with Redis may take"
    )
    session_timeout: Seconds = Field(
        default=6.0,
        ge=6,
        description="when Kafka gives a silent worker's partitions to another; with 3 s for the "
        "next claim it should fit `PROJECTOR_MAX_STALENESS`",
    )
    worker_web_host: str = Field(
        default="127.0.0.1",
        description="address that the worker's own web page listens on; every client that reaches "
        "it reads `/metrics` without a credential",
    )
    worker_web_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="port of the worker's own web page, with `/metrics` for Prometheus and "
        "`/health/live`; 0: a free one. Address and port are logged at the start",
    )
    ops_token: SecretStr | None = Field(
        default=None,
        description="switches the operators' page `/ops/` of `projector api` on: the credential "
        "that it and `projector ops` ask for; 16 to 1024 visible ASCII characters",
    )
    ops_token_file: File | None = Field(
        default=None, description="instead of `PROJECTOR_OPS_TOKEN`: a file that holds it"
    )
    ingest_tokens_file: NamedPath | None = Field(
        default=None,
        description="file of the tokens that `projector ingest` accepts, each with its rights "
        "(docs/ingest.md); it is read again when it changes",
    )
    job_token_keys: str = Field(
        default="",
        description="PEM files, comma-separated, each with one public key that GitLab's job tokens "
        "may be signed with (docs/security.md); without them every token is looked up by its "
        "digest. Files that change are read again",
    )
    job_token_issuer: str | None = Field(
        default=None,
        description="the `iss` of signed job tokens: GitLab's host name, such as "
        "`gitlab.example.com`; needed with `PROJECTOR_JOB_TOKEN_KEYS`",
    )
    job_token_prefix: str = Field(
        default="",
        description="GitLab's instance token prefix, if it has one: signed job tokens begin with "
        "it or with `glcbt-`; without it any prefix before `glcbt-` is accepted, since the "
        "signature decides",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="the least severe message to log; in any case, and `warn` for `warning`",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _level_in_any_case(cls, level: object) -> object:
        if not isinstance(level, str):
            return level
        return "warning" if level.lower() == "warn" else level.lower()

    @field_validator("topic_prefix")
    @classmethod
    def _start_of_a_name(cls, prefix: str) -> str:
        if not _TOPIC_PREFIX.fullmatch(prefix):
            raise ValueError("must be at most 200 of the characters a-z, A-Z, 0-9, . _ and -")
        return prefix

    @field_validator("job_token_issuer")
    @classmethod
    def _host_name(cls, issuer: str | None) -> str | None:
        if issuer is not None and not _ISSUER.fullmatch(issuer):
            raise ValueError("must be a host name, without a scheme, a port or a path")
        return issuer

    @field_validator("job_token_prefix")
    @classmethod
    def _start_of_a_token(cls, prefix: str) -> str:
        if not _TOKEN_PREFIX.fullmatch(prefix):
            raise ValueError("must be at most 100 visible ASCII characters")
        return prefix

    @model_validator(mode="after")
    def _keys_with_issuer(self) -> Self:
        keys, issuer = map(variable_name, ("job_token_keys", "job_token_issuer"))
        if self.job_token_keys and not self.job_token_key_files:
            raise ValueError(f"{keys}: must name PEM files, comma-separated")
        if self.job_token_keys and not self.job_token_issuer:
            raise ValueError(
                f"{issuer}: must be set with {keys}, to the host name of GitLab that is the `iss` "
                "of its job tokens"
            )
        for name in ("job_token_issuer", "job_token_prefix"):
            if getattr(self, name) and not self.job_token_keys:
                raise ValueError(
                    f"{keys}: must be set with {variable_name(name)}, to the PEM files of the keys "
                    "that sign job tokens"
                )
        return self

    @field_validator("sources")
    @classmethod
    def _names_of_sources(cls, sources: str) -> str:
        names = _names(sources)
        if not all(map(_SOURCE.fullmatch, names)):
            raise ValueError(
                "must be names of 1 to 63 of the characters a-z, 0-9, . _ and -, which begin with "
                "a letter or digit, comma-separated"
            )
        if len(names) > MAX_SOURCES:
            raise ValueError(f"must be at most {MAX_SOURCES} names")
        return sources

    @model_validator(mode="after")
    def _hard_to_guess(self) -> Self:
        if self.ops_token and self.ops_token_file:
            names = " and ".join(variable_name(name) for name in ("ops_token", "ops_token_file"))
            raise ValueError(f"{names}: set one of them")
        secret = self.ops_secret
        if secret is not None and not _OPS_TOKEN.fullmatch(secret.get_secret_value()):
            name = variable_name("ops_token_file" if self.ops_token_file else "ops_token")
            raise ValueError(
                f"{name}: must be 16 to 1024 visible ASCII characters; `openssl rand -hex 32` "
                "generates one"
            )
        return self

    @property
    def job_token_key_files(self) -> tuple[Path, ...]:
        """Return the files of `job_token_keys`."""
        names = (name.strip() for name in self.job_token_keys.split(","))
        return tuple(Path(name) for name in names if name)

    @cached_property
    def ops_secret(self) -> SecretStr | None:
        """Return the token of the operators' page, from its variable or its file."""
        file = self.ops_token_file
        return credentials.secret("ops_token_file", file) if file else self.ops_token

    @classmethod
    def load(cls) -> Self:
        """Read the environment; `SettingsError` names each variable that is wrong or unknown."""
        problems = [_suggestion(name) for name in os.environ if _is_unknown(name)]
        try:
            settings = cls()
        except ValidationError as error:
            problems += described(error)
        if problems:
            raise SettingsError("\n".join(problems))
        return settings

    @property
    def minimum_level(self) -> int:
        """Return the lowest access level that a job's user needs; 0 for `none`."""
        return ROLES.get(self.minimum_role, 0)

    @property
    def tombstone_retention_ms(self) -> int:
        """Return `tombstone_retention` in milliseconds."""
        return int(self.tombstone_retention * 1000)

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """Return the names of the sources, each once."""
        return _names(self.sources)

    def topic(self, name: str) -> str:
        """Return the topic's name in Kafka."""
        return self.topic_prefix + name


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(n.strip() for n in text.split(","))) if text.strip() else ()


# The variables that Kubernetes sets for a Service named `projector` or `projector-...`.
_SERVICE_LINK: Final = re.compile(
    rf"{PREFIX}([A-Z0-9_]+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def _fields() -> list[str]:
    # Commands that do not read GitLab's database are given its settings all the same.
    return [*Settings.model_fields, *(GITLAB + name for name in GitlabSettings.model_fields)]


def _is_unknown(name: str) -> bool:
    if not name.startswith(PREFIX) or name.removeprefix(PREFIX).lower() in _fields():
        return False
    return "KUBERNETES_SERVICE_HOST" not in os.environ or not _SERVICE_LINK.fullmatch(name)


def _suggestion(name: str) -> str:
    known = [variable_name(field) for field in _fields()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=LIKE)
    return f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else "")
