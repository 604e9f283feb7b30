"""Title, publication date, licence and language of a page, from what it says about itself in its markup.

Meta tags, JSON-LD, `time` elements and licence links of a tree that was parsed anyway, in about a millisecond. No
search for dates in text or URLs. HTTP headers are the last fallback (`header_date`, `header_licence`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, product

from lxml.etree import XPath, _Element

from pipeline.extract.html.licences import MAX_LINKS, page_licence, spdx_from_url

MAX_META_TAGS = 500
MAX_JSON_LD_BYTES = 256 * 1024
MAX_JSON_LD_SCRIPTS = 8
MAX_JSON_LD_OBJECTS = 500
MAX_TITLE_CHARACTERS = 500
EARLIEST_YEAR = 1990

_TITLE_KEYS = ("og:title", "twitter:title", "dc.title", "citation_title")
# Meta tags with the publication date: those that count before JSON-LD, and those that count after it.
_FIRST_KEYS = "article:published_time datepublished og:article:published_time og:published_time"
_OTHER_KEYS = (
    "article:published parsely-pub-date sailthru.date citation_publication_date citation_date dc.date.issued "
    "dcterms.issued dcterms.date dcterms.created dc.date.created dc.date datecreated publishdate publish-date "
    "publish_date publication_date pubdate date"
)
_JSON_LD = XPath("//script[contains(@type, 'ld+json')]")
# schema.org's types of what a page may be. A date or licence of another thing on it (a picture, a film, a comment, the
# site, a person) is not the page's.
_TEXT_TYPE = re.compile(r"(?:Article|Posting|Report|Recipe|HowTo|Question|ClaimReview|LearningResource|APIReference)$")
_PAGE_TYPE = re.compile(r"(?:Page|CreativeWork)$")

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]{{0,6}}\.?"
_WEEKDAY = r"(?:[a-z]{3,9}\.?,?\s+)?"
_DAY_FIRST = re.compile(rf"{_WEEKDAY}(\d{{1,2}})(?:st|nd|rd|th)?[\s-]+{_MONTH},?[\s-]+(\d{{4}}|\d{{2}})(?![\d:])", re.I)
_MONTH_FIRST = re.compile(rf"{_WEEKDAY}{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})(?!\d)", re.I)
_YEAR_FIRST = re.compile(r"(\d{4})(?:([-/.])(\d{1,2})\2(\d{1,2})(?!\d)|(\d{2})(\d{2})(?=T|\d{4}(?:\d{2})?(?!\d)|\D|$))")
_C_TIME = re.compile(r"([a-z]{3} +\d{1,2}) +(\d{2}:\d{2}:\d{2}) +(?:([a-z]{3,5}|[+-]\d{4}) +)?(\d{4})$", re.I)
_TIME = re.compile(
    r"(?:[T\s,@-]*(?:at\s+)?(\d{1,2}):(\d{2})(?::(\d{2}))?(?:[.,]\d+)?|T?(\d{2})(\d{2})(\d{2})?(?:[.,]\d+)?(?!\d))"
    r"\s*(?:([ap])\.?m\b\.?)?\s*",
    re.IGNORECASE,
)
_ZONE = re.compile(r"\(?([A-Za-z]*)\)?(?:([+\u2212-])(\d{1,2})(?::?(\d{2}))?(?!\d))?")
# Hours from UTC of abbreviations that mean one zone. After another (BST, IST) only the day is known.
_ZONE_HOURS = {
    **dict.fromkeys(("", "Z", "UT", "UTC", "GMT", "WET"), 0),
    **dict.fromkeys(("WEST", "CET", "MEZ"), 1),
    **dict.fromkeys(("CEST", "MESZ", "EET"), 2),
    **{"EEST": 3, "MSK": 3, "HKT": 8, "JST": 9, "KST": 9, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13},
    **{"EDT": -4, "EST": -5, "CDT": -5, "CST": -6, "MDT": -6, "MST": -7, "PDT": -7, "PST": -8},
}
MAX_ZONE_HOURS = 14
_LINK_HEADER = re.compile(r"<([^<>]{1,300})>([^,<]{0,200})")
_REL_LICENCE = re.compile(r"rel\s*=\s*\"?[^\";]{0,80}\blicen[sc]e\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class PageMetadata:
    """What a page says about itself; None where it says nothing usable. `date` is in UTC."""

    title: str | None = None
    date: datetime | None = None
    date_source: str | None = None  # meta, json_ld, time
    licence: str | None = None
    language: str | None = None


def read_metadata(tree: _Element) -> PageMetadata:
    """Return the metadata of a parsed page; the tree is not changed."""
    meta = _meta_tags(tree)
    linked = list(_json_ld_objects(tree))
    levels = _of_the_page(linked)
    date, date_source = _published(tree, meta, levels)
    return PageMetadata(
        title=_title(tree, meta, linked),
        date=date,
        date_source=date_source,
        licence=page_licence(tree, meta, [*levels[0], *levels[1]]),
        language=_language(tree, meta),
    )


def parse_date(text: str) -> datetime | None:
    """Return the instant that a date string of a page or a header names, in UTC; None when it is unclear or absurd.

    A date without a time, or with one whose zone is unclear, is midnight UTC; a time without a zone is taken as UTC.
    """
    text = _C_TIME.sub(r"\1 \4 \2 \3", text.strip()[:64])
    day, rest = _day(text)
    if day is None or not EARLIEST_YEAR <= day.year <= 2100:
        return None
    time = _TIME.match(rest)
    if time is None:
        return day
    *digits, half = time.groups()
    hour, minute, second = (int(group or 0) for group in (digits[:3] if digits[0] else digits[3:]))
    if half and hour <= 12:
        hour = hour % 12 + (12 if half in "Pp" else 0)
    offset = _offset(rest[time.end() :])
    if offset is None or hour > 23 or minute > 59 or second > 60:
        return day
    return day + timedelta(hours=hour, minutes=minute, seconds=min(second, 59)) - offset


def _day(text: str) -> tuple[datetime | None, str]:
    """Return the day that a string begins with, at midnight UTC, and the rest."""
    if match := _YEAR_FIRST.match(text):
        year, month, day = match[1], int(match[3] or match[5]), match[4] or match[6]
    elif match := _DAY_FIRST.match(text):
        year, month, day = match[3], _MONTHS.index(match[2].lower()) + 1, match[1]
    elif match := _MONTH_FIRST.match(text):
        year, month, day = match[3], _MONTHS.index(match[1].lower()) + 1, match[2]
    else:
        return None, text
    century = 0 if len(year) == 4 else 2000 if int(year) < 69 else 1900
    try:
        return datetime(century + int(year), month, int(day), tzinfo=UTC), text[match.end() :]
    except ValueError:
        return None, text


def _offset(zone: str) -> timedelta | None:
    """Return how far a zone, with which a string goes on, is ahead of UTC; None when it is not known."""
    name, sign, hours, minutes = _ZONE.match(zone).groups()  # type: ignore[union-attr]
    base = _ZONE_HOURS.get(name.upper())
    if base is None or (hours and base) or int(hours or 0) > MAX_ZONE_HOURS or int(minutes or 0) > 59:
        return None
    ahead = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    return timedelta(hours=base) + (ahead if sign == "+" else -ahead)


def header_date(headers: dict[str, str]) -> datetime | None:
    """Return the date of `Last-Modified`, None when it is absent or unreadable."""
    value = headers.get("last-modified")
    return parse_date(value) if value else None


def header_licence(headers: dict[str, str]) -> str | None:
    """Return the SPDX identifier that `Link: <...>; rel=license` names, None without one."""
    for url, parameters in _LINK_HEADER.findall(headers.get("link", "")[:4000]):
        if _REL_LICENCE.search(parameters):
            return spdx_from_url(url)
    return None


def _meta_tags(tree: _Element) -> dict[str, str]:
    """Return the content of meta tags by lower-case name, property or itemprop; the first of a name counts."""
    found: dict[str, str] = {}
    for count, tag in enumerate(tree.iter("meta")):
        if count >= MAX_META_TAGS:
            break
        content = tag.get("content")
        if not content:
            continue
        for attribute in ("property", "name", "itemprop", "http-equiv"):
            key = tag.get(attribute)
            if key:
                found.setdefault(key.strip().lower(), content)
    return found


def _json_ld_objects(tree: _Element) -> Iterator[dict[str, object]]:
    """Yield the objects of the page's JSON-LD, outer ones first; too deep, too large or broken scripts are skipped."""
    queue: list[object] = []
    for script in _JSON_LD(tree)[:MAX_JSON_LD_SCRIPTS]:
        source = script.text or ""
        if len(source) > MAX_JSON_LD_BYTES:
            continue
        try:
            queue.append(json.loads(source, strict=False))
        except (ValueError, RecursionError):
            continue
    for count, node in enumerate(queue):  # the queue grows while it is read: breadth first
        if count >= MAX_JSON_LD_OBJECTS:
            return
        if isinstance(node, list):
            queue.extend(node[:MAX_JSON_LD_OBJECTS])
        elif isinstance(node, dict):
            yield node
            queue.extend(node[key] for key in ("@graph", "mainEntity", "mainEntityOfPage") if key in node)


