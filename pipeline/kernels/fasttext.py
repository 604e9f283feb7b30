"""fastText inference over Arrow string buffers, without the GIL and without a Python object for a document.

The result equals fastText's own `predict`: same label but for exact ties, probability within 1e-4 (it adds 1e-5 to each
softmax probability, which is left out here; above 100 KB its float32 sums drift further). Only a literal `</s>` does
not end a text here. Ideas that make it fast:

- the model is linear up to the last step, so with fewer labels than dimensions each input row is multiplied by the
  output matrix once, at load: a two-label model of 2 million buckets x 100 dimensions takes 16 MB instead of 800 MB;
- the rows of a vocabulary word's character n-grams are summed at load, those of an unknown word once for a batch.

Tokens are split at space, tab, newline, vertical tab, form feed, carriage return and NUL; each document ends with the
token `</s>`. A literal `</s>` in the text would end it there in fastText; here it is passed over. Words that start with
`__label__` and are not in the vocabulary are skipped. Sums are in float64 and in a fixed order: how documents are
batched changes no bit. What is checked in a file: `fasttext_file`.

Source: `Loss`, `Model`, `Dictionary::getLine` and the functions that it calls, of facebookresearch/fastText 0.9.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.kernels import entry, inlined, inner
from pipeline.kernels import fasttext_file as files

Array = np.ndarray[Any, Any]

MAX_TABLE_BYTES = 4 << 30
_HIERARCHICAL, _SOFTMAX = files.HIERARCHICAL, files.SOFTMAX
_NO_LIMIT = np.iinfo(np.int64).max
CACHE_SLOTS = 1 << 15
GRAMS_AT_ONCE = 256
_FNV_BASIS = np.uint64(2166136261)
_FNV_PRIME = np.uint64(16777619)
_LOW_32 = np.uint64(0xFFFFFFFF)
_NGRAM_FACTOR = np.uint64(116049371)
_LABEL_PREFIX = np.frombuffer(b"__label__", np.uint8)
_EOS = np.frombuffer(b"</s>", np.uint8)


class Tables(NamedTuple):
    """Everything that turns text into a sum of rows."""

    blob: Array  # the dictionary's bytes
    starts: Array
    lengths: Array
    hashes: Array  # uint64, of each entry
    slots: Array  # open addressing: entry, or -1
    pruned: Array  # bucket -> row, -1 dropped
    kept_bits: Array  # a bit for each bucket, in `pruned` or not: small enough to stay in a near cache
    rows: Array  # float32 (words, then buckets; width)
    row_counts: Array  # how many of fastText's rows a word's row is the sum of
    n_words: int
    bucket: int
    buckets_kept: int  # 0: every bucket was pruned, 1: all are there, 2: look into `pruned`
    min_gram: int
    max_gram: int
    word_ngrams: int


class Memo(NamedTuple):
    """The sums of a batch's unknown words, by hash; a slot names where in the batch its word stands. Scratch space."""

    positions: Array  # -1: empty
    sizes: Array
    counts: Array
    rows: Array
    token: Array
    found: Array
    total: Array


class Output(NamedTuple):
    """Everything that turns the mean of rows into probabilities."""

    weights: Array  # float32 (labels, width); empty where `rows` are multiplied by it already
    loss: int
    n_labels: int
    left: Array  # the tree of the hierarchical softmax: children and parent of each node, -1 where there is none
    right: Array
    parent: Array
    sigmoid: Array  # fastText's table of 513 values


@dataclass(frozen=True, slots=True)
class FastTextModel:
    """A classifier ready for inference. `labels` are without `__label__`."""

    labels: tuple[str, ...]
    tables: Tables
    output: Output


class Features(NamedTuple):
    """One row a document: `mean` float64 (documents, width), how many rows it is the mean of, and the words seen."""

    mean: Array
    n_features: Array
    n_words: Array


