"""Numba kernels over Arrow buffers: words, shingles, MinHash signatures, text statistics, union-find.

Importing this package points Numba's on-disk cache at a folder that can be written, since `cache=True` otherwise raises
while a kernel module is imported from a read-only installation. The folder's name covers the bytes of every kernel
source, because Numba alone does not notice an edit of a function that is called from another module. A user's own
NUMBA_CACHE_DIR is respected.

Kernels are compiled with `entry`, `inner` and `inlined`: no Python object, no allocation, no reference counting, the
GIL released. A division by zero is infinite or NaN, as in C, and no error; the scores of models count on it, and no
other divisor can be zero. What has to allocate is plain `njit`.

The kernels of text statistics pass dozens of arrays around in named tuples. `_nrt=False` drops Numba's atomic reference
counting of each at every call (it made them twice as slow) and with it the right to allocate: all memory comes from
Python. Inlining drops the copying of the tuples (four times as slow). Inner functions are compiled into the entry
point's one cached file, without wrappers of their own, which halves the time of compiling; from Python they are plain
Python.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import register_jitable

from pipeline import user_cache

entry = numba.njit(cache=True, nogil=True, _nrt=False, error_model="numpy")
inner = register_jitable(_nrt=False, error_model="numpy")
inlined = register_jitable(_nrt=False, error_model="numpy", forceinline=True)


def source_digest() -> str:
    """Return 16 hex digits over all kernel sources and the versions of the libraries that compile them."""
    digest = hashlib.blake2b(digest_size=8)
    for version in (numba.__version__, np.__version__):
        digest.update(version.encode() + b"\0")
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def cache_folder(base: Path) -> Path:
    """Return the folder for compiled kernels under `base`, or a private temporary one when `base` cannot be written."""
    folder = base / "gristmill" / f"numba-{source_digest()}"
    try:
        # Without a home folder "~" stays a relative path, which would land in the working directory.
        if folder.is_absolute():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    except OSError:
        pass  # read-only home folder, full disk: a private folder serves this process
    private = Path(tempfile.mkdtemp(prefix="gristmill-numba-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return private


# The one side effect of an import in this package: it must happen before any kernel module is decorated.
_config: Any = numba.config
if not _config.CACHE_DIR:
    _config.CACHE_DIR = str(cache_folder(user_cache()))
