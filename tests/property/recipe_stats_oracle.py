"""The recipes' statistics in plain Python, from the projects' published definitions: strings, expressions, Counters."""

from __future__ import annotations

import functools
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Sequence

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
COUNTER = re.compile(
    r"\W*\d(?:,|\.|\d)*[kKmMbB]?\s+"
    r"(?ai:likes|shares|comments|retweets|reposts|quotes|bookmarks|upvotes|downvotes|downloads|views|followers)\W*\Z"
)
MIDS = {
    **dict.fromkeys(":·\u0387՟״‧︓﹕：", "l"),
    **dict.fromkeys(",;\u037e։،؍٬߸⁄︐︔﹐﹔，；", "n"),
    **dict.fromkeys(".'‘’․﹒＇．", "b"),
}
KATAKANA = "\u3031-\u3035\u309b\u309c\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d"
ALONE = (
    "\u3005-\u3007\u3021-\u3029\u3041-\u3096\u309d-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00017000-\U00018cff"
    "\U0001b000-\U0001b2ff\U00020000-\U000323af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf"
    "\ua9e0-\ua9ff\uaa60-\uaadf\U00011700-\U0001174f"
)


@functools.cache
def word_class(char: str) -> str:
    """W letter, N digit, K katakana, _ connector, S alone, x extends, l n b join in the middle; nothing for a break."""
    category = unicodedata.category(char)
    if char in MIDS or char in "\u202f\u200b":
        return MIDS.get(char, "_" if char == "\u202f" else "")
    if category[0] == "M" or category == "Cf":
        return "x"
    if category[0] == "L" or category == "Nl":
        return "S" if re.match(f"[{ALONE}]", char) else "K" if re.match(f"[{KATAKANA}]", char) else "W"
    return {"Nd": "N", "No": "S", "Pc": "_"}.get(category, "")


def unicode_words(text: str) -> list[str]:
    """Return the words of annex 29 by the rule in `pipeline.kernels.statistics.recipe_stats`."""
    kinds = "".join(word_class(char) or "." for char in text)
    # A word goes on as long as two neighbours join, marks between them not counted.
    join = r"(?:(?<=[WN_])[WN_]|(?<=[K_])[K_]|(?<=[WNK])_|(?<=W)[lb]W|(?<=N)[nb]N|(?<=_)K)"
    bare = [i for i, kind in enumerate(kinds) if kind != "x"]
    found = []
    for match in re.finditer(f"S|[WNK_]{join}*", "".join(kinds[i] for i in bare)):
        start, last = bare[match.start()], bare[match.end() - 1]
        end = last + 1
        while end < len(text) and kinds[end] == "x":
            end += 1
        if text[start].isalnum():
            found.append(text[start:end])
    return found


def repeated(items: Sequence[str]) -> tuple[int, int]:
    """Return how many items occur twice or more, every occurrence counted, and their characters."""
    often = [item for item, count in Counter(items).items() for _ in range(count) if count > 1]
    return len(often), sum(map(len, often))


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def fasttext_words(text: str) -> int:
    return sum(token[0].isalnum() for token in re.split("[ \n\r\t\v\f\0]+", text) if token)


def edited(line: str) -> str:
    """Return what RefinedWeb's edits leave of a line, as DCLM does them in turn; nothing where the line goes."""
    if not line or sum(map(str.isupper, line)) / len(line) > 0.5 or sum(map(str.isdigit, line)) == len(line):
        return ""
    if COUNTER.match(line) or len(line.split()) < 2:
        return ""
    for phrase in (r"\s?(?ai:items in cart)", r"\s?(?ai:read more)[^\n]{3}\Z", r"\A(?ai:sign-in)\s?"):
        if len(line.split()) <= 10:
            line = re.sub(phrase, "", line)
        if not line.strip():
            return ""
    return line


