"""The chart of deploy/helm, rendered by the Helm that `scripts/helm fetch` builds."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.absence import skip_test

REPOSITORY: Final = Path(__file__).parents[3]
CHART: Final = REPOSITORY / "deploy" / "helm"
VALUES: Final = {path.stem: path for path in sorted((CHART / "ci").glob("*.yaml"))}
RELEASE: Final = "agents"
KUBERNETES: Final = "1.34.4"
Manifest = dict[str, Any]
# Objects whose template makes pods.
WITH_PODS: Final = {"Deployment", "StatefulSet", "Job"}


@cache
def helm_or_skip() -> str:
    """Return the path of Helm; skip the test without it."""
    asked = [str(REPOSITORY / "scripts" / "helm"), "path"]
    path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(path).exists():
        reason = "NO TEST OF THE CHART RUNS: no Helm; install Go and run `scripts/helm fetch`"
        skip_test(reason)
    return path


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm_or_skip(), *arguments], capture_output=True, text=True, check=False)


def template(
    *arguments: str, chart: Path = CHART, release: str = RELEASE
) -> subprocess.CompletedProcess[str]:
    """Render the chart with further arguments of `helm template`."""
    return helm("template", release, str(chart), "--kube-version", KUBERNETES, *arguments)


@cache
def rendered(name: str, *arguments: str) -> list[Manifest]:
    """Return the manifests of a file of values in `ci`, hooks too."""
    done = template("--values", str(VALUES[name]), *arguments)
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def parse(text: str) -> list[Manifest]:
    # The loader in Python takes a second for the alerts.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [manifest for manifest in yaml.load_all(text, Loader=loader) if manifest]


def refusal(name: str, *arguments: str) -> str:
    """Return why Helm refuses the values; fail if it does not."""
    done = template("--values", str(VALUES[name]), *arguments)
    assert done.returncode != 0, f"accepted: {arguments}"
    return done.stderr


def notes(folder: Path, name: str, *arguments: str) -> str:
    """Return what Helm prints after an installation; `helm template` leaves it out."""
    chart = shutil.copytree(CHART, folder / "chart")
    text = '{{ include (print $.Template.BasePath "/NOTES.txt") . | quote }}'
    (chart / "templates" / "notes.yaml").write_text(f"kind: Notes\nnotes: {text}")
    done = template("--values", str(VALUES[name]), *arguments, chart=chart)
    assert done.returncode == 0, done.stderr
    [found] = of_kind(parse(done.stdout), "Notes")
    return str(found["notes"])


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    [found] = [m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name]
    return found


def component(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the templates of all pods, by component; that of `helm test` too."""
    found = {component(m): m["spec"]["template"] for m in of_kind(manifests, *WITH_PODS)}
    return found | {component(m): m for m in of_kind(manifests, "Pod")}


def container(pod: Manifest) -> Manifest:
    [only] = pod["spec"]["containers"]
    return dict(only)


def environment(pod: Manifest) -> dict[str, str]:
    """Return the variables of a pod's container; empty those that come from a Secret."""
    return {each["name"]: each.get("value", "") for each in container(pod)["env"]}


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()
