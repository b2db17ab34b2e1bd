"""The locks of the image hold what the product needs, in the versions that are tested."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
IMAGE = REPOSITORY / "deploy" / "image"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def locked(file: Path) -> dict[str, str]:
    found = re.findall(r"^([a-zA-Z0-9._-]+)==(\S+)", file.read_text(), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def named(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(each).name) for each in requirements}


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested = locked(REPOSITORY / "requirements.lock")
    image = locked(IMAGE / "runtime.lock")
    assert {name: tested.get(name) for name in image} == image


def test_the_image_has_all_that_the_product_and_its_extras_import() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["gitlab"] + extras["tracing"]
    assert named(wanted) <= locked(IMAGE / "runtime.lock").keys()
    tools = PROJECT["dependency-groups"]["image-build"]
    assert named(tools) <= locked(IMAGE / "build.lock").keys()


@pytest.mark.parametrize("name", ["runtime.lock", "build.lock"])
def test_every_package_of_the_image_has_its_hashes(name: str) -> None:
    text = (IMAGE / name).read_text()
    packages = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) == len(locked(IMAGE / name))
    assert all("--hash=sha256:" in package for package in packages)


def test_the_labels_of_the_image_have_the_version_of_the_product() -> None:
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    assert f"\nARG VERSION={PROJECT['project']['version']}\n" in dockerfile
