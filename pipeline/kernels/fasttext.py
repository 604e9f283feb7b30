"""fastText inference over Arrow string buffers, without the GIL and without a Python object for a document.

The result equals fastText's own `predict`: same label but for exact ties, probability within 1e-4 (it adds 1e-5 to each
softmax probability, which is left out here; above 100 KB its float32 sums drift further). Only a literal `</s>` does
not end a text here. Ideas that make it fast:

- the model is linear up to the last step, so with fewer labels than dimensions each input row is multiplied by the
  output matrix once, at load: a two-label model of 2 million buckets x 100 dimensions takes 16 MB instead of 800 MB;
- the rows of a vocabulary word's character n-grams are summed at load, those of an unknown word once for a batch.

How text is split and hashed: `fasttext_text`. What is checked in a file: `fasttext_file`.

Source: `Loss` and `Model` of facebookresearch/fastText 0.9.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from pipeline.kernels import fasttext_file as files
from pipeline.kernels.fasttext_text import Tables, embed, fill_slots, sum_subwords

Array = np.ndarray[Any, Any]

MAX_TABLE_BYTES = 4 << 30
_HIERARCHICAL, _SOFTMAX = files.HIERARCHICAL, files.SOFTMAX
_NO_LIMIT = np.iinfo(np.int64).max


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


@njit(nogil=True, cache=True, error_model="numpy")
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
        sum_subwords(tables)
    return tables


def _output(header: files.Header, dictionary: files.Dictionary, weights: Array) -> Output:
    n_labels = len(dictionary.labels)
    size = 2 * n_labels - 1 if header.loss == files.HIERARCHICAL else 0
    left, right, parent = (np.full(size, -1, np.int32) for _ in range(3))
    if size:
        _huffman(dictionary.counts[dictionary.n_words :], left, right, parent)
    x = np.arange(513, dtype=np.float32) * np.float32(16) / np.float32(512) - np.float32(8)
    sigmoid = (1.0 / (1.0 + np.exp(-x, dtype=np.float32))).astype(np.float32)
    return Output(np.ascontiguousarray(weights), header.loss, n_labels, left, right, parent, sigmoid)


@njit(nogil=True, cache=True, error_model="numpy")
def _huffman(counts: Array, left: Array, right: Array, parent: Array) -> None:
    """Rebuild the tree of the hierarchical softmax, as `HierarchicalSoftmaxLoss::buildTree` does."""
    n = counts.size
    weight = np.full(2 * n - 1, files.MAX_LABEL_COUNT, np.int64)
    weight[:n] = counts
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
    embed(model.tables, (data, offsets), min(limit, longest), (mean, counts, words))
    return Features(mean, counts, words)


def predict(
    model: FastTextModel, data: Array, offsets: Array, max_bytes: int | None = None
) -> tuple[Array, Array, Array]:
    """Return the best label (int32, an index into `labels`), its probability (float32) and the number of words (int64).

    No document can drop. The label is -1 and the probability 0 where the model knows nothing of the text, not even
    `</s>` (fastText then returns no label).
    """
    found = features(model, data, offsets, max_bytes)
    labels, probabilities = np.full(found.n_features.size, -1, np.int32), np.zeros(found.n_features.size, np.float32)
    _top_labels(model.output, found.mean, found.n_features, (labels, probabilities))
    return labels, probabilities, found.n_words


def label_probabilities(model: FastTextModel, found: Features, label: str) -> Array:
    """Return the probability of `label`, float64 (documents,); 0 where the model knows nothing of the text.

    Raises: ValueError when the model has no such label.
    """
    if label not in model.labels:
        raise ValueError(f"label {label!r} is not among the model's: {', '.join(model.labels[:20])}")
    result = np.zeros(found.n_features.size, np.float64)
    _one_label(model.output, found.mean, found.n_features, (model.labels.index(label), result))
    return result


@njit(nogil=True, cache=True, error_model="numpy")
def _logit(output: Output, mean: Array, node: int) -> float:
    if output.weights.shape[0] == 0:
        return mean[node]
    total = 0.0
    for k in range(mean.size):
        total += mean[k] * output.weights[node, k]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _sigmoid(output: Output, x: float) -> float:
    """fastText's one-vs-all looks its sigmoid up in a table."""
    if x < -8.0:
        return 0.0
    return 1.0 if x > 8.0 else np.float64(output.sigmoid[int((x + 8.0) * 32.0)])


@njit(nogil=True, cache=True, error_model="numpy")
def _std_log(x: float) -> float:
    return np.log(x + 1e-5)


@njit(nogil=True, cache=True, error_model="numpy")
def _top_labels(output: Output, mean: Array, counts: Array, result: tuple[Array, Array]) -> None:
    logits = np.empty(output.n_labels, np.float64)
    stack = np.empty(output.left.size + 1, np.int32), np.empty(output.left.size + 1, np.float64)
    for document in range(counts.size):
        if counts[document] == 0:
            continue
        if output.loss == _HIERARCHICAL:
            label, probability = _best_leaf(output, mean[document], stack)
        else:
            label, probability = _best_label(output, mean[document], logits)
        result[0][document], result[1][document] = label, probability


@njit(nogil=True, cache=True, error_model="numpy")
def _best_label(output: Output, mean: Array, logits: Array) -> tuple[int, float]:
    """Return the label with the largest output; of equal ones the last, as fastText's heap leaves it."""
    for label in range(output.n_labels):
        logits[label] = _logit(output, mean, label)
    best = 0
    if output.loss == _SOFTMAX:
        largest, total = np.max(logits), 0.0
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


@njit(nogil=True, cache=True, error_model="numpy")
def _best_leaf(output: Output, mean: Array, stack: tuple[Array, Array]) -> tuple[int, float]:
    """Search the tree depth first, left before right, without what cannot win: `HierarchicalSoftmaxLoss::dfs`."""
    nodes, scores = stack
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


@njit(nogil=True, cache=True, error_model="numpy")
def _one_label(output: Output, mean: Array, counts: Array, wanted: tuple[int, Array]) -> None:
    label, result = wanted
    for document in range(counts.size):
        if counts[document] == 0:
            continue
        row = mean[document]
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
