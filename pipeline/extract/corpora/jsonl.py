"""Existing corpora as JSON Lines or JSON arrays, in whatever compression and encoding, to documents and rejects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from pipeline.extract.config import ExtractLimits, KeepColumn
from pipeline.extract.corpora.lines import BOM, Line, is_json_array, read_elements, read_lines
from pipeline.extract.corpora.rows import MAX_DEPTH, NOTHING_KEPT, RowItem, row_damage, row_reject, to_fields, to_item

MAX_BLANK = 4096


def read_jsonl(
    stream: BinaryIO,
    file: str,
    start: int,
    columns: Mapping[str, str],
    limits: ExtractLimits,
    keep: Mapping[str, KeepColumn] = NOTHING_KEPT,
) -> Iterator[RowItem]:
    """Yield one item for every line that is not blank, or element of an array, from byte `start` on; none can drop.

    `start` counts the decompressed content in UTF-8.

    `columns` maps our names (text, url, title, date, licence, id) to the file's; names that it lacks are the same.
    `keep` are fields that become columns of their own.

    Raises: InputError when the file is of another format.
    """
    in_elements = is_json_array(stream)
    limit = limits.record_bytes
    for line in read_elements(stream, start, limit) if in_elements else read_lines(stream, file, start, limit):
        if line.damage is not None:
            yield row_damage(file, line.offset, str(line.damage), cut=line.damage.cut)
        elif line.data is None:
            yield row_reject(
                file, line.offset, "oversize", f"{'an element' if in_elements else 'a line'} of over {limit} bytes"
            )
        elif line.data and not (len(line.data) < MAX_BLANK and line.data.isspace()):
            yield _to_item(file, line, columns, limit, keep)


def _to_item(file: str, line: Line, columns: Mapping[str, str], limit: int, keep: Mapping[str, KeepColumn]) -> RowItem:
    assert line.data is not None
    data = line.data.removeprefix(BOM) if line.offset == 0 else line.data
    try:
        fields = json.loads(data.decode(), object_pairs_hook=to_fields)
    except UnicodeDecodeError as error:
        return row_reject(
            file, line.offset, "damaged", f"invalid UTF-8: {error.reason} at byte {error.start} of the row"
        )
    except RecursionError:
        return row_reject(file, line.offset, "too_deep", f"fields are nested over {MAX_DEPTH} deep")
    except ValueError as error:  # bad JSON, and integers of thousands of digits
        return row_reject(file, line.offset, "damaged", f"invalid JSON: {error}")
    if not isinstance(fields, dict):
        return row_reject(file, line.offset, "damaged", f"a JSON {type(fields).__name__}, not an object")
    return to_item(file, line.offset, fields, columns, limit, keep)
