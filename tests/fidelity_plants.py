"""Faithful rewordings of real text, and changes planted into them, by seeded rules.

They share no code with the checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

MONTHS = "January February March April May June July August September October November December".split()  # noqa: SIM905
_SENTENCE = re.compile(r"(?<=[a-z0-9)\"][.!?])\s+(?=[A-Z])")
_SYNONYMS = {
    "large": "big", "began": "started", "however": "but", "several": "a number of", "many": "numerous", "also":
    "in addition", "because": "since", "important": "significant", "often": "frequently", "shows":
    "demonstrates", "used": "employed", "built": "constructed", "help": "assist", "found": "discovered", "near":
    "close to", "children": "kids", "buy": "purchase", "people": "persons", "about": "roughly", "get": "obtain",
    "need": "require", "bought": "purchased", "wrote": "authored", "main": "principal", "usually": "normally",
    "quickly": "rapidly", "created": "made", "city": "town",
}  # fmt: skip
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = "x x twenty thirty forty fifty sixty seventy eighty ninety".split()  # noqa: SIM905


def segment(text: str, rng: Random, size: int = 1200) -> list[str]:
    """Return the sentences of about `size` characters of `text`, from a random place."""
    found = [s.strip() for s in _SENTENCE.split(" ".join(text.split())) if 30 <= len(s.strip()) <= 400]
    if not found:
        return []
    start = rng.randrange(max(1, len(found) - 6))
    kept: list[str] = []
    for sentence in found[start:]:
        kept.append(sentence)
        if sum(map(len, kept)) > size:
            break
    return kept


def spell(number: int) -> str:
    """Return a whole number below a million in words."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_ONES[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{_ONES[number // 100]} hundred" + (f" and {spell(number % 100)}" if number % 100 else "")
    return f"{spell(number // 1000)} thousand" + (f" {spell(number % 1000)}" if number % 1000 else "")


# --- what leaves the meaning alone


def numbers_as_words(text: str, rng: Random) -> str:
    """Write plain whole numbers below 1,000 in words."""
    return re.sub(r"(?<![\w.,:/$£€-])(\d{1,3})(?![\w.,:/%°-]*\d|[\w%°])", lambda m: spell(int(m[1])), text)


def words_as_numbers(text: str, rng: Random) -> str:
    """Write number words from two to nineteen in digits."""
    words = {word: str(k) for k, word in enumerate(_ONES) if k >= 2}
    scale = "hundred|thousand|million|billion|dozen|and|score"
    return re.sub(
        rf"(?<![\w-])(?<!hundred )(?<!and )([a-z]+)\b(?!-| (?:{scale})\b)", lambda m: words.get(m[1], m[1]), text
    )


def thousands(text: str, rng: Random) -> str:
    """Write 12,000,000 as 12 million, and drop the commas of others."""
    text = re.sub(r"\b(\d{1,3}),000,000\b", r"\1 million", text)
    return re.sub(r"\b(\d{1,3}),(\d{3})\b(?!,)", r"\1\2", text)


def dates_reordered(text: str, rng: Random) -> str:
    """Write day-month dates month first and the reverse, and some in digits."""
    names = "|".join(MONTHS)

    def to_american(m: re.Match[str]) -> str:
        return f"{m[2]} {m[1]}, {m[3]}"

    def to_iso(m: re.Match[str]) -> str:
        return f"{m[3]}-{MONTHS.index(m[1]) + 1:02}-{int(m[2]):02}"

    def to_british(m: re.Match[str]) -> str:
        return f"{m[2]} {m[1]} {m[3]}"

    style = rng.randrange(2)
    text, done = re.subn(rf"\b(\d{{1,2}}) ({names}) (\d{{4}})\b", to_american, text)
    if not done:
        text = re.sub(rf"\b({names}) (\d{{1,2}}), (\d{{4}})\b", to_iso if style else to_british, text)
    return text


