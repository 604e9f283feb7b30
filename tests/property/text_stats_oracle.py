"""The text statistics in plain Python, slow and with another construction: strings, regular expressions, Counters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
QUOTES = set("'\"`´‘’‚‛“”„‟«»‹›「」『』")
JOINERS = set("-/@|\\^~")
CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]")
CONTRACTION = re.compile(r"(?<=.)(?:['’](?:[sSmMdD]|[lL][lL]|[rR][eE]|[vV][eE])|[nN]['’][tT])\Z", re.DOTALL)
ADDRESS = re.compile(r"[wW]{3}\..|.*://", re.DOTALL)
ABBREVIATION_LIST = (
    "Adm. Gen. Gov. Rep. Sen. Rev. Prof. Dr. Mr. Mrs. Ms. Messrs. Jr. St. Mt. Bros. Co. co. Corp. Inc. Ltd. vs. "
    "Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. Ala. Ariz. Ark. Calif. Colo. Conn. Del. Fla. "
    "Ill. Ind. Kan. Kans. Ky. Mass. Md. Mich. Minn. Miss. Mo. Mont. Neb. Nebr. Nev. Okla. Ore. Pa. Tenn. Va. Wash. Wis."
)
ABBREVIATIONS = set(ABBREVIATION_LIST.split())
TERMINAL_CODES = (
    "0021 002E 003F 0589 061D-061F 06D4 0700-0702 07F9 0837 0839 083D-083E 0964-0965 104A-104B 1362 1367-1368 166E "
    "1735-1736 17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F "
    "203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 "
    "AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 "
    "110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 "
    "115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 "
    "16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"
)
TERMINALS = {
    chr(code)
    for item in TERMINAL_CODES.split()
    for code in range(int(item.split("-")[0], 16), int(item.split("-")[-1], 16) + 1)
}
IDEOGRAPH_RANGES = (
    *((0x3005, 0x3007), (0x3031, 0x3035), (0x303B, 0x303C), (0x3041, 0x309F), (0x30A1, 0x30FF), (0x3105, 0x312F)),
    *((0x31A0, 0x31BF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F)),
    *((0x1AFF0, 0x1B16F), (0x20000, 0x323AF)),
)


def category(char: str) -> str:
    return unicodedata.category(char)


def is_symbol(unit: str) -> bool:
    return category(unit[0])[0] in "PS"


def is_mark(char: str) -> bool:
    return category(char)[0] == "M"


def is_upper(unit: str) -> bool:
    return category(unit[0]) in ("Lu", "Lt")


def is_digit(unit: str) -> bool:
    return category(unit[0]) == "Nd"


def is_ideograph(unit: str) -> bool:
    return unit[0].isalpha() and any(low <= ord(unit[0]) <= high for low, high in IDEOGRAPH_RANGES)


def split_units(chunk: str) -> list[str]:
    """Split into characters with their marks, and runs of full stops or hyphens."""
    units: list[str] = []
    for char in chunk:
        runs_on = units and char in ".-" and set(units[-1]) == {char}
        if units and (is_mark(char) or runs_on):
            units[-1] += char
        else:
            units.append(char)
    return units


def split_words(text: str) -> list[str]:
    """Split text into words by the rule in `pipeline.kernels.statistics.word_split`."""
    return [word for chunk in text.split() for word in split_chunk(chunk)]


def split_chunk(chunk: str) -> list[str]:
    if not any(is_symbol(char) or is_ideograph(char) for char in chunk):
        return [chunk]
    units = split_units(chunk)
    words: list[str] = []
    while units and is_symbol(units[0]) and not stays_in_front(units):
        words.append(units.pop(0))
    tail: list[str] = []
    while units and is_symbol(units[-1]) and not stays_behind(units):
        tail.insert(0, units.pop())
    core = "".join(units)
    contraction = CONTRACTION.search(core)
    if contraction:
        core, ending = core[: contraction.start()], [contraction.group()]
    else:
        ending = []
    inside = [core] if ADDRESS.match(core) else split_inside(split_units(core))
    return [word for word in [*words, *inside, *ending, *tail] if word]


def stays_in_front(units: Sequence[str]) -> bool:
    first = units[0][0]
    if first in JOINERS:
        return True
    if first == "." and not units[0].startswith(".."):
        return len(units) > 1
    return first == "+" and len(units) > 1 and is_digit(units[1])


def stays_behind(units: Sequence[str]) -> bool:
    if units[-1][0] in JOINERS or units[-1][0] == "=":
        return True
    if units[-1][0] == "+":
        return len(units) == 1 or not is_digit(units[-2])
    return units[-1][0] == "." and not units[-1].startswith("..") and ends_abbreviation(units)


def ends_abbreviation(units: Sequence[str]) -> bool:
    """Say whether the final full stop belongs to what is before it."""
    if len(units) < 2 or category(units[-2][0])[0] != "L":
        return False
    if len(units) == 2:
        return is_upper(units[-2])
    if units[-3][0] == ".":
        return True
    single_capital = is_upper(units[-2]) and not is_upper(units[-3])
    return single_capital or "".join(units) in ABBREVIATIONS


def split_inside(units: Sequence[str]) -> list[str]:
    words = [""]
    for k, unit in enumerate(units):
        before = units[k - 1] if k else ""
        after = units[k + 1] if k + 1 < len(units) else ""
        if stands_alone(unit, before, after):
            words += [unit, ""]
        else:
            words[-1] += unit
    return words


def stands_alone(unit: str, before: str, after: str) -> bool:
    char = unit[0]
    if is_ideograph(unit) or (category(char) == "So" and char != "°") or char == "…" or unit.startswith(".."):
        return True
    if not before or not after:
        return False
    if char == ",":
        return before[0].isalpha() and after[0].isalpha()
    if char == ".":
        small = before[0].isalpha() and not is_upper(before)
        return (small or before[0] in QUOTES) and (is_upper(after) or after[0] in QUOTES)
    if char in "+-*^" and is_digit(before) and (is_digit(after) or after[0] == "-"):
        return True
    return char in "-–—~:/=<>" and (before[0].isalpha() or is_digit(before)) and after[0].isalpha()


def count_sentences(line: str) -> int:
    count, is_open = 0, False
    for word in split_words(line):
        if word in TERMINALS:
            count, is_open = max(count, 1), True
        elif count == 0:
            count = 1
        elif is_open and not all(category(char)[0] == "P" for char in word):
            count, is_open = count + 1, False
    return count


def find_duplicates(elements: Sequence[str]) -> tuple[int, int]:
    seen: set[str] = set()
    repeated = []
    for element in elements:
        if element in seen:
            repeated.append(element)
        seen.add(element)
    return len(repeated), sum(map(len, repeated))


def top_ngram_chars(words: Sequence[str], n: int) -> int:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    if not counts:
        return 0
    ngram, count = counts.most_common(1)[0]
    return len(" ".join(ngram)) * count if count > 1 else 0


def duplicate_ngram_chars(words: Sequence[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    chars = i = 0
    while i < len(words) - n + 1:
        ngram = tuple(words[i : i + n])
        if ngram in seen:
            chars += sum(map(len, ngram))
            i += n
        else:
            seen.add(ngram)
            i += 1
    return chars


def ascii_lower(text: str) -> str:
    return re.sub("[A-Z]+", lambda match: match.group().lower(), text)


def is_punctuated(line: str) -> bool:
    return line.endswith((".", "?", "!", '"', "'")) and not line.endswith("...")


def ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def c4_lines(text: str, need_punctuation: bool) -> tuple[list[str], bool, bool]:
    """Return the lines that C4 keeps, and whether a lorem ipsum or a curly bracket would drop the document."""
    kept: list[str] = []
    lorem_ipsum = curly_bracket = False
    for line in text.splitlines():
        stripped = line.strip()
        words = stripped.split()
        if any(len(word) > 1000 for word in words):
            continue
        edited = CITATION.sub("", stripped)
        if (need_punctuation and not is_punctuated(edited)) or len(words) < 3:
            continue
        small = ascii_lower(edited)
        lorem_ipsum |= "lorem ipsum" in small
        if "javascript" in small:
            continue
        curly_bracket |= "{" in edited
        if not any(phrase in small for phrase in POLICY_PHRASES):
            kept.append(edited)
    return kept, lorem_ipsum, curly_bracket


def fineweb_ratios(
    lines: Sequence[str], chars: int, newlines: int, num_words: int
) -> tuple[float, float, float, float]:
    """Return FineWeb's four numbers for lines already split."""
    lines = [line for line in lines if line.strip()]
    punctuated = sum(line[-1] in TERMINALS for line in lines)
    short = sum(len(line) <= 30 for line in lines)
    duplicate_chars = find_duplicates(lines)[1]
    return (
        ratio(punctuated, len(lines)),
        ratio(short, len(lines)),
        ratio(duplicate_chars, chars),
        ratio(newlines, num_words),
    )


