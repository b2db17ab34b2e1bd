"""An ingest in front of a deployment, and its file of tokens."""

import hashlib
import json
from pathlib import Path

import httpx

from tests.integration.deployment import Deployment
from tests.integration.ports import free_port
from tests.integration.servers import Server, eventually

TOKEN = "a-token-of-the-tests"
_DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
RIGHTS = {"types": ["*"], "partitionkeys": "*", "sources": "*", "heartbeats": ["acme"]}


class Ingest:
    """A running `projector ingest`; `TOKEN` may send everything."""

    def __init__(self, product: Deployment) -> None:
        """Start an ingest in front of a deployment that runs."""
        self.product = product
        self.tokens: Path = product.folder / "ingest-tokens.json"
        self.accept_token()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {"PROJECTOR_INGEST_TOKENS_FILE": str(self.tokens), "PROJECTOR_SOURCES": "acme"}
        self.server: Server = product.start("ingest", "--port", str(port), **settings)
        eventually(self.is_ready, f"the ingest ready: {self.server.log()}")

    def accept_token(self) -> None:
        """Write the file of tokens."""
        self.tokens.write_text(json.dumps([{"name": "tests", "token_sha256": _DIGEST, **RIGHTS}]))

    def break_tokens(self) -> None:
        """Make the file of tokens unusable: every request gets 503."""
        self.tokens.write_text("{")
        eventually(lambda: not self.is_ready(), "the ingest not ready")

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def answered(self, status: int) -> float:
        """Return how many requests to `/events` had this status, as `/metrics` counts them."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        name = "projector_ingest_request_seconds_count{"
        mine = (line for line in lines if line.startswith(name) and f'"{status}"' in line)
        return sum(float(line.rpartition(" ")[2]) for line in mine)
