"""`gristmill doctor`: what this machine has, and what would stop a run."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from pipeline import user_cache
from pipeline.table.errors import GristmillError, redact

_PACKAGES = (
    *("gristmill", "prefect", "pyarrow", "duckdb", "trafilatura", "resiliparse", "fastwarc", "fasttext-community"),
    *("datasketch", "numba", "numpy"),
)
_OTHER_FASTTEXT = ("fasttext", "fasttext-wheel", "fasttext-predict", "fasttext-numpy2", "fasttext-numpy2-wheel")


def examine() -> Iterator[dict[str, str]]:
    """Yield each check as it is done: `check`, `state` (ok or FAIL) and what is `said`; a run works without FAIL."""
    for name, check in _CHECKS.items():
        try:
            state, said = "ok", check()
        except (GristmillError, OSError, ImportError) as error:
            state, said = "FAIL", str(error)
        yield {"check": name, "state": state, "said": " ".join(said.split())}


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(".").free / 2**30
    if sys.platform != "linux":
        raise GristmillError(f"{sys.platform}: isolated extraction needs Linux (parent-death signals, /proc)")
    python = platform.python_version()
    return f"Python {python}, {os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB disk free"


def _packages() -> str:
    for other in _OTHER_FASTTEXT:
        try:
            version(other)
        except PackageNotFoundError:
            continue
        raise GristmillError(
            f"{other} is installed and overwrites the fasttext module: pip uninstall {other}, "
            "then pip install --force-reinstall --no-deps fasttext-community"
        )
    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)


def _language() -> str:
    from pipeline.inputs.shipped import lid_model_path
    from pipeline.signals.language import load_model

    model = load_model(lid_model_path())
    return f"lid.176.ftz, {len(model.labels)} languages"


def _kernels() -> str:
    import pyarrow as pa

    from pipeline.dedup.minhash import sign_table
    from pipeline.signals.text_stats import text_stats

    started = time.monotonic()
    documents = pa.table({"doc_id": ["0"], "text": ["one two three four five six"]})
    text_stats(documents)
    sign_table(documents, 2, 2, 5)
    return f"compiled or loaded from the cache in {time.monotonic() - started:.1f} s"


def _extraction() -> str:
    from pipeline.extract.config import ExtractConfig
    from pipeline.extract.html.messages import HtmlOptions
    from pipeline.extract.html.pages import extract_pages
    from pipeline.extract.shard import page_pool
    from pipeline.extract.units import Document, Origin, Page

    started = time.monotonic()
    body = b"<html><body><article><p>%b</p></article></body></html>" % (b"A sentence that is long enough. " * 20)
    page = Page(Origin("doctor", 0), None, body, "text/html", "utf-8", None, None)
    with page_pool(1, ExtractConfig()) as pool:
        (result,) = extract_pages(pool, [page], HtmlOptions())
    if not isinstance(result, Document):
        raise GristmillError(f"an isolated worker refused a plain page: {result.reason} {result.detail}")
    return f"an isolated worker extracted a page in {time.monotonic() - started:.1f} s"


def _prefect() -> str:
    from flows.server import prefect_server
    from pipeline.table.interrupts import Stop

    started = time.monotonic()
    named = os.environ.get("PREFECT_API_URL")
    with prefect_server(Stop()):
        return redact(named or "") or f"our own server answered in {time.monotonic() - started:.1f} s"


def _home() -> str:
    folder = user_cache() / "gristmill"
    if not folder.is_absolute():
        return "no home folder: kernels are compiled in every process anew; set XDG_CACHE_HOME"
    folder.mkdir(parents=True, exist_ok=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{folder}: {size / 2**20:.0f} MiB of compiled kernels and Prefect's database; may be deleted any time"


_CHECKS: dict[str, Callable[[], str]] = {
    "machine": _machine,
    "packages": _packages,
    "language model": _language,
    "kernels": _kernels,
    "extraction": _extraction,
    "caches": _home,
    "Prefect": _prefect,
}