def word_stats(text: str) -> dict[str, object]:
    words = split_words(text)
    full = [word for word in words if any(category(char)[0] in "LMN" for char in word)]
    return {
        "word_count": len(full),
        "word_and_symbol_count": len(words),
        "mean_word_length": ratio(sum(map(len, full)), len(full)),
        "alpha_word_ratio": ratio(sum(any(char.isalpha() for char in word) for word in words), len(words)),
        "stop_word_count": len(STOP_WORDS & set(words)),
        "hash_word_ratio": ratio(text.count("#"), len(words)),
        "ellipsis_word_ratio": ratio(text.count("...") + text.count("…"), len(words)),
        "sentence_count": sum(map(count_sentences, text.splitlines())),
        **{f"top_{n}gram_char_fraction": ratio(top_ngram_chars(words, n), len(text)) for n in (2, 3, 4)},
        **{
            f"duplicate_{n}gram_char_fraction": ratio(duplicate_ngram_chars(words, n), len(text))
            for n in (5, 6, 7, 8, 9, 10)
        },
    }


def line_stats(text: str) -> dict[str, object]:
    lines = text.splitlines()
    n = len(lines)
    small = [ascii_lower(line) for line in lines]
    duplicate_lines, duplicate_line_chars = find_duplicates(re.split("\n+", text))
    paragraphs = re.split("\n{2,}", text.strip())
    duplicate_paragraphs, duplicate_paragraph_chars = find_duplicates(paragraphs)
    return {
        "line_count": n,
        "bullet_line_ratio": ratio(sum(line.lstrip().startswith(("•", "-")) for line in lines), n),
        "ellipsis_line_ratio": ratio(sum(line.rstrip().endswith(("...", "…")) for line in lines), n),
        "terminal_punctuation_line_ratio": ratio(sum(is_punctuated(line.strip()) for line in lines), n),
        "few_word_line_count": sum(len(line.split()) in (1, 2) for line in lines),
        "long_word_line_count": sum(any(len(word) > 1000 for word in line.split()) for line in lines),
        "javascript_line_count": sum("javascript" in line for line in small),
        "policy_line_count": sum(any(phrase in line for phrase in POLICY_PHRASES) for line in small),
        "has_lorem_ipsum": any("lorem ipsum" in line for line in small),
        "has_curly_bracket": "{" in text,
        "duplicate_line_fraction": ratio(duplicate_lines, len(re.split("\n+", text))),
        "duplicate_line_char_fraction": ratio(duplicate_line_chars, len(text)),
        "duplicate_paragraph_fraction": ratio(duplicate_paragraphs, len(paragraphs)),
        "duplicate_paragraph_char_fraction": ratio(duplicate_paragraph_chars, len(text)),
    }


