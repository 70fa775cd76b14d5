"""constraints.txt names every package of the environment that the tests run in, and no other."""

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("train", "dev")
CUDA = re.compile(r"(nvidia|cuda)-|triton$")
"""What PyTorch's CUDA build needs, and its CPU build does not."""


def pinned(file: str = "constraints.txt") -> dict[str, Requirement]:
    """Name -> line of a file of pins."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    names = [r.name for r in requirements]
    assert names == sorted(set(names)), "sorted, each name once"
    return {r.name: r for r in requirements}


def own_requirements(extras: Iterable[str]) -> list[Requirement]:
    """What pyproject.toml asks for, its extras that name extras of its own followed."""
    lines = [*PROJECT["dependencies"], *(line for e in extras for line in PROJECT["optional-dependencies"][e])]
    requirements = [Requirement(line) for line in lines]
    own = [r for r in requirements if r.name == PROJECT["name"]]
    others = [r for r in requirements if r.name != PROJECT["name"]]
    return [*others, *(own_requirements(sorted(set().union(*(r.extras for r in own)))) if own else [])]


def needed(requirements: Iterable[Requirement]) -> dict[str, Version | None]:
    """Name -> installed version of everything that `requirements` bring along here; None where it is not installed."""
    versions: dict[str, Version | None] = {}
    seen: set[tuple[str, str]] = set()
    queue = [(canonicalize_name(r.name), extra) for r in requirements for extra in ("", *r.extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            versions[name] = None
            continue
        versions[name] = Version(found.version)
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                queue += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    return versions


def test_each_line_holds_one_version_for_every_python() -> None:
    for name, requirement in (pinned() | pinned("docs/constraints.txt")).items():
        assert name == canonicalize_name(name), f"{name}: written {canonicalize_name(name)}"
        assert re.fullmatch(r"==[^*+,]+", str(requirement.specifier)), f"{requirement}: one public version"
        assert not requirement.extras and requirement.url is None, str(requirement)
        assert re.fullmatch(r'python_version (<|>=) "3\.1[23]"|None', str(requirement.marker)), str(requirement)


def test_the_site_adds_pins_and_changes_none() -> None:
    assert pinned().keys().isdisjoint(pinned("docs/constraints.txt"))


def test_what_the_project_names_is_pinned_within_its_range() -> None:
    lines = pinned() | pinned("docs/constraints.txt")
    for requirement in own_requirements(PROJECT["optional-dependencies"]):
        (version,) = lines[canonicalize_name(requirement.name)].specifier
        assert requirement.specifier.contains(version.version), f"{requirement} excludes {version}"


@pytest.mark.skipif(
    not (Path(sys.prefix) / ".installed-all").exists(), reason="not an environment that `make setup` made"
)
def test_the_environment_is_the_pinned_one() -> None:
    """A PyTorch of another source than the usual (2.15.0+cpu, say) may be of any version, and bring no CUDA."""
    installed = needed([*own_requirements(EXTRAS), Requirement("pip")])
    lines = {n: r for n, r in pinned().items() if r.marker is None or r.marker.evaluate()}
    if installed["torch"] is not None and installed["torch"].local is not None:
        installed, lines = (
            {n: v for n, v in d.items() if n not in ("torch", "torchvision") and not CUDA.match(n)}
            for d in (installed, lines)
        )
    assert [n for n, version in installed.items() if version is None] == [], "needed, not installed"
    wrong = {
        n: v for n, v in installed.items() if n not in lines or not lines[n].specifier.contains(v, prereleases=True)
    }
    unneeded = sorted(lines.keys() - installed.keys())
    assert not wrong, "constraints.txt should say " + ", ".join(f"{n}=={v}" for n, v in sorted(wrong.items()))
    assert not unneeded, f"constraints.txt names what no extra needs any more: {', '.join(unneeded)}"
