"""The build of Helm by `scripts/helm`."""

import os
import subprocess
from pathlib import Path

from tests.integration.helm.chart import REPOSITORY


def test_a_go_that_is_too_old_is_named(tmp_path: Path) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\n[ $1 = env ] && echo go1.19.8 || exit 1\n")
    go.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(REPOSITORY / "scripts" / "helm"), "fetch"], capture_output=True, text=True, check=True,
        env=os.environ | {"PATH": path, "KAFKA_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert "needs Go 1.24, and this is go1.19.8" in done.stderr