def refinedweb(text: str) -> dict[str, object]:
    """DCLM's filters, in the order of `dclm_baseline_refinedweb.yaml`; a document of nothing has zeros."""
    words, lines = text.split(), [line.strip() for line in text.split("\n") if line.strip()]
    paragraphs = [part.strip() for part in re.split("\n{2,}", text) if part.strip()]
    tokens = unicode_words(text)
    chars = sum(map(len, tokens))
    before, after = fasttext_words(text), sum(fasttext_words(edited(line)) for line in text.split("\n"))
    row: dict[str, object] = {
        "word_count": before,
        "mean_word_length": share(sum(map(len, words)), len(words)),
        "symbol_ratio": share(sum(map(text.count, ("#", "...", ". . .", "…"))), len(words)),
        "bullet_line_ratio": share(sum(line.startswith(("●", "•", "*", "-")) for line in lines), len(lines)),
        "ellipsis_line_ratio": share(sum(line.endswith(("...", ". . .", "…")) for line in lines), len(lines)),
        "alpha_word_ratio": share(sum(any(map(str.isalpha, word)) for word in words), len(words)),
        "stop_word_count": sum(word.lower() in STOP_WORDS for word in words),
        "duplicate_line_fraction": share(repeated(lines)[0], len(lines)),
        "duplicate_line_char_fraction": share(repeated(lines)[1], sum(map(len, lines))),
        "duplicate_paragraph_fraction": share(repeated(paragraphs)[0], len(paragraphs)),
        "duplicate_paragraph_char_fraction": share(repeated(paragraphs)[1], sum(map(len, paragraphs))),
        "removed_word_ratio": share(before - after, before),
    }
    for n in range(2, 11):
        grams = ngrams(tokens, n)
        counts = Counter(grams)
        most = max(counts.values(), default=0)
        if n <= 4:
            longest = max((len("".join(gram)) for gram, count in counts.items() if count == most), default=0)
            row[f"top_{n}gram_char_fraction"] = share(most * longest, chars) if most > 1 else 0.0
        else:
            inside = {i + k for i, gram in enumerate(grams) if counts[gram] > 1 for k in range(n)}
            row[f"duplicate_{n}gram_char_fraction"] = share(sum(len(tokens[i]) for i in inside), chars)
    return {f"refinedweb_{name}": value for name, value in row.items()}


def dolma(text: str) -> dict[str, object]:
    """Dolma's tagger gopher_v2."""
    words, lines = text.split(), re.split("\n+", text) if text else []
    chars = sum(map(len, words))
    row: dict[str, object] = {
        "word_count": len(words),
        "median_word_length": float(statistics.median([min(len(word), 255) for word in words] or [0])),
        "symbol_word_ratio": share(sum("#" in word or "…" in word for word in words), len(words)),
        "required_word_count": sum(word in STOP_WORDS for word in words),
        "bullet_line_ratio": share(sum(line.startswith(("*", "-")) for line in lines), len(lines)),
        "ellipsis_line_ratio": share(sum(line.endswith("…") for line in lines), len(lines)),
        "duplicate_line_fraction": share(repeated(lines)[0], len(lines)),
        "duplicate_line_char_fraction": share(repeated(lines)[1], chars),
    }
    for n in range(2, 11):
        counts = Counter(ngrams(words, n))
        lengths = {gram: len("".join(gram)) for gram in counts}
        if n <= 4:
            top = max(counts, key=lambda gram: counts[gram], default=())
            row[f"top_{n}gram_char_fraction"] = share(counts[top] * lengths.get(top, 0), chars)
        else:
            often = sum(count * lengths[gram] for gram, count in counts.items() if count > 1)
            whole = sum(count * lengths[gram] for gram, count in counts.items())
            row[f"duplicate_{n}gram_char_fraction"] = share(often, whole)
    return {f"dolma_{name}": value for name, value in row.items()}


def dolma3(text: str) -> dict[str, float]:
    """datamap-rs's words and MADLAD-400 sentences."""
    sentences = [part for part in re.split(r"[.!?]+\s+", text) if part.strip()]
    capitals = [[word[0].isupper() for word in unicode_words(part)] for part in sentences]
    lists = sum(len(words) >= 12 and sum(words) > 0.5 * len(words) for words in capitals)
    return {
        "dolma3_word_count": len(unicode_words(text)),
        "dolma3_sentence_count": len(sentences),
        "dolma3_list_sentence_ratio": share(lists, len(sentences)),
    }


