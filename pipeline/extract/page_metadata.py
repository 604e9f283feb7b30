"""Title, publication date, licence and language of a page, from what it says about itself in its markup.

Meta tags, JSON-LD, `time` elements and licence links of a tree that was parsed anyway, in about a millisecond. No
search for dates in text or URLs. HTTP headers are the last fallback (`header_date`, `header_licence`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from itertools import islice

from lxml.etree import XPath, _Element

from pipeline.extract.licences import spdx_from_text, spdx_from_url

MAX_META_TAGS = 500
MAX_JSON_LD_BYTES = 256 * 1024
MAX_JSON_LD_SCRIPTS = 8
MAX_JSON_LD_OBJECTS = 500
MAX_TITLE_CHARACTERS = 500
MAX_LINKS = 5000
EARLIEST_YEAR = 1990

_TITLE_KEYS = ("og:title", "twitter:title", "dc.title", "citation_title")
_PUBLISHED_KEYS = (
    "article:published_time",
    "datepublished",
    "og:article:published_time",
    "og:published_time",
    "article:published",
    "parsely-pub-date",
    "sailthru.date",
    "citation_publication_date",
    "citation_date",
    "dc.date.issued",
    "dcterms.issued",
    "dcterms.date",
    "dcterms.created",
    "dc.date.created",
    "dc.date",
    "datecreated",
    "publishdate",
    "publish-date",
    "publish_date",
    "publication_date",
    "pubdate",
    "date",
)
_LICENCE_KEYS = ("dcterms.license", "dcterms.rights", "dc.rights", "dc.rights.license", "license", "rights")

_LICENCE_RELATIONS = frozenset({"license", "licence"})
_JSON_LD = XPath("//script[contains(@type, 'ld+json')]")
_ISO = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ]\s?(\d{1,2}):(\d{2})(?::(\d{2}))?(?:[.,]\d+)?\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?",
)
_SLASHED = re.compile(r"(\d{4})[/.](\d{1,2})[/.](\d{1,2})(?!\d)")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:T?(\d{2})(\d{2})(\d{2})?)?$")
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
    date, date_source = _published(tree, meta, linked)
    return PageMetadata(
        title=_title(tree, meta, linked),
        date=date,
        date_source=date_source,
        licence=_licence(tree, meta, linked),
        language=_language(tree, meta),
    )


def parse_date(text: str) -> datetime | None:
    """Return the instant that a date string of a page or a header names, in UTC; None when it is unclear or absurd.

    A date without a time is midnight UTC; a time without a zone is taken as UTC.
    """
    text = text.strip()[:64]
    match = _ISO.match(text) or _SLASHED.match(text) or _COMPACT.match(text)
    try:
        parsed = _from_groups(match.groups()) if match else parsedate_to_datetime(text)
        parsed = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if EARLIEST_YEAR <= parsed.year <= 2100 else None


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
    tree: _Element, meta: dict[str, str], linked: list[dict[str, object]]
) -> tuple[datetime | None, str | None]:
    """Return the publication date and where it was found; a modification date only when nothing else is there."""
    in_links = [("json_ld", node.get(key)) for key in ("datePublished", "dateCreated") for node in linked]
    candidates: list[tuple[str, object]] = [("meta", meta.get(key)) for key in _PUBLISHED_KEYS[:4]]
    candidates += in_links
    candidates += [("meta", meta.get(key)) for key in _PUBLISHED_KEYS[4:]]
    candidates += [("time", value) for value in _times(tree)]
    candidates += [("meta", meta.get("article:modified_time"))]
    candidates += [("json_ld", node.get("dateModified")) for node in linked]
    for where, value in candidates:
        date = parse_date(value) if isinstance(value, str) else None
        if date is not None:
            return date, where
    return None, None


def _times(tree: _Element) -> list[str]:
    """Return the dates of `time` elements marked as the publication; without them the only date there is."""
    elements = list(islice(tree.iter("time"), MAX_LINKS))
    marked = [element.get("datetime") for element in elements if _is_publication(element)]
    dates = {element.get("datetime") for element in elements}
    return [date for date in marked or dates if date] if marked or len(dates) == 1 else []


def _is_publication(time: _Element) -> bool:
    return time.get("pubdate") is not None or time.get("itemprop") == "datePublished"


def _licence_links(tree: _Element) -> tuple[list[str], list[str]]:
    """Return the targets of links marked `rel=license`, and of unmarked links to Creative Commons."""
    marked, unmarked = [], []
    for link in islice(tree.iter("a", "link"), MAX_LINKS):
        relations, target = link.get("rel"), link.get("href")
        if target and relations and not _LICENCE_RELATIONS.isdisjoint(relations.lower().split()):
            marked.append(target)
        elif target and "creativecommons.org/" in target:
            unmarked.append(target)
    return marked, unmarked


def _licence(tree: _Element, meta: dict[str, str], linked: list[dict[str, object]]) -> str | None:
    """Return the licence that links, JSON-LD, then meta tags name. Two that contradict each other are none."""
    marked, unmarked = _licence_links(tree)
    stated = {spdx_from_url(url) for url in marked} - {None}
    if not stated:
        values = [value for node in linked for value in _texts(node.get("license"))]
        stated = {spdx_from_text(value) for value in values} - {None}
    if not stated:
        stated = {spdx_from_text(meta[key]) for key in _LICENCE_KEYS if key in meta} - {None}
    if not stated:
        stated = {spdx_from_url(url) for url in unmarked} - {None}
    return stated.pop() if len(stated) == 1 else None


def _texts(value: object) -> list[str]:
    """Return the strings of a JSON-LD value: itself, of a list, or the URL or name of an object."""
    values = value[:10] if isinstance(value, list) else [value]
    texts = [item for item in values if isinstance(item, str)]
    for item in values:
        if isinstance(item, dict):
            texts += [text for key in ("@id", "url", "name") if isinstance(text := item.get(key), str)]
    return texts


def _language(tree: _Element, meta: dict[str, str]) -> str | None:
    root = tree.getroottree().getroot()
    claimed = root.get("lang") or root.get("{http://www.w3.org/XML/1998/namespace}lang") or root.get("xml:lang")
    claimed = claimed or meta.get("content-language") or meta.get("og:locale") or ""
    match = re.match(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})?", claimed.strip())
    return match.group(0).replace("_", "-") if match else None


def _from_groups(groups: tuple[str | None, ...]) -> datetime:
    numbers = [int(group) for group in groups[:6] if group is not None]
    date = datetime(*numbers)  # type: ignore[arg-type]  # year, month, day, then what is known of the time
    zone = groups[6] if len(groups) > 6 else None
    if zone and zone[0] in "+-":
        minutes = int(zone[1:3]) * 60 + int(zone[-2:])
        offset = timedelta(minutes=minutes if zone[0] == "+" else -minutes)
        return date.replace(tzinfo=timezone(offset))
    return date.replace(tzinfo=UTC)