def units_converted(text: str, rng: Random) -> str:
    """Convert kilometres, miles, metres, feet and kilograms."""
    table: list[tuple[str, float, str]] = [
        (r"(?:km|kilomet(?:re|er)s)", 0.621371, "miles"), (r"miles", 1.609344, "km"), (r"(?:feet|ft)", 0.3048, "metres"),  # noqa: E501
        (r"(?:kg|kilograms)", 2.20462, "pounds"), (r"(?:metres|meters)", 3.28084, "feet"), (r"hours", 60.0, "minutes"),
    ]  # fmt: skip
    for unit, factor, other in table:

        def convert(m: re.Match[str], factor: float = factor, other: str = other) -> str:
            value = float(m[1].replace(",", "")) * factor
            return f"{value:,.1f} {other}" if value < 100 else f"{value:,.0f} {other}"

        text, done = re.subn(rf"(?<![\w.,-])(\d[\d,]*(?:\.\d+)?) {unit}\b(?! per)", convert, text)
        if done:
            break
    return text


def names_shortened(text: str, rng: Random) -> str:
    """Drop the first names of people and the titles before names."""
    text = re.sub(r"\b(?:Mr|Mrs|Dr|Prof)\.? (?=[A-Z])", "", text)
    return re.sub(
        r"(?<=[a-z,] )(?:John|William|James|Charles|George|Robert|Thomas|Henry|David|Mary) (?=[A-Z][a-z]{3})", "", text
    )


def synonyms(text: str, rng: Random) -> str:
    """Replace some words by others that mean the same."""
    return re.sub(r"\b([a-z]+)\b", lambda m: _SYNONYMS.get(m[1], m[1]) if rng.random() < 0.7 else m[1], text)


def contractions(text: str, rng: Random) -> str:
    """Contract and expand negations."""
    if rng.random() < 0.5:
        return re.sub(r"\b(did|does|do|is|was|were|are|could|would|should|has|have|had) not\b", r"\1n't", text)
    return re.sub(r"\b(did|does|do|is|was|were|are|could|would|should|has|have|had)n['’]t\b", r"\1 not", text)


def fronted(text: str, rng: Random) -> str:
    """Move `in YEAR` at a sentence's end to its beginning."""
    return re.sub(
        r"(?:(?<=\A)|(?<=\. ))([A-Z])([^.;:?!\"]{20,160}) (in \d{4})\.",
        lambda m: f"{m[3].capitalize()}, {m[1]}{m[2]}.",
        text,
    )


FAITHFUL: dict[str, Callable[[str, Random], str]] = {
    "number words": numbers_as_words, "digits": words_as_numbers, "thousands": thousands, "dates": dates_reordered,
    "units": units_converted, "short names": names_shortened, "synonyms": synonyms, "contractions": contractions,
    "fronted": fronted,
}  # fmt: skip


def reworded(sentences: list[str], rng: Random) -> str:
    """Return some of `sentences`, perhaps in another order, reworded, perhaps as a list or as question and answer."""
    kept = [s for s in sentences if rng.random() < 0.7] or sentences[:1]
    if rng.random() < 0.3:
        rng.shuffle(kept)
    text = " ".join(kept)
    for change in FAITHFUL.values():
        if rng.random() < 0.6:
            text = change(text, rng)
    form = rng.randrange(4)
    if form == 0:
        return "\n".join(f"- {s}" for s in _SENTENCE.split(text))
    if form == 1:
        return f"Question: What does the passage describe?\nAnswer: {text}"
    if form == 2:
        return f"## Overview\n\n{text}\n\n**Key Points**"
    return text


# --- what changes it


def plant_number(text: str, rng: Random, pool: list[str]) -> str | None:
    """Change one number that is no year: a digit, two digits exchanged, a word, or the size."""
    spots = [
        m
        for m in re.finditer(r"(?<![\w.,-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w-])", text)
        if not re.fullmatch(r"1\d{3}|20\d\d", m[0])
    ]
    words = [m for m in re.finditer(r"\b[a-z]+\b", text) if m[0] in _ONES[2:]]
    if not spots and not words:
        return None
    spot = rng.choice(spots + words)
    if spot[0] in _ONES:
        new = rng.choice([w for w in _ONES[2:] if w != spot[0]])
    else:
        digits = [k for k, c in enumerate(spot[0]) if c.isdigit()]
        k = rng.choice(digits)
        choices = [d for d in "123456789" if d != spot[0][k]]
        new = spot[0][:k] + rng.choice(choices) + spot[0][k + 1 :]
        if rng.random() < 0.2 and "." not in spot[0]:
            new = spot[0] + "0" if "," not in spot[0] else spot[0].rsplit(",", 1)[0]
    return text[: spot.start()] + new + text[spot.end() :]