def recipe_stats_oracle(text: str) -> dict[str, object]:
    """Return every column of `pipeline.signals.recipe_stats` for one text."""
    long_lines = sum(len(line) >= 200 for line in text.split("\n"))
    return {**refinedweb(text), **dolma(text), **dolma3(text), "mc4_long_line_count": long_lines}


def most_or_all(items: Sequence[str], n: int) -> float:
    """Return datamap-rs's share of bytes in what repeats: single items, the top n-gram to 4, every n-gram from 5."""
    grams, size = ngrams(items, n), [len(item.encode()) for item in items]
    counts = Counter(grams)
    if n == 1:
        return share(sum(size[i] for i, gram in enumerate(grams) if counts[gram] > 1), sum(size)) if items else 1.0
    often = {gram for gram, count in counts.items() if count > 1}
    if often and n <= 4:
        often = {max(often, key=lambda gram: (counts[gram], len("".join(gram).encode())))}
    return share(sum(size[k] for k in {i + k for i, g in enumerate(grams) if g in often for k in range(n)}), sum(size))


def dolma3_edited(text: str) -> str:
    """Return what datamap-rs's edits of lines leave, as `all_dressed_config.yaml` has them."""
    lines = []
    for line in text.split("\n"):
        capitals, digits = sum(map(str.isupper, line)), len(re.findall("[0-9]", line))
        if line and (max(capitals * 2, digits) > len(line.encode()) or digits == len(line.encode())):
            continue
        if COUNTER.match(line) or (line and len(unicode_words(line)) < 2):
            continue
        for phrase, instead in ((r"\s?items in cart\s?", " "), (r"\s?Read more...\Z", ""), (r"\ASign-in\s?", "")):
            line = re.sub(phrase, instead, line) if line.strip() else line
        lines.append(line)
    return re.sub("\n{3,}", "\n\n", "\n".join(lines))


def dolma3_drops(text: str) -> set[str]:
    """Return which of datamap-rs's filters drop a text: lists of URLs and of cursed strings, and language left out."""
    words, raw = text.split(), text.split("\n")
    full = [line for line in raw if line]
    length = len(re.findall("[A-Za-z0-9]+", text)) if text.isascii() else len(unicode_words(text))
    spaced = max(len(text.replace(". . .", "...").split()), 1)
    alpha = sum(any(map(str.isalpha, word)) for word in words)
    failed = {
        "characters": len(text) < 150,
        "words": not 50 <= length <= 100_000,
        "word_length": not 3 <= share(sum(len(word.encode()) for word in words), len(words)) <= 10,
        "symbols": sum(map(text.count, ("#", "...", ". . .", "…"))) / spaced > 0.1,
        "bullet_lines": sum(line.startswith(("●", "•", "*", "-")) for line in raw) / len(raw) > 0.9,
        "ellipsis_lines": share(sum(line.endswith(("...", ". . .", "…")) for line in full), len(full)) > 0.3,
        "alpha_words": len(words) == 1 or share(len(words) - alpha, len(words)) > 0.2,
        "stop_words": sum(word.lower() in STOP_WORDS for word in words) < 2,
    }
    text = re.sub("\n{3,}", "\n\n", text)
    lines, paragraphs = (list(filter(None, text.split(glue))) for glue in ("\n", "\n\n"))
    for name, items in (("lines", lines), ("paragraphs", paragraphs)):
        failed[name] = share(repeated(items)[0], len(items)) > 0.3 or most_or_all(items, 1) > 0.2
    tokens = unicode_words(text)
    limits = {2: 0.2, 3: 0.18, 4: 0.16, 5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    failed |= {f"{n}grams": most_or_all(tokens, n) > limit for n, limit in limits.items()}
    left = dolma3_edited(text)
    failed["removed_words"] = share(len(tokens) - len(unicode_words(left)), len(tokens)) > 0.05
    row = dolma3(left)
    failed["sentences"] = row["dolma3_sentence_count"] < 5 or row["dolma3_list_sentence_ratio"] >= 0.2
    return {name for name, is_so in failed.items() if is_so}