def load(path: Path) -> FastTextModel:
    """Read a supervised `.bin` or `.ftz` model.

    Raises: ValueError for anything but an intact classifier, with the file, the part and the byte; OSError.
    """
    with path.open("rb") as file:
        reader = files.Reader(path, file)
        header = files.read_header(reader)
        dictionary = files.read_dictionary(reader, header)
        matrix, quantised = files.read_input(reader, header, dictionary)
        n_labels = len(dictionary.labels)
        weights = files.read_output(reader, header, n_labels, quantised)
        width = min(header.dimension, n_labels)
        fits = matrix.n_rows * width * 4 <= MAX_TABLE_BYTES
        reader.check(fits, "input matrix", f"{matrix.n_rows} x {width} floats are more than 4 GiB")
        rows = _read_rows(matrix, weights, width)
    tables = _tables(header, dictionary, rows)
    if width < header.dimension:
        weights = np.empty((0, width), np.float32)
    return FastTextModel(dictionary.labels, tables, _output(header, dictionary, weights))


def _read_rows(matrix: files.Matrix, weights: Array, width: int) -> Array:
    rows = np.empty((matrix.n_rows, width), np.float32)
    start = 0
    for block in matrix.blocks:
        target = rows[start : start + block.shape[0]]
        if width < matrix.dimension:
            _project(np.ascontiguousarray(block), np.ascontiguousarray(weights), target)
        else:
            target[:] = block
        start += block.shape[0]
    return rows


@entry
def _project(block: Array, weights: Array, target: Array) -> None:
    """Multiply in a fixed order (a BLAS would round differently from machine to machine)."""
    for i in range(block.shape[0]):
        for label in range(weights.shape[0]):
            total = 0.0
            for k in range(block.shape[1]):
                total += np.float64(block[i, k]) * np.float64(weights[label, k])
            target[i, label] = total


def _tables(header: files.Header, dictionary: files.Dictionary, rows: Array) -> Tables:
    n_entries = dictionary.starts.size
    slots = np.full(1 << int(2 * n_entries - 1).bit_length(), -1, np.int32)
    tables = Tables(
        blob=dictionary.blob,
        starts=dictionary.starts,
        lengths=dictionary.lengths,
        hashes=np.empty(n_entries, np.uint64),
        slots=slots,
        pruned=dictionary.pruned,
        kept_bits=np.packbits(dictionary.pruned >= 0, bitorder="little"),
        rows=rows,
        row_counts=np.ones(dictionary.n_words, np.int32),
        n_words=dictionary.n_words,
        bucket=header.bucket,
        buckets_kept=2 if dictionary.pruned.size else 0 if dictionary.is_pruned else 1,
        min_gram=header.min_gram,
        max_gram=header.max_gram,
        word_ngrams=header.word_ngrams,
    )
    fill_slots(tables)
    if header.max_gram > 0 and tables.buckets_kept:
        sum_subwords(tables, _memo(1, rows.shape[1], int(tables.lengths.max())))
    return tables


def _memo(slots: int, width: int, longest: int) -> Memo:
    return Memo(
        positions=np.full(slots, -1, np.int64),
        sizes=np.empty(slots, np.int64),
        counts=np.empty(slots, np.int32),
        rows=np.empty((slots, width), np.float32),
        token=np.empty(longest + 2, np.uint8),
        found=np.empty(GRAMS_AT_ONCE, np.int32),
        total=np.empty(width, np.float64),
    )


def _output(header: files.Header, dictionary: files.Dictionary, weights: Array) -> Output:
    n_labels = len(dictionary.labels)
    size = 2 * n_labels - 1 if header.loss == files.HIERARCHICAL else 0
    left, right, parent = (np.full(size, -1, np.int32) for _ in range(3))
    if size:
        weight = np.full(size, files.MAX_LABEL_COUNT, np.int64)
        weight[:n_labels] = dictionary.counts[dictionary.n_words :]
        _huffman(weight, left, right, parent)
    x = np.arange(513, dtype=np.float32) * np.float32(16) / np.float32(512) - np.float32(8)
    sigmoid = (1.0 / (1.0 + np.exp(-x, dtype=np.float32))).astype(np.float32)
    return Output(np.ascontiguousarray(weights), header.loss, n_labels, left, right, parent, sigmoid)


