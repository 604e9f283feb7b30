"""What is kept from run to run: files that a kill leaves old or new and never half, and the answer to "is it done?".

A thing is done when its manifest, a JSON file that is written last, has the values of `key`, and the files that it
lists under `files` lie beside it in the sizes that it says. Paths are local ones or fsspec URLs. What people write,
YAML, is read here as well: both kinds of text have a limit.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.table.config import Lines, Model, override, parse_yaml, validate
from pipeline.table.errors import ConfigError, InputError, ShardError
from pipeline.table.storage import Storage, read_file

MAX_JSON_BYTES = 1 << 28
MAX_YAML_BYTES = 1 << 20
_Kept = TypeVar("_Kept")


def kept(
    path: str | Path,
    key: Mapping[str, Any],
    make: Callable[[], tuple[_Kept, Mapping[str, Any]]],
    load: Callable[[dict[str, Any]], _Kept | None],
) -> _Kept:
    """Return what is kept under `key` at `path`: loaded where its manifest says that it is done, made otherwise.

    `make` returns the thing, whose files it has written, and its manifest, which is written then. `load` gets the
    manifest and returns None for what turns out to be damaged and is to be made again.

    Raises: ShardError when the manifest is damaged or cannot be written.
    """
    manifest = done(path, key)
    with as_written(path):
        found = load(manifest) if manifest is not None else None
    if found is None:
        found, told = make()
        write_json(path, {**key, **told})
    return found


@contextmanager
def as_written(path: str | Path) -> Iterator[None]:
    """Take what is wrong within the block for a file of ours that holds JSON, but not what was written.

    Raises: ShardError.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ShardError(f"{path} is damaged ({error!r}); delete it and run again") from error


def done(path: str | Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the manifest at `path` when it is of `key` and its files lie there; None when something is to be made.

    Raises: ShardError when it is damaged.
    """
    manifest = read_json(path)
    if not isinstance(manifest, dict) or any(manifest.get(name) != value for name, value in key.items()):
        return None
    files = manifest.get("files", {})
    return manifest if isinstance(files, dict) and lie_there(str(path).rpartition("/")[0], files) else None


def lie_there(folder: str | Path, files: Mapping[str, Any]) -> bool:
    """Tell whether files lie in a folder in these sizes; `files` holds a size, or {bytes: size}, by name."""
    sizes = {name: file.get("bytes") if isinstance(file, dict) else file for name, file in files.items()}
    return all(size_of(f"{folder}/{name}") == size for name, size in sizes.items())


def write_file(path: str | Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old content or the new.

    Raises: ShardError when it cannot be written.
    """
    with create_file(path) as target:
        target.write(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file so that a reader sees the old content or the new.

    Raises: ValueError when it holds NaN or infinity: a number that is not known is null. ShardError as `write_file`.
    """
    write_file(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: str | Path) -> Any | None:
    """Return what a JSON file of ours holds; None when it is absent.

    Raises: ShardError when it is damaged.
    """
    storage, name = _place(path)
    try:
        with storage.open(name) as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise ShardError(f"{path} is larger than {MAX_JSON_BYTES} bytes; delete it and run again")
        return json.loads(data)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path} is damaged ({error}); delete it and run again") from error


def write_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a small `.npz` file so that a reader sees the old content or the new.

    Raises: ShardError as `write_file`.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]] | None:
    """Return what a local `.npz` file of ours holds; None when it is absent. Nothing in it is code.

    Raises: ShardError when it is damaged.
    """
    try:
        with np.load(path) as file:  # allow_pickle is False
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ShardError(f"{path} is damaged ({error}); delete it and run again") from error


def read_yaml(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Lines]:
    """Return a YAML file's mapping and the line of each key path.

    Raises: ConfigError when it is absent, unreadable, not YAML, not a mapping, or repeats a key.
    """
    try:
        text = read_file(path, MAX_YAML_BYTES).decode()
    except FileNotFoundError as error:
        hint = "correct the path (`gristmill init` prints a configuration of a run)"
        raise ConfigError(f"{path} does not exist; {hint}") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return parse_yaml(text.removeprefix("\ufeff"), str(path))


def read_config(model: type[Model], path: str, assignments: Sequence[str] = ()) -> Model:
    """Return the configuration in a YAML file with `--set` assignments applied.

    Raises: ConfigError with one line: file, line, key, value, nearest valid name.
    """
    value, lines = read_yaml(path)
    for assignment in assignments:
        override(value, assignment)
    return validate(model, value, path, lines)


def create_file(path: str | Path) -> AbstractContextManager[BinaryIO]:
    """Open a new file for writing; it appears under its name, durably, when the block ends without an error.

    Raises: ShardError when it cannot be written.
    """
    storage, name = _place(path)
    return storage.create(name, is_beside=True)


def clear_temporary(folder: Path) -> None:
    """Delete what killed writers left in a local folder. Only who holds it may call this."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


def size_of(path: str | Path) -> int | None:
    """Return a file's size in bytes, None when there is none."""
    storage, name = _place(path)
    try:
        return os.stat(storage.path(name)).st_size if storage.is_local else int(storage.fs.size(storage.path(name)))
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def local_copy(path: str | Path) -> Iterator[str]:
    """Give the block a local path to a file: its own, or that of a copy, for what only reads or maps local files.

    Raises: FileNotFoundError.
    """
    storage, name = _place(path)
    if storage.is_local:
        yield storage.path(name)
        return
    with tempfile.NamedTemporaryFile(prefix="gristmill-") as target:
        with storage.open(name) as source:
            shutil.copyfileobj(source, target)
        target.flush()
        yield target.name


def _place(path: str | Path) -> tuple[Storage, str]:
    text = str(path)
    folder, _, name = (text if "://" in text else os.path.abspath(text)).rpartition("/")
    return Storage.at(folder), name


def json_lines(
    stream: BinaryIO, name: str, limit: int, what: str = "an object", most: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `name:line` and the object of every JSON line that is not blank; memory does not grow with the file.

    `what` tells people what each line is: an object with such and such keys.

    Raises: InputError for a line of more than `limit` bytes, one that is no JSON object, or more than `most` bytes in
    all; the lines before it have been yielded.
    """
    number = total = 0
    while line := stream.readline(limit + 1):
        number += 1
        total += len(line)
        where = f"{name}:{number}"
        if len(line) > limit:
            raise InputError(f"{where}: longer than {limit} bytes; each line is {what}: split the text")
        if most is not None and total > most:
            raise InputError(f"{where}: more than {most} bytes in all; give a smaller sample")
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON in UTF-8 ({error}); each line is {what}") from error
        if not isinstance(value, dict):
            raise InputError(f"{where}: a {type(value).__name__}, not {what}")
        yield where, value
