"""Gristmill from Python: what the command line does, as functions and tables.

    import gristmill as gm

    gm.run("curate.yaml", {"select.rules.words": "word_count > 60"})
    ws = gm.open("ws")
    ws.funnel().df()
    ws.source("web").curated.scan().to_table(columns=["url"])

Each command is a function of its name (`gristmill classifier train` is `classifier_train`); those about a workspace are
methods of what `open` returns. All answer with an `Answer`: rows to iterate over, `df()`, `pl()`, `arrow()`, the `text`
that the command prints and the `json()` that it prints with `--json`. A foreseeable mistake raises a `GristmillError`
whose message is the command line's; `exit_code` is what it would have ended with.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path


def _import_ours() -> None:
    """Import the packages that this one stands on from where it lies itself, whatever folders are called alike.

    Raises: ImportError when another package of such a name is imported already.
    """
    home, names = Path(__file__).resolve().parent.parent, ("pipeline", "classifiers", "flows", "configs")
    sys.path.insert(0, str(home))
    try:
        for name in names:
            spec = importlib.import_module(name).__spec__
            lies = Path((spec and spec.origin) or "/").resolve()
            if lies != home / name / "__init__.py":
                raise ImportError(f"{lies} is imported as {name!r}, which hides Gristmill's package; rename it")
    finally:
        sys.path.remove(str(home))
    for folder in {Path(entry or ".").resolve() for entry in sys.path} - {home}:
        for name in names:
            if (folder / name / "__init__.py").is_file() or (folder / f"{name}.py").is_file():
                said = f"{folder / name}: `import {name}` gives Gristmill's package of that name; rename yours"
                warnings.warn(said, stacklevel=3)


_import_ours()

from flows.commands import (  # noqa: E402
    classifier_evaluate,
    classifier_train,
    mix_predict,
    rules_list,
    rules_show,
    scaling_allocate,
    scaling_fit,
    scaling_predict,
)
from gristmill.runs import doctor, init, mix, mix_fit, plan, rephrase, run, serve, verify  # noqa: E402
from gristmill.workspace import Parts, Source, Workspace, open  # noqa: A004, E402
from pipeline.table.errors import (  # noqa: E402
    ConfigError,
    ConservationError,
    GristmillError,
    GuardrailError,
    InputError,
    MissingDependencyError,
    QueryError,
    RuleError,
    SchemaError,
    ShardError,
    UsageError,
    WorkspaceError,
)
from pipeline.table.format import Answer  # noqa: E402

__all__ = [
    "Answer",
    "ConfigError",
    "ConservationError",
    "GristmillError",
    "GuardrailError",
    "InputError",
    "MissingDependencyError",
    "Parts",
    "QueryError",
    "RuleError",
    "SchemaError",
    "ShardError",
    "Source",
    "UsageError",
    "Workspace",
    "WorkspaceError",
    "classifier_evaluate",
    "classifier_train",
    "doctor",
    "init",
    "mix",
    "mix_fit",
    "mix_predict",
    "open",
    "plan",
    "rephrase",
    "rules_list",
    "rules_show",
    "run",
    "scaling_allocate",
    "scaling_fit",
    "scaling_predict",
    "serve",
    "verify",
]
