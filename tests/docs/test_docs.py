"""The README is short, what it and other pages at the top name exists, and what is shipped is valid."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from flows.cli import parser
from flows.config import load
from flows.reference.entries import leaves
from pipeline.mix.config import MixConfig, SuiteConfig
from pipeline.mix.steps.workspace import load_mix
from pipeline.table.config import validate
from pipeline.table.kept import read_yaml
from tests.docs.blocks import ROOT, Block, blocks, commands, read

LEAVES = {f"gristmill {name}": command for name, command in leaves(parser())}
SHIPPED = ROOT / "configs"
README = read("README.md")
SHELL = [block for block in blocks("README.md") if block.language == "bash"]


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.text.split("\n")[0][:50])
def test_commands_in_shell_blocks_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in commands(block.text):
        if words[0] == "gristmill":
            parser().parse_args(words[1:])  # ends the test with SystemExit where argparse refuses it
        elif words[0] == "make":
            assert set(words[1:]) <= targets, words
        else:
            assert words[:2] == ["pip", "install"], f"what is {words}?"
            for path in re.findall(r"-c (\S+)", " ".join(words)):
                assert (ROOT / path).is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "mixes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_mixes_are_valid(path: Path) -> None:
    assert load_mix(str(path))[0].slices


def test_the_mix_of_the_readme_is_the_quickstarts() -> None:
    (shown,) = (yaml.safe_load(block.text) for block in blocks("README.md") if block.language == "yaml")
    mix = load_mix(str(SHIPPED / "mixes" / "quickstart.yaml"))[0]
    assert validate(MixConfig, {**shown, "measure": mix.measure}, "README.md", {}) == mix


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid(path: Path) -> None:
    value, lines = read_yaml(path)
    assert validate(SuiteConfig, value, str(path), lines).all()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert load(str(path)).sources


# The repository ----------------------------------------------------------------------------------------------------


def test_the_newest_version_of_the_changelog_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert versions[0] == project["version"]


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 200


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_resolve(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", text, re.MULTILINE):
        link = target[0] or target[1]
        if link.startswith("#"):
            assert link[1:] in anchors, f"{name} has no heading for {link}"
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), f"{name} links to {link}, which is not there"


# Paths of one machine and hosts of package indexes; in pieces, so that this file does not find itself.
_PRIVATE = re.compile(
    "|".join(["/wor" + "k/", "/roo" + "t/", "/hom" + "e/[a-z]", r"pypi\." + "org", "python" + "hosted"])
)


def tracked() -> list[Path]:
    """Return the files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_nothing_private_is_in_the_repository() -> None:
    files = tracked()
    assert len(files) > 50
    found = []
    for path in files:
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), start=1):
            if _PRIVATE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found