def _of_the_page(linked: list[dict[str, object]]) -> list[list[dict[str, object]]]:
    """Return the objects that are a text, those that are a page and those of no type; all others are left out."""
    levels: list[list[dict[str, object]]] = [[], [], []]
    for node in linked:
        types = node.get("@type") or []
        names = [name for name in (types if isinstance(types, list) else [types]) if isinstance(name, str)]
        if any(map(_TEXT_TYPE.search, names)):
            levels[0].append(node)
        elif any(map(_PAGE_TYPE.search, names)):
            levels[1].append(node)
        elif not types:
            levels[2].append(node)
    return levels


def _linked_date(levels: list[list[dict[str, object]]], *keys: str) -> str | None:
    """Return the first date under one of the keys; None when objects of its level are of different days."""
    for key, nodes in product(keys, levels):
        values = [value for node in nodes if isinstance(value := node.get(key), str)]
        dates = {value: date for value in values if (date := parse_date(value))}
        if dates:
            return next(iter(dates)) if max(dates.values()) - min(dates.values()) <= timedelta(days=1) else None
    return None


def _title(tree: _Element, meta: dict[str, str], linked: list[dict[str, object]]) -> str | None:
    candidates: list[object] = [meta.get(key) for key in _TITLE_KEYS]
    candidates += [node.get("headline") for node in linked]
    candidates += [element.text_content() for element in tree.iter("title") if hasattr(element, "text_content")][:1]
    candidates += [element.text_content() for element in tree.iter("h1") if hasattr(element, "text_content")][:1]
    for candidate in candidates:
        title = " ".join(candidate.split())[:MAX_TITLE_CHARACTERS] if isinstance(candidate, str) else ""
        if title:
            return title
    return None


