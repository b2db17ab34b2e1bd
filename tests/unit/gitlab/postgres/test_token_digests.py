"""Test the digests of encrypted tokens, on tokens that GitLab's Ruby libraries encrypted."""

import base64
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from structlog.testing import capture_logs

from projector.errors import TokenKeyError
from projector.gitlab.postgres.token_digests import Key, TokenDigests, others_may_use, read_key

VECTORS = json.loads((Path(__file__).parents[3] / "data" / "encrypted-job-tokens.json").read_text())
FIRST = VECTORS[0]
GARBAGE = [
    "", "|", "|short", "|" + "A" * 80, "AAAA", "no base64 at all!", "\0", "é" * 40,
    "|" + "A" * 40 + "é" * 12, FIRST["dynamic"][:-1], FIRST["dynamic"][1:], FIRST["static"][:-4],
    VECTORS[1]["dynamic"], VECTORS[1]["static"], "A" * 100_000,
]  # fmt: skip


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return written(tmp_path, FIRST["db_key_base"][:32].encode())


def written(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["token"])
@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_both_forms_are_opened(vector: dict[str, str], form: str) -> None:
    assert Key(vector["db_key_base"]).digest(vector[form]) == vector["sha256"]
    assert Key(vector["db_key_base"][:32]).digest(vector[form]) == vector["sha256"]


def test_line_breaks_within_are_ignored_as_ruby_does() -> None:
    encrypted = FIRST["dynamic"]
    broken = f"{encrypted[:30]}\n{encrypted[30:-12]}\n{encrypted[-12:]}"
    assert Key(FIRST["db_key_base"]).digest(broken) == FIRST["sha256"]


@pytest.mark.parametrize("encrypted", GARBAGE)
def test_garbage_and_tokens_of_another_key_have_no_digest(encrypted: str) -> None:
    assert Key(FIRST["db_key_base"]).digest(encrypted) is None


def test_a_key_has_whole_characters_alone_and_is_filled_up() -> None:
    # 31 bytes and a character of two: GitLab leaves that out.
    long, cut = "k" * 31 + "é", "k" * 31 + "0"
    encrypted = encrypt(cut)
    assert Key(long).digest(encrypted) == Key(cut).digest(encrypted) is not None


def encrypt(key: str) -> str:
    nonce = b"0123456789ab"
    body = AESGCM(key.encode()).encrypt(nonce, b"glcbt-64_token", None)
    return f"|{base64.b64encode(body).decode()}{nonce.decode()}"


def test_a_batch_is_answered_in_order_by_a_child(key_file: Path) -> None:
    with TokenDigests(key_file) as tokens:
        encrypted = [FIRST["dynamic"], "garbage", FIRST["static"]] * 1000
        assert tokens.digests(encrypted) == [FIRST["sha256"], None, FIRST["sha256"]] * 1000
        assert tokens.digests([]) == []
        assert tokens.undecipherable == 1000
        assert tokens.digests(GARBAGE) == [None] * len(GARBAGE)


def test_what_cannot_be_opened_is_counted_and_never_logged(key_file: Path) -> None:
    with TokenDigests(key_file) as tokens, capture_logs() as logs:
        tokens.digests([FIRST["dynamic"], VECTORS[1]["dynamic"]])
    assert logs == [{"event": "tokens-undecipherable", "log_level": "warning", "count": 1}]


def test_threads_share_a_child(key_file: Path) -> None:
    with TokenDigests(key_file) as tokens:
        found: list[list[str | None]] = []

        def ask() -> None:
            for _ in range(20):
                found.append(tokens.digests([FIRST["dynamic"], "garbage"]))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[FIRST["sha256"], None]] * 80


def test_a_child_that_died_is_replaced(key_file: Path) -> None:
    with TokenDigests(key_file) as tokens:
        os.kill(tokens._child.pid, signal.SIGKILL)
        tokens._child.wait()
        assert tokens.digests([FIRST["dynamic"]]) == [FIRST["sha256"]]


