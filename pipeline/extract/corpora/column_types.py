"""Which columns a file has and of what types, and what types those have that a source keeps: before a row is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.extract.config import KeepColumn
from pipeline.extract.corpora.rows import CorpusFile, Keys, find, to_fields
from pipeline.inputs.files import InputFile
from pipeline.table.errors import InputError, nearest
from pipeline.table.schema import KeptType

MAX_OPENED = 100
"""Files of a source that are opened to see which types its columns have."""
_NATURAL: Mapping[KeptType, str] = {
    "text": r"(large_)?(string|binary)(_view)?|fixed_size_binary\[\d+\]",
    "int": r"u?int\d+",
    "float": r"halffloat|float|double",
    "bool": r"bool",
    "date": r"(timestamp|date\d+)\[.*\]",
}
"""What Arrow calls the types of columns that are kept as ours."""
_LISTS: Mapping[KeptType, KeptType] = {
    "text": "text[]",
    "int": "int[]",
    "float": "float[]",
    "bool": "bool[]",
    "date": "date[]",
}


def settle_types(
    keep: Mapping[str, KeepColumn], inputs: Sequence[InputFile], where: str, is_parquet: bool
) -> dict[str, KeepColumn]:
    """Return a source's kept columns, in the order of their names, each with its type.

    That is the declared one, or else that of the first Parquet file that has the column, or else text. So it does not
    depend on the order of the inputs, nor on what is in the rows.

    Raises: InputError when a file's type is none that can be kept, or when every input is Parquet and none has it.
    """
    settled: dict[str, KeepColumn] = {}
    known: dict[str, None] = {}
    empty: set[str] = set()
    all_read = is_parquet and bool(keep)
    for file in sorted(inputs, key=lambda file: file.name)[:MAX_OPENED] if is_parquet else ():
        if len(settled) == len(keep):
            break
        try:
            with file.open() as stream:
                _, tree = open_parquet(stream, file.name)
        except (InputError, OSError):  # told of when its rows are read
            all_read = False
            continue
        known.update(dict.fromkeys(paths(tree)))
        for name, column in keep.items():
            keys, kind = find_type(tree, column.path)
            if kind == pa.null():  # a column of nothing has no type: another file may tell
                empty.add(name)
            elif name not in settled and keys:
                settled[name] = _settled(column, kind, f"{where}.{name}", file.name)
    for name, column in keep.items():
        if all_read and name not in settled and name not in empty:
            hint = nearest(column.path, known)
            raise InputError(f"{where}.{name}: no column {column.path!r}{hint} in {inputs[0].name} or its like")
    typed = {name: column.model_copy(update={"type": column.type or "text"}) for name, column in keep.items()}
    return dict(sorted({**typed, **settled}.items()))


def _settled(column: KeepColumn, kind: object, where: str, file: str) -> KeepColumn:
    natural = natural_type(kind)
    if column.type is None and natural is not None:
        return column.model_copy(update={"type": natural})
    if isinstance(kind, Mapping):
        fix = f"name one of its fields, such as {next(paths(kind, f'{column.path}.'), f'{column.path}.NAME')}"
    elif column.type is None:
        fix = "give it a type, such as `type: text`"
    elif _may_fit(natural, column.type):
        return column
    else:
        fix = f"as `type: {column.type}` all of it would be null; leave the type out"
    raise InputError(f"{where}: column {column.path!r} of {file} is {shown(kind)}; {fix}")


def _may_fit(natural: str | None, declared: str) -> bool:
    """Tell whether any value of a column's own type can be one of the declared type."""
    if natural is None:
        return True
    if natural.endswith("[]") != declared.endswith("[]"):
        return False
    ours, theirs = declared.removesuffix("[]"), natural.removesuffix("[]")
    return theirs in (ours, "text") or (theirs in ("int", "float") and ours in ("int", "float", "date"))


def natural_type(kind: object) -> KeptType | None:
    """Return what a column of an Arrow type is kept as unless told otherwise; None when nothing suggests itself."""
    if isinstance(kind, pa.BaseExtensionType):
        named: dict[str, KeptType] = {"arrow.uuid": "text", "arrow.bool8": "bool"}
        return named.get(kind.extension_name) or natural_type(kind.storage_type)
    if isinstance(kind, pa.DictionaryType):
        return natural_type(kind.value_type)
    if hasattr(kind, "value_type"):
        inner = natural_type(kind.value_type)
        return _LISTS.get(inner) if inner else None
    return next((kept for kept, pattern in _NATURAL.items() if re.fullmatch(pattern, str(kind))), None)


def open_parquet(stream: BinaryIO, file: str) -> tuple[pq.ParquetFile, dict[str, object]]:
    """Return the file and the types of its columns by name; those of structs are trees, as a row's fields are.

    Raises: InputError when the file is no Parquet.
    """
    try:
        parquet = pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
        return parquet, _tree(list(parquet.schema_arrow))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file: {error}") from error


def _tree(fields: Sequence[pa.Field]) -> dict[str, object]:
    return to_fields([(field.name, _subtree(field.type)) for field in fields])


def _subtree(kind: pa.DataType) -> object:
    if pa.types.is_map(kind):
        return _MapTypes(_subtree(kind.item_type))
    return _tree([kind.field(i) for i in range(kind.num_fields)]) if pa.types.is_struct(kind) else kind


class _MapTypes(dict[str, object]):
    """The types in a map: that of its values, whatever the name."""

    def __init__(self, kind: object) -> None:
        super().__init__()
        self._kind = kind

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> object:
        return self._kind

    def get(self, name: str, default: object = None) -> object:
        return self._kind


def find_type(tree: Mapping[str, object], path: str) -> tuple[Keys | None, object]:
    """Return the keys that lead to `path`, and its type; that in a text, which may hold JSON, is text."""
    keys, kind = find(tree, path)
    end = path.rfind(".")
    while keys is None and end > 0:
        outer, kind = find(tree, path[:end])
        if outer and natural_type(kind) == "text":
            return (*outer, path[end + 1 :]), pa.string()
        end = path.rfind(".", 0, end)
    return keys, kind if keys else None


def paths(tree: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the path of every column that is no struct."""
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            yield from paths(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def shown(kind: object) -> str:
    """Return a type for a message."""
    return "a struct or map" if isinstance(kind, Mapping) else str(kind)[:100]


def check_columns(corpus: CorpusFile, tree: Mapping[str, object], known: Sequence[str]) -> None:
    """Raise InputError when a file lacks a mapped column or text, or has several of that name."""
    mapped = {"text": "text", **corpus.columns, **{name: column.path for name, column in corpus.keep.items()}}
    for ours, theirs in mapped.items():
        keys, _ = find_type(tree, theirs)
        if keys is None and ours not in corpus.keep:  # a kept column is null in a file that lacks it
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            hint = "" if ours in corpus.columns else "; map one: `columns: {text: NAME}`"
            raise InputError(f"{corpus.file}: no column {theirs!r}{nearest(theirs, known)}; it has {listed}{hint}")
        if keys == ():
            raise InputError(f"{corpus.file}: several columns are called {theirs!r}; rename all but one in the file")