@entry
def _huffman(weight: Array, left: Array, right: Array, parent: Array) -> None:
    """Rebuild the tree of the hierarchical softmax, as `HierarchicalSoftmaxLoss::buildTree` does.

    `weight` has the counts of the leaves, then room for those of the inner nodes, filled with more than any count.
    """
    n = (weight.size + 1) // 2
    leaf, node = n - 1, n
    for i in range(n, 2 * n - 1):
        for side in range(2):
            if leaf >= 0 and weight[leaf] < weight[node]:
                child = leaf
                leaf -= 1
            else:
                child = node
                node += 1
            if side == 0:
                left[i] = child
            else:
                right[i] = child
            parent[child] = i
        weight[i] = weight[left[i]] + weight[right[i]]


def features(model: FastTextModel, data: Array, offsets: Array, max_bytes: int | None = None) -> Features:
    """Return the features of each document; no document can drop.

    `data` is uint8 (UTF-8), `offsets` int64 (documents + 1): the buffers of an Arrow large_string array. With
    `max_bytes` only that many bytes of a document are read, cut at a character's border.

    Raises: ValueError when the offsets do not fit the data.
    """
    if offsets.size == 0 or offsets[0] < 0 or offsets[-1] > data.size or bool((np.diff(offsets) < 0).any()):
        raise ValueError(f"offsets do not fit {data.size} bytes of text: they must rise from 0 to at most that")
    limit = _NO_LIMIT if max_bytes is None else max_bytes
    n_documents = offsets.size - 1
    mean = np.zeros((n_documents, model.tables.rows.shape[1]), np.float64)
    counts, words = np.zeros(n_documents, np.int64), np.zeros(n_documents, np.int64)
    longest = int(np.diff(offsets).max(initial=0))
    limit = min(limit, longest)
    memo = _memo(CACHE_SLOTS if _with_grams(model.tables) else 1, mean.shape[1], limit)
    scratch = memo, np.empty(limit // 2 + 3, np.int32), np.empty(mean.shape[1], np.float64)
    found = Features(mean, counts, words)
    embed(model.tables, (data, offsets, limit), scratch, found)
    return found


def predict(
    model: FastTextModel, data: Array, offsets: Array, max_bytes: int | None = None
) -> tuple[Array, Array, Array]:
    """Return the best label (int32, an index into `labels`), its probability (float32) and the number of words (int64).

    No document can drop. The label is -1 and the probability 0 where the model knows nothing of the text, not even
    `</s>` (fastText then returns no label).
    """
    found = features(model, data, offsets, max_bytes)
    labels, probabilities = np.full(found.n_features.size, -1, np.int32), np.zeros(found.n_features.size, np.float32)
    logits, depth = np.empty(model.output.n_labels, np.float64), model.output.left.size + 1
    stack = np.empty(depth, np.int32), np.empty(depth, np.float64)
    _top_labels(model.output, found, (logits, *stack), (labels, probabilities))
    return labels, probabilities, found.n_words


def label_probabilities(model: FastTextModel, found: Features, label: str) -> Array:
    """Return the probability of `label`, float64 (documents,); 0 where the model knows nothing of the text.

    Raises: ValueError when the model has no such label.
    """
    if label not in model.labels:
        raise ValueError(f"label {label!r} is not among the model's: {', '.join(model.labels[:20])}")
    result = np.zeros(found.n_features.size, np.float64)
    _one_label(model.output, found, model.labels.index(label), result)
    return result


@inlined
def _logit(output: Output, mean: Array, node: int) -> float:
    if output.weights.shape[0] == 0:
        return mean[node]
    total = 0.0
    for k in range(mean.size):
        total += mean[k] * output.weights[node, k]
    return total


@inlined
def _sigmoid(output: Output, x: float) -> float:
    """fastText's one-vs-all looks its sigmoid up in a table."""
    if x < -8.0:
        return 0.0
    return 1.0 if x > 8.0 else np.float64(output.sigmoid[int((x + 8.0) * 32.0)])


@inlined
def _std_log(x: float) -> float:
    return np.log(x + 1e-5)


@entry
def _top_labels(output: Output, found: Features, scratch: tuple[Array, ...], result: tuple[Array, Array]) -> None:
    logits, nodes, scores = scratch
    for document in range(found.n_features.size):
        if found.n_features[document] == 0:
            continue
        if output.loss == _HIERARCHICAL:
            label, probability = _best_leaf(output, found.mean[document], nodes, scores)
        else:
            label, probability = _best_label(output, found.mean[document], logits)
        result[0][document], result[1][document] = label, probability


@inner
def _best_label(output: Output, mean: Array, logits: Array) -> tuple[int, float]:
    """Return the label with the largest output; of equal ones the last, as fastText's heap leaves it."""
    for label in range(output.n_labels):
        logits[label] = _logit(output, mean, label)
    best = 0
    if output.loss == _SOFTMAX:
        largest, total = logits[0], 0.0
        for label in range(1, output.n_labels):
            largest = max(largest, logits[label])
        for label in range(output.n_labels):
            logits[label] = np.exp(logits[label] - largest)
            total += logits[label]
        for label in range(output.n_labels):
            logits[label] /= total
    else:
        for label in range(output.n_labels):
            logits[label] = _sigmoid(output, logits[label])
    for label in range(1, output.n_labels):
        if np.float32(logits[label]) >= np.float32(logits[best]):
            best = label
    return best, logits[best]


@inner
def _best_leaf(output: Output, mean: Array, nodes: Array, scores: Array) -> tuple[int, float]:
    """Search the tree depth first, left before right, without what cannot win: `HierarchicalSoftmaxLoss::dfs`."""
    nodes[0], scores[0] = output.left.size - 1, 0.0
    depth, best, best_score = 1, -1, _std_log(0.0)
    while depth > 0:
        depth -= 1
        node, score = nodes[depth], scores[depth]
        if score < best_score:
            continue
        if output.left[node] < 0:
            best, best_score = node, score
            continue
        f = 1.0 / (1.0 + np.exp(-_logit(output, mean, node - output.n_labels)))
        nodes[depth], scores[depth] = output.right[node], score + _std_log(f)
        nodes[depth + 1], scores[depth + 1] = output.left[node], score + _std_log(1.0 - f)
        depth += 2
    return best, min(1.0, np.exp(best_score)) if best >= 0 else 0.0


@entry
def _one_label(output: Output, found: Features, label: int, result: Array) -> None:
    for document in range(found.n_features.size):
        if found.n_features[document] == 0:
            continue
        row = found.mean[document]
        if output.loss == _HIERARCHICAL:
            score, node = 0.0, label
            while output.parent[node] >= 0:
                above = output.parent[node]
                f = 1.0 / (1.0 + np.exp(-_logit(output, row, above - output.n_labels)))
                score += _std_log(f if output.right[above] == node else 1.0 - f)
                node = above
            result[document] = min(1.0, np.exp(score))
        elif output.loss == _SOFTMAX:
            total, own = 0.0, _logit(output, row, label)
            for other in range(output.n_labels):
                total += np.exp(_logit(output, row, other) - own)
            result[document] = 1.0 / total
        else:
            result[document] = _sigmoid(output, _logit(output, row, label))


# --- from text to the mean of rows: tokens, character n-grams and word n-grams, hashed as fastText does


@inner
def _hash(data: Array, start: int, end: int) -> np.uint64:
    """FNV-1a of 32 bits with each byte sign-extended, as fastText has hashed since its first release."""
    h = _FNV_BASIS
    for i in range(start, end):
        h = (h ^ np.uint64(np.int8(data[i]))) * _FNV_PRIME
    return h & _LOW_32


@inner
def _same(a: Array, a_start: int, b: Array, b_start: int, size: int) -> bool:
    for i in range(size):  # noqa: SIM110 (Numba compiles no generator)
        if a[a_start + i] != b[b_start + i]:
            return False
    return True


@entry
def fill_slots(tables: Tables) -> None:
    """Enter all dictionary entries; of equal ones the last counts, as in fastText."""
    mask = tables.slots.size - 1
    for number in range(tables.starts.size):
        start, size = tables.starts[number], tables.lengths[number]
        h = _hash(tables.blob, start, start + size)
        tables.hashes[number] = h
        known = _find(tables, tables.blob, start, start + size, h)
        slot = np.int64(h) & mask
        while tables.slots[slot] >= 0 and tables.slots[slot] != known:
            slot = (slot + 1) & mask
        tables.slots[slot] = number


@inner
def _find(tables: Tables, data: Array, start: int, end: int, h: np.uint64) -> Any:
    """Return the entry whose bytes are `data[start:end]`, or -1."""
    mask = tables.slots.size - 1
    slot = np.int64(h) & mask
    while tables.slots[slot] >= 0:
        known = tables.slots[slot]
        equal = tables.hashes[known] == h and tables.lengths[known] == end - start
        if equal and _same(tables.blob, tables.starts[known], data, start, end - start):
            return known
        slot = (slot + 1) & mask
    return -1


@inner
def _add_subwords(tables: Tables, token: Array, found: Array, total: Array) -> Any:
    """Add the rows of the character n-grams of `token` (which has its `<` and `>`) to `total`; return how many.

    Most n-grams of a pruned model are gone. The first pass, without a branch on that, gathers in `found` the buckets
    that are left; the second looks up their rows.
    """
    kept_bits, kept, bucket, max_gram = tables.kept_bits, tables.buckets_kept, tables.bucket, tables.max_gram
    size, added, n_found = token.size, 0, 0
    for i in range(size):
        if token[i] & 0xC0 == 0x80:  # inside a character
            continue
        j, n, h = i, 1, _FNV_BASIS
        while j < size and n <= max_gram:
            h = (h ^ np.uint64(np.int8(token[j]))) * _FNV_PRIME
            j += 1
            while j < size and token[j] & 0xC0 == 0x80:
                h = (h ^ np.uint64(np.int8(token[j]))) * _FNV_PRIME
                j += 1
            if n >= tables.min_gram and not (n == 1 and (i == 0 or j == size)):
                place = np.uint32(h) % np.uint32(bucket)
                found[n_found] = place
                n_found += 1 if kept == 1 else (kept_bits[place >> 3] >> (place & 7)) & 1
            n += 1
        if n_found > found.size - 1 - max_gram:
            _add_rows(total, tables, found[:n_found])
            added, n_found = added + n_found, 0
    _add_rows(total, tables, found[:n_found])
    return added + n_found


@inner
def _add_rows(total: Array, tables: Tables, buckets: Array) -> None:
    pruned, rows = tables.pruned, tables.rows
    for bucket in buckets:
        row = np.uint64(tables.n_words + (pruned[bucket] if pruned.size else bucket))
        for k in range(total.size):
            total[k] += rows[row, k]


@inlined
def _add(total: Array, rows: Array, row: int) -> None:
    for k in range(total.size):
        total[k] += rows[row, k]


@inner
def _wrap(data: Array, start: int, end: int, token: Array) -> int:
    """Write `<data[start:end]>` to `token`; return its size."""
    token[0] = 60
    for i in range(end - start):
        token[i + 1] = data[start + i]
    token[end - start + 1] = 62
    return end - start + 2


@inlined
def _with_grams(tables: Tables) -> bool:
    return tables.max_gram > 0 and tables.buckets_kept > 0


@entry
def sum_subwords(tables: Tables, memo: Memo) -> None:
    """Replace each word's row by the sum over the word and its n-grams (no other word refers to that row)."""
    total, row_of = memo.total, tables.rows
    for word in range(tables.n_words):
        start, size = tables.starts[word], tables.lengths[word]
        if _is_eos(tables.blob, start, start + size):
            continue
        for k in range(total.size):
            total[k] = row_of[word, k]
        size = _wrap(tables.blob, start, start + size, memo.token)
        tables.row_counts[word] = 1 + _add_subwords(tables, memo.token[:size], memo.found, total)
        for k in range(total.size):
            row_of[word, k] = total[k]


@entry
def embed(tables: Tables, text: tuple[Array, Array, int], scratch: tuple[Memo, Array, Array], found: Features) -> None:
    """Sum the rows of each document's words, character n-grams and word n-grams, and divide by their number."""
    data, offsets, limit = text
    memo, hashes, total = scratch
    eos_hash = _hash(_EOS, 0, _EOS.size)
    for document in range(offsets.size - 1):
        position = offsets[document]
        end = _cut(data, position, offsets[document + 1], limit)
        total[:] = 0.0
        n, n_hashes, is_open = 0, 0, True
        while is_open:
            while position < end and _is_separator(data[position]):
                position += 1
            start, h = position, _FNV_BASIS
            while position < end and not _is_separator(data[position]):
                h = (h ^ np.uint64(np.int8(data[position]))) * _FNV_PRIME
                position += 1
            h &= _LOW_32
            is_open = position > start
            if is_open and h == eos_hash and _is_eos(data, start, position):
                continue
            found.n_words[document] += is_open
            if is_open:
                known = _find(tables, data, start, position, h)
            else:  # the text is over; fastText ends each line with this token
                h, known = eos_hash, _find(tables, _EOS, 0, _EOS.size, eos_hash)
            if known >= tables.n_words or (known < 0 and is_open and _is_label(data, start, position)):
                continue
            if known >= 0:
                _add(total, tables.rows, known)
                n += tables.row_counts[known]
            elif is_open and _with_grams(tables):
                slot = _unknown_word(tables, data, start, position, h, memo)
                _add(total, memo.rows, slot)
                n += memo.counts[slot]
            hashes[n_hashes] = np.int32(np.uint32(h))
            n_hashes += 1
        if tables.word_ngrams > 1 and tables.buckets_kept > 0:
            n += _add_word_ngrams(tables, hashes[:n_hashes], total)
        found.n_features[document] = n
        if n > 0:
            for k in range(total.size):
                found.mean[document, k] = total[k] / n


@inlined
def _is_eos(data: Array, start: int, end: int) -> bool:
    return end - start == _EOS.size and _same(data, start, _EOS, 0, _EOS.size)


@inlined
def _is_separator(byte: Any) -> bool:
    return byte <= 32 and (byte == 32 or (9 <= byte <= 13) or byte == 0)


@inner
def _is_label(data: Array, start: int, end: int) -> bool:
    return end - start >= _LABEL_PREFIX.size and _same(data, start, _LABEL_PREFIX, 0, _LABEL_PREFIX.size)


@inner
def _cut(data: Array, start: int, end: int, limit: int) -> int:
    """Return where to stop reading: at most `limit` bytes on, never inside a UTF-8 character."""
    if end - start <= limit:
        return end
    end = start + limit
    while end > start and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


@inner
def _unknown_word(tables: Tables, data: Array, start: int, end: int, h: np.uint64, memo: Memo) -> Any:
    """Return the slot of `memo` that holds the sum over an unknown word's n-grams, computed where it is not there.

    Bytes are compared, so that a collision cannot mix two words.
    """
    slot, size = np.int64((h ^ (h >> np.uint64(15))) & np.uint64(memo.positions.size - 1)), end - start
    position = memo.positions[slot]
    if position >= 0 and memo.sizes[slot] == size and _same(data, position, data, start, size):
        return slot
    memo.total[:] = 0.0
    token = memo.token[: _wrap(data, start, end, memo.token)]
    memo.counts[slot] = _add_subwords(tables, token, memo.found, memo.total)
    for k in range(memo.total.size):
        memo.rows[slot, k] = memo.total[k]
    memo.positions[slot], memo.sizes[slot] = start, size
    return slot


@inner
def _add_word_ngrams(tables: Tables, hashes: Array, total: Array) -> Any:
    """Add the rows of all n-grams of 2 to `word_ngrams` words; return how many. fastText takes hashes as signed."""
    kept, bucket, added = tables.buckets_kept, np.uint64(tables.bucket), 0
    for i in range(hashes.size):
        h = np.uint64(np.int64(hashes[i]))
        for j in range(i + 1, min(hashes.size, i + tables.word_ngrams)):
            h = h * _NGRAM_FACTOR + np.uint64(np.int64(hashes[j]))
            row: Any = np.int64(h % bucket)
            if kept == 2:
                row = np.int64(tables.pruned[row])
            if row >= 0:
                _add(total, tables.rows, tables.n_words + row)
                added += 1
    return added
