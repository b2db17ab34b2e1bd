"""Settings of the commands `projector gitlab`, which read GitLab's PostgreSQL."""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from projector.config import credentials
from projector.config.credentials import File, NamedPath
from projector.config.env import GITLAB, GITLAB_PREFIX, variable_name
from projector.config.problems import described
from projector.errors import SettingsError

# PostgreSQL cuts longer names off. Three characters of a slot's are for `_ci`.
_SLOT: Final = re.compile(r"[a-z0-9_]{1,60}")
_PUBLICATION: Final = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Of a heartbeat: workers want at most four a second.
SHORTEST_HEARTBEAT_S: Final = 0.25
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class GitlabSettings(BaseSettings):
    """The settings of `projector gitlab`; all other commands accept and ignore them.

    TLS is part of the connection string: `sslmode=verify-full sslrootcert=FILE` checks the
    certificate and the host name. Without it the connection may be unencrypted, and a warning says
    so. docs/gitlab.md has what must be set up in GitLab's database.
    """

    model_config = SettingsConfigDict(
        env_prefix=GITLAB_PREFIX, frozen=True, hide_input_in_errors=True
    )

    database: SecretStr | None = Field(
        default=None,
        description="connection string of GitLab's primary database, as a URL or as `name=value`, "
        "such as `host=db.example.com dbname=gitlabhq_production user=projector "
        "sslmode=verify-full`; directly to PostgreSQL, since replication does not pass PgBouncer",
    )
    ci_database: SecretStr | None = Field(
        default=None,
        description="the same of the database that holds GitLab's `ci` tables, where that is one "
        "of its own",
    )
    password: SecretStr | None = Field(
        default=None,
        min_length=1,
        description="the password in PostgreSQL, unless the connection string has it",
    )
    password_file: File | None = Field(
        default=None, description="instead of `PROJECTOR_GITLAB_PASSWORD`: a file that holds it"
    )
    state: NamedPath = Field(
        default=Path("gitlab.db"),
        description="file of the bridge's own state, some 440 bytes for each row that it follows; "
        "on a local disk. Without it the bridge must send everything again",
    )
    source: Literal["stream", "poll"] = Field(
        default="stream",
        description="`stream`: logical replication, some milliseconds behind; `poll`: all tables "
        "are read again and again, with the right to SELECT alone",
    )
    poll_interval: Seconds = Field(
        default=10.0, description="from one reading of all tables to the next, with `poll`"
    )
    poll_jobs_interval: Seconds = Field(
        default=1.0,
        description="from one reading of jobs and users to the next, with `poll`",
    )
    slot: str = Field(
        default="projector",
        description="name of the replication slot; that of `PROJECTOR_GITLAB_CI_DATABASE` has "
        "`_ci` behind it",
    )
    publication: str = Field(
        default="projector", description="name of the publication, the same in both databases"
    )
    tokens: Literal["jwt", "decrypt"] = Field(
        default="jwt",
        description="`jwt`: jobs are found by their id, which a signed token has; `decrypt`: also "
        "by the digest of the token that GitLab's database has, encrypted",
    )
    db_key_file: File | None = Field(
        default=None,
        description="with `decrypt`: file with the first 32 bytes of GitLab's `db_key_base`, and "
        "nothing else",
    )
    heartbeat: Seconds = Field(
        default=SHORTEST_HEARTBEAT_S,
        ge=SHORTEST_HEARTBEAT_S,
        description="from one heartbeat to the next, at the least",
    )
    web_host: str = Field(
        default="127.0.0.1",
        description="address that the bridge's own web page listens on; every client that reaches "
        "it reads `/metrics` without a credential",
    )
    web_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="port of the bridge's own web page, with `/metrics` for Prometheus and "
        "`/health/live`; 0: a free one. Address and port are logged at the start",
    )

    @field_validator("database", "ci_database")
    @classmethod
    def _not_empty(cls, database: SecretStr | None) -> SecretStr | None:
        if database is not None and not database.get_secret_value().strip():
            raise ValueError("must be a connection string, such as `host=... dbname=... user=...`")
        return database

    @field_validator("slot")
    @classmethod
    def _name_of_a_slot(cls, slot: str) -> str:
        if not _SLOT.fullmatch(slot):
            raise ValueError("must be 1 to 60 of the characters a-z, 0-9 and _")
        return slot

    @field_validator("publication")
    @classmethod
    def _name_of_a_publication(cls, publication: str) -> str:
        if not _PUBLICATION.fullmatch(publication):
            raise ValueError(
                "must be 1 to 63 of the characters a-z, 0-9 and _, and begin with no digit"
            )
        return publication

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        database, password, file, tokens, key = (
            variable_name(GITLAB + name)
            for name in ("database", "password", "password_file", "tokens", "db_key_file")
        )
        if self.password and self.password_file:
            raise ValueError(f"{file}: {password} is set as well")
        if self.tokens == "decrypt" and self.db_key_file is None:
            raise ValueError(f"{key}: is needed with {tokens}=decrypt")
        if self.tokens != "decrypt" and self.db_key_file is not None:
            raise ValueError(f"{key}: has no effect unless {tokens} is decrypt")
        if self.database is None:
            raise ValueError(
                f"{database}: must be set, to a connection string of GitLab's database"
            )
        _ = self.secret
        return self

    @cached_property
    def secret(self) -> SecretStr | None:
        """Return the password, from its variable or its file."""
        file = self.password_file
        return credentials.secret(GITLAB + "password_file", file) if file else self.password

    @classmethod
    def load(cls) -> Self:
        """Read the environment; `SettingsError` names each variable that is wrong."""
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError("\n".join(described(error, GITLAB))) from None
