"""Containers of the chart in deploy/helm, run as processes of the product.

Arguments, variables and the contents of files are those that the chart renders. Only folders and
ports are others, since tests run side by side.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.integration import processes
from tests.integration.helm.chart import (
    RELEASE,
    Manifest,
    container,
    environment,
    of_kind,
    parse,
    pods,
    template,
)  # fmt: skip
from tests.integration.ports import free_port
from tests.integration.servers import Server, projector

FILES: Final = "/etc/projector"
STATE: Final = "/var/lib/projector"
# Secrets and ConfigMaps, by name: key and content.
Objects = Mapping[str, Mapping[str, str]]


class Installation:
    """A rendered chart, and the Secrets that were there before it."""

    def __init__(self, values: Mapping[str, Any], before: Objects, folder: Path) -> None:
        (given := folder / "values.yaml").write_text(yaml.safe_dump(dict(values)))
        done = template("--values", str(given))
        assert done.returncode == 0, done.stderr
        manifests = parse(done.stdout)
        self.pods = pods(manifests)
        self._folder = folder
        self._objects = {**before, **made_by(manifests)}

    def run(self, part: str) -> subprocess.CompletedProcess[str]:
        """Run a container to its end."""
        arguments, env, _ = self._process(part)
        return processes.run("projector", arguments, env, "", timeout=60)

    def start(self, part: str) -> tuple[Server, str]:
        """Start a container; return its process and its address."""
        arguments, env, port = self._process(part)
        server = projector(arguments, self._folder / f"{part}.log", env)
        return server, f"http://127.0.0.1:{port}"

    def env(self, part: str) -> dict[str, str]:
        """Return the variables of a container, to run another command beside it."""
        return self._process(part)[1]

    def test(self, address: str) -> subprocess.CompletedProcess[str]:
        """Run the pod of `helm test` against this address of the API."""
        only = container(self.pods["test"])
        [*arguments, url] = only["args"]
        [program, *options] = only["command"]
        assert program == "python"
        asked = address + url.removeprefix(f"http://{RELEASE}-api:80")
        return subprocess.run(
            [sys.executable, *options, *arguments, asked], capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    def paths(self, part: str) -> set[str]:
        """Return the paths of the container's probes."""
        only = container(self.pods[part])
        return {probe["httpGet"]["path"] for name, probe in only.items() if name.endswith("Probe")}

    def _process(self, part: str) -> tuple[list[str], dict[str, str], int]:
        pod, port = self.pods[part], free_port()
        listening = [str(each["containerPort"]) for each in container(pod).get("ports", [])]
        self._mount(part, pod)

        def moved(text: str) -> str:
            folder = str(self._folder / part)
            text = str(port) if text in listening else text
            return text.replace(FILES, folder).replace(STATE, folder)

        env = {name: moved(value) for name, value in environment(pod).items()}
        return [moved(argument) for argument in container(pod)["args"]], env, port

    def _mount(self, part: str, pod: Manifest) -> None:
        folder = self._folder / part
        for volume in pod["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                [named] = source.values()
                for item in named["items"]:
                    (file := folder / item["path"]).parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(self._objects[named["name"]][item["key"]])
        folder.mkdir(exist_ok=True)


def made_by(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    """Return the Secrets and ConfigMaps of manifests."""
    return {
        m["metadata"]["name"]: m.get("stringData") or m["data"]
        for m in of_kind(manifests, "Secret", "ConfigMap")
    }
