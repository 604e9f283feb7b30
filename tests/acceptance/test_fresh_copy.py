"""A fresh copy of the repository: installed, tried and tested as README and docs/how-to/install.md say.

Needs an index of packages, and several minutes for what it installs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, check_shown, held
from tests.docs.test_tutorials import TUTORIALS, follow

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3000)]
IMPORTED = """
import importlib, json, re, sys
from importlib.metadata import packages_distributions

wanted, found = {re.sub("[-_.]+", "-", name).lower() for name in json.loads(sys.argv[1])}, set()
for name, distributions in packages_distributions().items():
    of = wanted & {re.sub("[-_.]+", "-", each).lower() for each in distributions}
    try:
        if of and name.isidentifier() and importlib.import_module(name):
            found |= of
    except ModuleNotFoundError:  # a driver for what is not asked for; a distribution that brings nothing else is named
        continue
print(json.dumps(sorted(wanted - found)))
"""
"""Imports what distributions bring, and prints those that bring nothing."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `git clone` would give, of the files as they are; skips where there is no index to install from."""
    folder = tmp_path_factory.mktemp("fresh")
    tried = bash(
        f"{sys.executable} -m pip download --quiet --no-deps --dest tried six",
        folder,
        {"PATH": os.environ["PATH"]},
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"no index of packages: {tried.stdout.strip().splitlines()[-1]}")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]
    for name in names:
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "copy" / name).write_bytes((ROOT / name).read_bytes())
    return folder / "copy"


def bash(text: str, folder: Path, environment: dict[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a block as it is written, without this process's packages; what it says on both streams is its stdout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PREFECT_API_URL")
    }
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=folder,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, f"{text}\n{done.stdout}"
    return done


def path(environment: Path) -> str:
    """Return PATH with the programs of a virtual environment in front."""
    return f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"


def test_installing_into_an_environment_of_one_s_own(copy: Path, tmp_path: Path) -> None:
    (block,) = held(test_installing_into_an_environment_of_one_s_own)
    venv.create(tmp_path / "env", with_pip=True)
    bash(block.text, copy, {"PATH": path(tmp_path / "env")})
    project = tomllib.loads((copy / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = ["gristmill", *(re.split(r"[^\w.-]", each)[0] for each in project["dependencies"])]
    command = [str(tmp_path / "env" / "bin" / "python"), "-c", IMPORTED, json.dumps(wanted)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": path(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [], "nothing of these can be imported"


def test_make_does_what_the_readme_says(copy: Path, tmp_path: Path) -> None:
    """The blocks of the README that want a repository, in their order, and the tutorials to which it leads, with what
    was installed so; then what is shown elsewhere of the quickstart.

    Of the tests that `make test` starts one file is run: all of them are what runs this.
    """
    typed = [block for block in blocks("README.md") if block.language == "bash" and not block.marks]
    assert {"make quickstart", "make test"} <= {line for block in typed for line in block.text.splitlines()}
    environment = {"PATH": path(copy / ".venv"), "PYTEST_ADDOPTS": "tests/docs/test_imports.py"}
    said = ""
    for block in typed:
        done = bash(block.text, copy, environment).stdout.replace(f"{copy}/", "")
        check_shown(block.output, done)
        said += done
    for page in TUTORIALS:
        folder = tmp_path / Path(page).stem
        folder.mkdir()
        follow(page, folder, lambda text, folder=folder: bash(text, folder, environment).stdout)
    for block in held(test_make_does_what_the_readme_says):
        shown = re.sub(r"^\$ (.*)\n", "", block.text, flags=re.MULTILINE)
        for line in re.findall(r"^\$ (.*)$", block.text, re.MULTILINE):
            said += bash(line, copy, environment).stdout
        check_shown(shown, said)