def test_a_second_death_ends_the_command_with_a_sentence(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TokenDigests(key_file) as tokens:
        start = tokens._start

        def start_dead() -> "subprocess.Popen[str]":
            child = start()
            child.kill()
            child.wait()
            return child

        monkeypatch.setattr(tokens, "_start", start_dead)
        tokens._child.kill()
        tokens._child.wait()
        for _ in range(2):
            with pytest.raises(TokenKeyError, match=r"the one after it too \(status -9\)"):
                tokens.digests([FIRST["dynamic"]])


@pytest.mark.parametrize("answer", ["", '["half an ans'])
def test_a_child_that_dies_over_its_answer_is_replaced(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    with TokenDigests(key_file) as tokens:
        tokens._child.kill()
        tokens._child.communicate()
        program = f"input(); print({answer!r}, end='')"
        dying = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            encoding="utf-8",
        )  # fmt: skip
        monkeypatch.setattr(tokens, "_child", dying)
        assert tokens.digests([FIRST["dynamic"]]) == [FIRST["sha256"]]


def test_a_system_without_room_for_a_child_is_named(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(TokenKeyError, match="cannot start: Resource temporarily unavailable"):
        TokenDigests(key_file)


def test_a_child_ends_with_its_parent(key_file: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path;"
        "from projector.gitlab.postgres.token_digests import TokenDigests;"
        "tokens = TokenDigests(Path(sys.argv[1])); print(tokens._child.pid, flush=True);"
        "os._exit(1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(key_file)], stdout=subprocess.PIPE, check=False,
        timeout=20,
    )  # fmt: skip
    child = int(done.stdout)
    for _ in range(200):
        if not Path(f"/proc/{child}").exists():
            return
        threading.Event().wait(0.05)
    pytest.fail("the child lives on")


def test_the_key_is_in_no_argument_and_not_in_the_parent(key_file: Path) -> None:
    with TokenDigests(key_file) as tokens:
        arguments = Path(f"/proc/{tokens._child.pid}/cmdline").read_bytes()
    assert FIRST["db_key_base"][:32].encode() not in arguments
    assert str(key_file).encode() in arguments


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_key_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, FIRST["db_key_base"].encode() + b"\n", mode)
    assert read_key(path).digest(FIRST["dynamic"]) == FIRST["sha256"]


def test_a_line_end_is_no_part_of_a_short_key(tmp_path: Path) -> None:
    path = written(tmp_path, VECTORS[1]["db_key_base"].encode() + b"\r\n")
    assert read_key(path).digest(VECTORS[1]["static"]) == VECTORS[1]["sha256"]


@pytest.mark.parametrize("mode", [0o440, 0o640, 0o604, 0o620, 0o777])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path, b"k" * 32, mode)
    with pytest.raises(TokenKeyError, match=f"chmod 400 {path}"):
        TokenDigests(path)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff" * 32])
def test_a_file_without_a_key_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(TokenKeyError, match=r"is empty|is not text") as raised:
        TokenDigests(written(tmp_path, content))
    assert "PROJECTOR_GITLAB_DB_KEY_FILE" in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenKeyError, match="No such file"):
        TokenDigests(tmp_path / "missing")
    with pytest.raises(TokenKeyError, match="directory"):
        TokenDigests(tmp_path)


@pytest.mark.parametrize(
    ("mode", "owner", "user", "exposed"),
    [
        (0o400, 10001, 10001, False),
        (0o440, 0, 10001, False),  # a Secret's file in a pod
        (0o440, 0, 0, True),
        (0o440, 10001, 10001, True),
        (0o440, 10002, 10001, True),
        (0o460, 0, 10001, True),
        (0o444, 0, 10001, True),
    ],
)
def test_a_group_may_read_the_key_only_where_root_gave_it_the_file(
    mode: int, owner: int, user: int, exposed: bool
) -> None:
    file = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 10001, 32, 0, 0, 0))
    assert others_may_use(file, user) is exposed
