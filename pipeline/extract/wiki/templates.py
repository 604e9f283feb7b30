"""What a template's text is, told from its structure: a dump of a page does not hold what its templates say.

A template that stands in a sentence carries a word of it more often than not: `{{lang|fr|mot}}`, `{{nowrap|5 km}}`.
One that stands alone carries none, unless one of its arguments is a sentence: a quotation. Names, which are different
in every language, decide only where structure misleads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

GONE = "\x00"
"""Stands for what was taken out, until the punctuation around it is mended."""
Place = Literal["alone", "behind", "item", "line"]

_CHARACTERS = {
    "!": "|", "=": "=", "(": "{", ")": "}", "'": "'", '"': '"', "·": " ·", "•": " •", "dot": " ·", "bull": "•",
    "spaces": " ", "nbsp": " ", "space": " ", "thinsp": " ", "ndash": "–", "mdash": "—", "en dash": "–", "em dash": "—",
    "spaced ndash": " – ", "snd": " – ", "spnd": " – ", "spaced en dash": " – ", "zwj": "\u200d", "zwnj": "\u200c",
    "pi": "π", "times": "×", "minus": "−", "yes": "Yes", "no": "No", "br": "\n", "clear": "\n", "-": "\n", "'s": "'s",
    "mdashb": "—", "endash": "–", "emdash": "—", "won": "Won", "nom": "Nominated", "n/a": "N/A", "tba": "TBA",
    "m s.l.m.": "m s.l.m.", "flat": "♭", "sharp": "♯", "natural": "♮",
}  # fmt: skip
_RAISED = {"2": "²", "3": "³", **dict.fromkeys(("a", "e", "er", "nd", "o", "re"))}
"""fr: 12 m{{2}}, le 5{{e}} jour."""
_MONEY = {"cny": "CN¥", "eur": "€", "euro": "€", "gbp": "£", "inr": "₹", "jpy": "¥", "usd": "US$"}
_REMARKS = (
    "anchor|ancla|ancre|anker|audio|bare url|citation needed|cite|clade|clarify|coord|cref|dablink|dmoz|efn|fact|"
    "flagicon|further|harv|harvnb|harvp|hatnote|in lang|inflation-fn|ipac-en|isbn|issn|lien web|lingue|main|note|"
    "notelist|oclc|ouvrage|portail|portal|portale|r|ref|refn|reflist|respell|rp|référence|see also|sfn|sfnp|shy|"
    "vcite book|vcite journal|vcite news|vcite web|when|who|why|якорь"
)
_NOT_TEXT = frozenset(_REMARKS.split("|"))
"""Of one argument, and yet a footnote, an identifier or a remark to editors."""
_SECOND = re.compile(
    "colou?r|colore|couleur|font ?colou?r|font|lang|langue|légende|legend[ae]?|resize|script|transl|transliteration"
)
"""The text is the second argument."""
_FUNCTIONS = frozenset({"lc", "uc", "lcfirst", "ucfirst", "formatnum", "nowrap"})
_NAMED = re.compile(r"\s*([^=\n|]{0,60}?)\s*=")
_CODE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z]{2,8}){0,2}")
_CODED = re.compile(r"[A-Z]{2}-[A-Z0-9]{2,8}")
_NUMBER = re.compile(r"[+-−]?\d[\d.,\s\u00a0']*")
_UNIT = re.compile(r"[^\W\d_][^\d\s|]{0,14}|[%°‰][^\W\d]?")
_SENTENCE = re.compile(r"[.!?…।؟։][\s\"'»”’)]|[.!?…।؟։]$|[。！？]|\n")
_RECORD = re.compile(r"[A-Za-z]{0,3}0\d{4,}\w*")  # of another site: {{IMDb title|0120338|Titanic}}
_ADDRESS = re.compile(r"(?:[a-z]{2,8}:)?//|www\.")
_NAMED_WORDS = re.compile(r"\d|[IVXL]+(?:er?|ème|º|\.)? \w")  # fr: {{1er janvier}}, {{XXe siècle}}
_CURRENCY = re.compile("[$€£¥₹₩₽]")
FILE = re.compile(r"\.(?:jpe?g|png|svg|gif|tiff?|webp|og[agv]|webm|mp3|wav|flac|pdf|djvu)$", re.IGNORECASE)
_TEXT = frozenset({"text", "content", "contenuto", "inhalt", "texte", "texto", "testo", "текст"})
_SAID = _TEXT | {"quote", "citation", "shortsummary", "zitat", "цитата"}


def template_text(name: str, parts: Sequence[Sequence[str]], title: str, place: Place) -> str:
    """Return the text that stands for a template, `GONE` when there is none.

    `parts` are the pieces of its arguments, of which every second one at most came from brackets within it. `place` is
    where it stands: on lines of its own, close behind a word as a note does, first in an item, or elsewhere in a line.
    """
    key = name.lower()
    if not parts:
        character = _CHARACTERS.get(key) or _MONEY.get(key)
        if character is None and place == "behind" and key in _RAISED:
            return _RAISED[key] or key
        if character is None and key in ("pagename", "fullpagename", "subpagename", "basepagename"):
            return title
        function, colon, value = name.partition(":")
        if colon and (function.lower() in _FUNCTIONS or (place != "alone" and _NUMBER.fullmatch(value.strip()))):
            return value.strip()
        if character is None and place == "line" and _NAMED_WORDS.match(name):
            return name
        return GONE if character is None else character
    if key in _NOT_TEXT or key[:1] == "#" or (":" in key and key.partition(":")[0] not in _FUNCTIONS):
        return GONE
    given: list[str] = []
    named: dict[str, str] = {}
    for part in parts:
        first = part[0] if part else ""
        label = _NAMED.match(first) if "=" in first else None
        text = "".join(part)
        if label is None:
            given.append(text.strip(f" \n\t{GONE}"))
        elif label[1].isdecimal() and len(label[1]) < 3:
            given.append(text.partition("=")[2].strip(f" \n\t{GONE}"))
        else:
            named[label[1].lower()] = text
    if any(FILE.search(text) for text in given):
        return GONE
    if place == "alone" or (not given and "content" in named):  # Wikivoyage: * {{see|name=...|content=...}}
        return GONE if "title" in named else _quoted(given, named)
    said = _special(key, given, named)
    if said is None and (place != "behind" or (len(given) == 2 and _CODE.fullmatch(given[0]))):
        said = _in_a_sentence(key, given, named)
    if place == "item" and said and said.isdecimal() and len(said) > 4:
        return GONE  # de: * {{DNB-Portal|119317079}}
    if said and place == "behind" and "/" in said and said[0].isdigit():
        said = f" {said}"  # 1{{frac|1|2}}
    return said or GONE


def _quoted(given: Sequence[str], named: Mapping[str, str]) -> str:
    """Return the arguments of a template on lines of its own that are sentences."""
    said = [named[name].partition("=")[2].strip() for name in named if name in _SAID]
    if not said and len(named) <= 4:
        said = [text for text in given if _is_sentence(text)]
    return "\n".join(said)


def _is_sentence(text: str) -> bool:
    return len(text.encode()) >= 24 and _SENTENCE.search(text) is not None and "://" not in text[:12]


def _in_a_sentence(key: str, given: Sequence[str], named: Mapping[str, str]) -> str | None:
    """Return the argument that is a word of the sentence, by the structure of the arguments."""
    words = [text for text in given if text]
    if not words and len(named) <= 4 and not named.keys() & {"title", "url"}:
        return next((named[name].partition("=")[2].strip() for name in named if name in _TEXT), None)
    if (
        not words
        or key.startswith("age")
        or "group" in named
        or "plainurl" in named
        or "url" in named
        or len(named) > 4
    ):
        return None
    first = words[0]
    if len(words) == 1:
        if _ADDRESS.match(first) or _RECORD.fullmatch(first) or _CODED.fullmatch(first):
            return None
        if key in _MONEY:
            return f"{_MONEY[key]}{first}"
        if _CURRENCY.search(key):
            return f"{key.upper()}{first}"
        return f"{key} {first}" if key[:1].isdigit() else first
    second = words[1]
    if _ADDRESS.match(first) or _RECORD.fullmatch(first):
        return None if _ADDRESS.match(second) else second
    is_code, is_number = _CODE.fullmatch(first), _NUMBER.fullmatch(first)
    if _SECOND.fullmatch(key) or first.startswith("#") or (is_code and len(words) == 2 and not _NUMBER.match(second)):
        return words[-1] if key.startswith(("font", "transl")) else second
    if is_number:
        return _measure(words)
    if is_code and len(words) > 2:  # Wiktionary: {{inh|en|la|cattus}}
        return next((word for word in words if not _CODE.fullmatch(word)), words[-1])
    if len(words) > 2:  # a link to the page of another wiki: its label, its language, its title there
        place = next((at for at in (1, 2) if _CODE.fullmatch(words[at])), None)
        return words[place - 1] if place is not None else None
    return first if re.search(r"[^\W\d_]", first) and not re.match(r"\d{4}", second) else None


def _measure(words: Sequence[str]) -> str | None:
    """Return a day, or a number and its unit."""
    numbers = [int(word) if word.isdecimal() and len(word) <= 4 else 0 for word in words[:3]]
    for year, month, day in (numbers, numbers[::-1]) if len(numbers) == 3 else ():
        if 100 <= year <= 2200 and 1 <= month <= 12 and 1 <= day <= 31:
            return f"{year:04}-{month:02}-{day:02}"
    if len(words) == 3 and words[1].isalpha() and re.fullmatch(r"[-−]?\d+", words[2]):
        is_power = len(words[2]) < 3  # fr: {{unité|5|km|2}}, {{date|1|mai|1980}}
        return f"{words[0]} {words[1]}{'^' if is_power else ' '}{words[2]}"
    units = words[1:]  # of which all but the first are what it is converted to
    return f"{words[0]} {units[0]}" if len(units) < 3 and all(map(_UNIT.fullmatch, units)) else None


def _special(key: str, given: Sequence[str], named: Mapping[str, str]) -> str | None:
    """Return the text of the English templates that say more than one argument does."""
    first = given[0] if given else ""
    if not first and key in ("lien", "zh", "lang-zh"):  # {{zh|c=李安|p=Lǐ Ān}}, fr: {{lien|fr=Mot|trad=Word|lang=en}}
        said = [named[name].partition("=")[2].strip() for name in named if len(name) <= 2]
        return said[0] if key == "lien" and said else ", ".join(said) or None
    if not first:
        return None
    match key:
        case "convert" | "cvt":
            return _converted(given)
        case "frac" | "sfrac" | "fraction":
            return {1: "1/{0}", 2: "{0}/{1}"}.get(len(given), "{0} {1}/{2}").format(*given)
        case "val":
            error = given[1] if len(given) > 1 else ""
            error = f" ± {error}" if error[:1].isdigit() else error
            power = f" × 10^{named['e'].partition('=')[2].strip()}" if "e" in named else ""
            unit = next((f" {named[name].partition('=')[2].strip()}" for name in ("u", "ul") if name in named), "")
            return f"{first}{error}{power}{unit}"
        case "circa" | "c." | "ca":
            return "c. " + " – c. ".join(text for text in given if text)
        case "floruit" | "fl.":
            return f"fl. {'–'.join(text for text in given if text)}"
        case "as of":
            when = "-".join(given) if all(map(str.isdecimal, given)) else " ".join(given[::-1])
            return f"{'as' if 'lc' in named else 'As'} of {when}"
        case "exp" if len(given) == 2:
            return f"{first} × 10^{given[1]}"
        case "m" if len(given) == 3:  # it: {{M|1|c|m}}
            return f"{first} {given[1].strip('-')}{given[2]}"
        case "sup" | "exp" | "sub" | "ind":
            tag = "sup" if key in ("sup", "exp") else "sub"
            return f"<{tag}>{first}</{tag}>"
        case "s" | "s-" | "-s" | "-s-" | "siècle" if len(given) == 2 and given[1] in ("e", "er"):
            return f"{first}{given[1]} siècle"
        case "bibleverse" | "bibleref" | "oldstyledate" | "ship":
            return " ".join(given[:2])
        case "sclass" | "sclass-" if len(given) > 1:
            return f"{first}-class {given[1]}"
        case "heure":
            return " h ".join(given[:2])
        case "höhe":
            return f"{first} m"
        case "music":
            return _CHARACTERS.get(first)
        case "chem" | "fchim":
            return "".join(given)
        case "sortname":
            return " ".join(given[:2])
        case "sort":
            return given[-1]
        case "e":
            return f" × 10^{first}"
        case "hlist" | "flatlist" | "plainlist" | "ubl" | "unbulleted list" | "ordered list" | "bulleted list":
            return ", ".join(text for text in given if text)
        case "uss" | "hms" | "hmas" | "rms" | "ss":
            return f"{key.upper()} {first}"
        case "nihongo" | "nihongo2" | "korean" | "zh":
            inner = ", ".join(text.strip(" ,") for text in given[1:3] if text)
            return f"{first} ({inner})" if inner else first
        case "ill" | "interlanguage link" | "abbr" | "tooltip" | "ruby" | "ipa" | "hover title" | "illm":
            return given[-1] if _CODE.fullmatch(first) and len(given) > 2 else first
    return None


def _converted(given: Sequence[str]) -> str | None:
    """Return the measure before its conversion: `{{convert|5|-|7|km|mi}}`, `{{convert|5|ft|6|in|m}}`."""
    if len(given) < 2:
        return given[0]
    if len(given) > 3 and not _NUMBER.fullmatch(given[1]) and _NUMBER.fullmatch(given[2]):
        joined = {"-": "–", "–": "–", "to": " to ", "and": " and ", "or": " or ", "x": " × ", "by": " by "}
        if given[1] in joined:
            return f"{given[0]}{joined[given[1]]}{given[2]} {given[3]}"
        return f"{given[0]} {given[1]} {given[2]} {given[3]}"
    return f"{given[0]} {given[1]}"