def _published(
    tree: _Element, meta: dict[str, str], levels: list[list[dict[str, object]]]
) -> tuple[datetime | None, str | None]:
    """Return the publication date and where it was found; a modification date only when nothing else is there."""
    candidates = [("meta", meta.get(key)) for key in _FIRST_KEYS.split()]
    candidates += [("json_ld", _linked_date(levels, "datePublished", "dateCreated"))]
    candidates += [("meta", meta.get(key)) for key in _OTHER_KEYS.split()]
    candidates += [("time", value) for value in _times(tree)]
    candidates += [("meta", meta.get("article:modified_time"))]
    candidates += [("json_ld", _linked_date(levels, "dateModified"))]
    for where, value in candidates:
        date = parse_date(value) if value else None
        if date is not None:
            return date, where
    return None, None


def _times(tree: _Element) -> list[str]:
    """Return the dates of `time` elements marked as the publication; without them the only date there is."""
    elements = list(islice(tree.iter("time"), MAX_LINKS))
    marked = [
        element.get("datetime")
        for element in elements
        if element.get("pubdate") is not None or element.get("itemprop") == "datePublished"
    ]
    dates = {element.get("datetime") for element in elements}
    return [date for date in marked or dates if date] if marked or len(dates) == 1 else []


def _language(tree: _Element, meta: dict[str, str]) -> str | None:
    root = tree.getroottree().getroot()
    claimed = root.get("lang") or root.get("{http://www.w3.org/XML/1998/namespace}lang") or root.get("xml:lang")
    claimed = claimed or meta.get("content-language") or meta.get("og:locale") or ""
    match = re.match(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})?", claimed.strip())
    return match.group(0).replace("_", "-") if match else None
