"""A company's GitLab, the bridge, and the product behind it, judged by the oracle."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from psycopg.rows import dict_row

from projector.store import schema
from tests.integration.deployment import PARTITIONS, Deployment
from tests.integration.gitlab.company.company import Company
from tests.integration.gitlab.gitlab_database import OWNER, GitlabDatabase
from tests.integration.gitlab.oracle import UNKNOWN, Oracle, Verdict
from tests.integration.servers import Server, eventually
from tests.job_tokens import ISSUER, claims_of, signing_key

KEY: Final = signing_key()
SOURCE: Final = "gitlab"
DATABASES: Final = ("PROJECTOR_GITLAB_DATABASE", "PROJECTOR_GITLAB_CI_DATABASE")
# Between two of the company's transactions while something else happens.
PAUSE_S: Final = 0.01
DEAD_JOBS: Final = 12
CLEAN: Final = "0 missing, 0 extra, 0 different"


class Bridged:
    """The whole product beside a company that changes GitLab's database at random."""

    def __init__(
        self, deployment: Deployment, databases: Sequence[GitlabDatabase],
        settings: Mapping[str, str], seed: int = 1,
    ) -> None:  # fmt: skip
        self.deployment, self.gitlab = deployment, databases[0]
        self.server = self.gitlab.server
        self.state: Path = deployment.folder / "gitlab.db"
        (key := deployment.folder / "key.pem").write_bytes(KEY.pem)
        deployment.env |= {
            "PROJECTOR_SOURCES": SOURCE,
            "PROJECTOR_JOB_TOKEN_KEYS": str(key),
            "PROJECTOR_JOB_TOKEN_ISSUER": ISSUER,
            "PROJECTOR_GITLAB_STATE": str(self.state),
            **dict(zip(DATABASES, (g.bridge_dsn for g in databases), strict=False)),
            **settings,
        }
        owners = [g.server.socket_dsn(g.name, OWNER) for g in databases]
        self.company, self.oracle = Company(seed, *owners), Oracle(*owners)
        self.answers: Counter[str] = Counter()
        self._signed: dict[int, str] = {}

    def close(self) -> None:
        self.company.close()

    # processes

    def start(
        self, *, cross_root: bool = True, module: str = "projector",
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Found the company, then start everything and wait until all is fresh."""
        self.company.set_cross_root_grants(cross_root)
        self.company.found()
        assert self.deployment.command("topics").returncode == 0
        self.start_bridge(module=module, **env)
        self.worker = self.deployment.start("worker")
        self.deployment.start_api()
        self.deployment.until_fresh()

    def start_bridge(self, *options: str, module: str = "projector", **env: str) -> Server:
        self.bridge = self.deployment.start("gitlab", "run", *options, module=module, **env)
        return self.bridge

    def restart_bridge(self) -> None:
        """Kill the bridge as a crash would, and start it again."""
        self.bridge.kill()
        self.bridge.start()

    # the company at work

    @contextmanager
    def changing(self, *, cuts: bool = False) -> Iterator[None]:
        """Change GitLab's database all the while; with `cuts` its connections may be lost.

        Any other error is a write of GitLab that failed because of us.
        """
        stop, errors = threading.Event(), []

        def work() -> None:
            try:
                while not stop.wait(PAUSE_S):
                    self.company.change_or_reconnect() if cuts else self.company.change()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if errors:
            raise AssertionError("a write of GitLab failed") from errors[0]

    # judgement

    def settle(self) -> None:
        """Wait until every partition is vouched for after this moment."""
        seconds, micros = self.deployment.redis.time()
        now_ms = seconds * 1000 + micros // 1000
        try:
            eventually(lambda: min(self.stamps()) > now_ms, "every partition vouched for")
        except AssertionError as error:
            error.add_note(self.bridge.log()[-3000:])
            raise

    def stamps(self) -> list[int]:
        keys = map(schema.partition_key, range(PARTITIONS))
        return [int(self.deployment.redis.hget(key, "stamp") or 0) for key in keys]

    def judge(self) -> None:
        """Compare the answers for all live jobs, and for some others, with the oracle's."""
        self.settle()
        right = self.oracle.answers()
        others = set(self.company.homes) - right.keys()
        wrong = [
            found
            for job in [*right, *self.company.sample(sorted(others), DEAD_JOBS)]
            for token in self.tokens(job)
            if (found := self._judge(job, token, right.get(job, UNKNOWN)))
        ]
        assert not wrong, f"{len(wrong)} of {len(right)} wrong:\n" + "\n".join(wrong[:5])
        assert right

    def _judge(self, job: int, token: str, right: Verdict) -> str | None:
        answer = self.look_up(token)
        strayed = job in self.company.strayed
        agents = answer.status == 200 and answer.body["allowed_agents"]
        self.answers[f"{answer.status}{' with agents' if agents else ''}"] += 1
        # A job whose project left its root has lost its tokens, if the bridge saw it there. A poll,
        # and a bridge that begins later, may not have. So both answers pass, also where a stream
        # must end the job: tests of the mapping hold that.
        if answer in ((right, UNKNOWN) if strayed else (right,)):
            return None
        return f"job {job}{' (strayed)' if strayed else ''}:\n  {answer}\nbut right is\n  {right}"

    def look_up(self, token: str) -> Verdict:
        """Look a token up; a 503 may take a while to become an answer on a busy machine."""
        answer = self.deployment.look_up(token)
        end = time.monotonic() + 20
        while answer.status in (0, 503) and time.monotonic() < end:
            time.sleep(0.1)
            answer = self.deployment.look_up(token)
        return Verdict(answer.status, answer.body)

    def tokens(self, job: int) -> list[str]:
        """The tokens of a job: one that is signed, and in `decrypt` mode that of the database."""
        if job not in self._signed:
            claims = claims_of(job, int(time.time())) | {"exp": 2**40}
            self._signed[job] = KEY.token(job, **claims)
        decrypts = self.deployment.env.get("PROJECTOR_GITLAB_TOKENS") == "decrypt"
        return [self._signed[job], *([self.company.encrypted[job]] if decrypts else [])]

    def audit(self) -> None:
        """Export what is due now; the facts must be exactly that."""
        self.settle()
        export = self.deployment.command("gitlab", "export", "--state", str(self.state))
        assert export.returncode == 0, export.stderr
        (file := self.deployment.folder / "export.ndjson").write_text(export.stdout)
        # All clocks are one: what was applied just now is compared too.
        audit = self.deployment.command("audit", "--all", "--clock-skew", "0", str(file))
        assert audit.returncode == 0, f"{audit.stdout[-3000:]}{audit.stderr[-1000:]}"
        assert CLEAN in audit.stdout, audit.stdout[-1000:]

    def check(self) -> None:
        """Judge, and audit."""
        self.judge()
        self.audit()

    def rows(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Run a statement as GitLab, beside the company."""
        with self.gitlab.connect(row_factory=dict_row) as gitlab:
            cursor = gitlab.execute(sql.encode(), values)
            return cursor.fetchall() if cursor.description else []