def plant_date(text: str, rng: Random, pool: list[str]) -> str | None:
    """Change a year, the month or the day of a date."""
    names = "|".join(MONTHS)
    spots = [("year", m) for m in re.finditer(r"(?<![\w.,$£€-])(?:1[5-9]\d\d|20[012]\d)(?!\w|,\d|-\d)", text)]
    spots += [("month", m) for m in re.finditer(rf"\b(?:{names})\b(?=,? \d)", text)]
    spots += [("day", m) for m in re.finditer(rf"(?<={MONTHS[0]} )\d{{1,2}}\b|\b\d{{1,2}}(?= (?:{names})\b)", text)]
    if not spots:
        return None
    kind, spot = rng.choice(spots)
    if kind == "year":
        new = str(int(spot[0]) + rng.choice([-30, -11, -9, -5, -3, -2, -1, 1, 2, 4, 7, 10, 20]))
    elif kind == "month":
        new = rng.choice([m for m in MONTHS if m != spot[0]])
    else:
        new = str(rng.choice([d for d in range(1, 29) if d != int(spot[0])]))
    return text[: spot.start()] + new + text[spot.end() :]


_PERSON = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}(?: [A-Z][a-z]{3,})?(?=[ ,.;])")


def name_pool(texts: list[str]) -> list[str]:
    """Return capitalised words in mid-sentence that no text of the corpus writes in lower case."""
    lower = set(re.findall(r"\b[a-z]{4,}\b", " ".join(texts)))
    found = {m[0].split()[-1] for text in texts for m in _PERSON.finditer(text)}
    return sorted(name for name in found if name.lower() not in lower)


def plant_name(text: str, rng: Random, pool: list[str]) -> str | None:
    """Replace one name, wherever it stands, by one of another text."""
    known = set(pool)
    lower = set(re.findall(r"\b[a-z]{4,}\b", text))
    spots = [
        m[0]
        for m in _PERSON.finditer(text)
        if m[0].split()[-1] in known and all(w.lower() not in lower and w not in MONTHS for w in m[0].split())
    ]
    if not spots:
        return None
    old = rng.choice(spots)
    new = rng.choice([name for name in pool if name not in text])
    return re.sub(rf"\b{re.escape(old)}\b", new, text)


_AUXILIARY = re.compile(
    r"\b(?:was|were|is|are|has|had|can|could|will|would|should)\b(?= [a-z]{3,})"
    r"(?! (?:not|no|never|nothing|only|it|he|they|you|we|she|there|this|that|the)\b)"
)
_NEGATED = re.compile(
    r"(?<=was|ere|are|has|had|can|uld|ill) (?:not|never)(?= [a-z])(?! only)|(?<=is) not(?= [a-z])(?! only)"
    r"|(?<=was|ere|are|has|had|uld)n['’]t\b"
)


def plant_negation(text: str, rng: Random, pool: list[str]) -> str | None:
    """Insert `not` or `never` after an auxiliary, or delete a negation."""
    spots = [(m.end(), m.end(), rng.choice([" not", " not", " never"])) for m in _AUXILIARY.finditer(text)]
    for m in _NEGATED.finditer(text):
        spots += [(m.start(), m.end(), "")] * 3
    if not spots:
        return None
    start, end, new = rng.choice(spots)
    return text[:start] + new + text[end:]


PLANTED: dict[str, Callable[[str, Random, list[str]], str | None]] = {
    "number": plant_number, "date": plant_date, "name": plant_name, "negation": plant_negation,
}  # fmt: skip
