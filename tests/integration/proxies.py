"""nginx and HAProxy with the very rules of docs/gitlab.md, in front of an API and a stand-in."""

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, NamedTuple

from projector.ports import LOOPBACK, is_listening
from tests.absence import skip_test
from tests.integration.ports import free_port
from tests.integration.servers import REPOSITORY, Server, eventually, running

DOCUMENT: Final = REPOSITORY / "docs" / "gitlab.md"
# Debian has them where only root looks.
SEARCHED: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


# What an operator replaces in the rules.
PLACES: Final = {
    "api": "127.0.0.1:8000",
    "gitlab": "gitlab.internal:8181",
    "listen": "127.0.0.1:8080",
    "errors": "/var/log/nginx/error.log",
}


def rule(language: str, **replaced: str) -> str:
    """Return the document's only block in this language, with its places replaced."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
    for place, ours in replaced.items():
        assert PLACES[place] in text, f"{language}: {PLACES[place]}"
        text = text.replace(PLACES[place], ours)
    return str(text)


class Proxy(NamedTuple):
    """A proxy's commands that check and run it, and the address that it listens on."""

    check: list[str]
    run: list[str]
    port: int
    log: Path


def nginx(folder: Path, api: str, gitlab: str) -> Proxy:
    """Write nginx's configuration: the rule, and around it what Debian's has."""
    port, config = free_port(), folder / "nginx.conf"
    places = {"errors": str(folder / "nginx-error.log"), "listen": f"{LOOPBACK}:{port}"}
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    lines = [
        "user root;" if os.geteuid() == 0 else "",
        f"pid {folder}/nginx.pid;\ndaemon off;\nworker_processes 1;\nevents {{}}\nhttp {{",
        f"access_log {folder}/nginx-access.log;",
        *(f"{kind}_temp_path {folder}/nginx-{kind};" for kind in temporary),
        rule("nginx", api=api, gitlab=gitlab, **places),
        "}",
    ]
    config.write_text("\n".join(lines))
    command = [program("nginx"), "-e", f"{folder}/nginx-main.log", "-c", str(config)]
    return Proxy([*command, "-t"], command, port, folder / "nginx.log")


def haproxy(folder: Path, api: str, gitlab: str) -> Proxy:
    """Write HAProxy's configuration: the rule, and before it what Debian's has."""
    port, config = free_port(), folder / "haproxy.cfg"
    logging = "global\n  log stdout format raw local0\ndefaults\n  log global\n  option httplog\n\n"
    config.write_text(
        logging + rule("haproxy", api=api, gitlab=gitlab, listen=f"{LOOPBACK}:{port}")
    )
    command = [program("haproxy"), "-db", "-f", str(config)]
    return Proxy([*command, "-c"], command, port, folder / "haproxy.log")


PROXIES: Final = {"nginx": nginx, "haproxy": haproxy}


def program(name: str) -> str:
    """Find a proxy; skip the test without it."""
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        skip_test(f"NO TEST RUNS BEHIND {name.upper()}: {name} is not installed")
    return found


def check(proxy: Proxy) -> subprocess.CompletedProcess[str]:
    """Let the proxy check its configuration."""
    return subprocess.run(proxy.check, capture_output=True, text=True, check=False, timeout=30)


@contextmanager
def listening(proxy: Proxy) -> Iterator[Server]:
    """Run the proxy for the block."""
    with running(Server(proxy.run, proxy.log)) as server:
        try:
            eventually(lambda: is_listening(proxy.port), f"a proxy: {server.log()}")
            yield server
        finally:
            # nginx's worker ends with its master only if that is asked to stop.
            server.stop()


class GitLab(BaseHTTPRequestHandler):
    """Answers every request with its method and path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"gitlab": f"{self.command} {self.path.partition('?')[0]}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def stand_in() -> Iterator[str]:
    """Serve a stand-in for GitLab; yield its address."""
    server = ThreadingHTTPServer((LOOPBACK, free_port()), GitLab)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
