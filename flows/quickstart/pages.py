"""The standard library's documentation as HTML, rendered by pydoc in a process of its own.

Run as a script this file is the worker: it reads a JSON list of module names on stdin and answers one JSON line a
module, in order. Importing a module runs its code, so the worker starts with an empty environment in an empty folder,
and a module that hangs or kills it costs itself alone: the parent starts another worker for the rest. The worker needs
the standard library only.
"""

from __future__ import annotations

import json
import os
import pydoc
import re
import select
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

MODULE_LIMIT_S = 20.0

# Side effects (a browser, a poem, a window), test suites, and packages whose import configures the interpreter.
SKIPPED = frozenset(
    {"antigravity", "this", "__hello__", "__phello__", "idlelib", "turtledemo", "turtle", "tkinter", "test", "tests"}
    | {"lib2to3", "pydoc_data", "ensurepip", "site", "sitecustomize", "usercustomize", "lib-dynload", "__pycache__"}
    | {"site-packages", "dist-packages", "__main__"}
)
LISTING = re.compile(r"\n[ ]|^(>>>|[-*|+#=])", re.MULTILINE)
ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
PRIVATE_KEPT = frozenset({"__future__", "_pydecimal", "_pyio", "_strptime", "_threading_local"})


def standard_modules() -> list[str]:
    """Return the dotted names of the public standard-library modules that are safe to import, sorted.

    Of the hundred `encodings` only the ISO 8859 family is taken: modules of one template, natural near-duplicates.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    found = {name for name in sys.stdlib_module_names if not name.startswith("_")}
    for path in library.rglob("*.py"):
        parts = path.relative_to(library).with_suffix("").parts
        found.add(".".join(parts).removesuffix(".__init__"))
    return sorted(name for name in found if _is_wanted(name))


def _is_wanted(name: str) -> bool:
    parts = name.split(".")
    if SKIPPED.intersection(parts) or not all(part.isidentifier() for part in parts):
        return False
    if parts[0] == "encodings" and len(parts) > 1:
        return parts[1].startswith("iso8859")
    return name in PRIVATE_KEPT or not any(part.startswith("_") for part in parts)


def render_modules(names: list[str], limit_s: float = MODULE_LIMIT_S) -> dict[str, str]:
    """Return the HTML fragment of every module of `names` that pydoc can render; the others are absent.

    `limit_s` is the longest wait for one module, in seconds.
    """
    pages: dict[str, str] = {}
    remaining = list(names)
    while remaining:
        answers = _render_until_stuck(remaining, limit_s)
        pages |= {name: page for name, page in zip(remaining, answers, strict=False) if page is not None}
        remaining = remaining[len(answers) + 1 :]  # the module after the last answer hung or killed the worker
    return pages


def _render_until_stuck(names: list[str], limit_s: float) -> list[str | None]:
    """Return one worker's answers, in the order of `names`, up to the first module that it does not answer."""
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    command = [sys.executable, "-P", "-s", "-S", str(Path(__file__).resolve())]
    told = bytearray()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=folder,
            env=environment,
        ) as worker,
    ):
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(names).encode())
            worker.stdin.close()
            while select.select([worker.stdout], [], [], limit_s)[0] and (
                data := os.read(worker.stdout.fileno(), 1 << 16)
            ):
                told += data
        finally:
            worker.kill()
    return [json.loads(line) for line in told.split(b"\n")[:-1]]


class _Pages(pydoc.HTMLDoc):
    """pydoc's HTML with headings and paragraphs in place of layout tables and hard line ends.

    It leaves out what differs from one machine or start to the next: paths and the values of variables.
    """

    def heading(self, title: str, extras: str = "") -> str:
        """Return the page's heading."""
        return f"<h1>{title}</h1>\n<p class='where'>{extras}</p>\n"

    def section(self, title: str, cls: str, contents: str, width: int = 6, prelude: str = "", *ignored: object) -> str:
        """Return a section with a heading; pydoc makes a table of it."""
        return f"<section class='{cls}'><h2>{title}</h2>\n<p>{prelude}</p>\n{contents}</section>\n"

    def markup(self, text: str, escape: Any = None, funcs: Any = None, classes: Any = None, methods: Any = None) -> str:
        """Return a docstring with its links, one line a paragraph."""
        return super().markup(reflow(text), None, funcs or {}, classes or {}, methods or {}).replace("\n", "<br>\n")

    def docother(self, object: object, name: str | None = None, mod: object = None, *ignored: object) -> str:  # noqa: A002
        """Return the name and the type of a variable: values hold paths, addresses and the environment."""
        kind = f"<em>{self.escape(type(object).__name__)}</em>"
        return f"<strong>{name}</strong>: {kind}" if name else kind

    def filelink(self, url: str, path: str) -> str:
        """Return the source file's path within the library."""
        library = sysconfig.get_paths()["stdlib"]
        return self.escape(os.path.relpath(path, library)) if path.startswith(library) else "(built-in)"


def reflow(text: str) -> str:
    """Return `text` with the lines of each paragraph joined; indented blocks, lists and examples keep their lines."""
    blocks = re.split(r"\n\s*\n", text.expandtabs().strip())
    return "\n\n".join(block if LISTING.search(block) else " ".join(block.split()) for block in blocks)


def _worker() -> None:
    """Answer the modules named on stdin, one JSON line each: the page, or null where the import fails."""
    names = json.loads(sys.stdin.read())
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what modules print while they are imported goes nowhere
        renderer = _Pages()
        for name in names:
            try:
                module = pydoc.locate(name)
            except pydoc.ErrorDuringImport:
                module = None
            page = renderer.document(module, name) if module is not None else None
            if page is not None:  # the addresses of objects, and of the library, differ from start to start
                page = ADDRESS.sub("0x", page).replace(sysconfig.get_paths()["stdlib"], "Lib")
            answers.write(json.dumps(page) + "\n")
            answers.flush()


if __name__ == "__main__":
    _worker()