def c4_stats(text: str) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, need_punctuation in (("c4", True), ("fineweb", False)):
        kept, lorem_ipsum, curly_bracket = c4_lines(text, need_punctuation)
        result[f"{name}_line_count"] = len(kept)
        result[f"{name}_sentence_count"] = sum(map(count_sentences, kept))
        result[f"{name}_lorem_ipsum"] = lorem_ipsum
        result[f"{name}_curly_bracket"] = curly_bracket
    kept, _, _ = c4_lines(text, need_punctuation=False)
    num_words = sum(len(split_words(line)) for line in kept)
    edited = fineweb_ratios(kept, sum(map(len, kept)), max(len(kept) - 1, 0), num_words)
    whole = fineweb_ratios(text.split("\n"), len(text.replace("\n", "")), text.count("\n"), len(split_words(text)))
    names = ("line_punct_ratio", "short_line_ratio", "duplicate_line_char_ratio", "newline_word_ratio")
    result.update(zip(names, whole, strict=True))
    result.update(zip((f"fineweb_{name}" for name in names), edited, strict=True))
    return result


def text_stats_oracle(text: str) -> dict[str, object]:
    """Return every column of one text."""
    size = len(text.encode())
    return {
        "text_length": len(text),
        "text_bytes": size,
        "estimated_tokens": size / 4,
        "digit_ratio": ratio(sum(category(char) == "Nd" for char in text), len(text)),
        "uppercase_ratio": ratio(sum(category(char) in ("Lu", "Lt") for char in text), len(text)),
        "whitespace_ratio": ratio(sum(char.isspace() for char in text), len(text)),
        "url_count": text.count("://"),
        **word_stats(text),
        **line_stats(text),
        **c4_stats(text),
    }
