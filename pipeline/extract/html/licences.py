"""Licence statements to SPDX identifiers, and which of a page's statements are about the page.

Only statements that name a licence without doubt are mapped; everything else is None, never a guess. Links to a licence
are often about a picture, a theme or somebody else's text. So a link in the text counts only where nothing around it
says so: by its place, and by the words of its sentence.

Source: SPDX License List 3.27; Creative Commons deed URLs, https://creativecommons.org/licenses/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from lxml import etree
from lxml.etree import _Element

_CC_URL = re.compile(
    r"^(?:https?:)?//(?:www\.|[a-z]{2}\.)?creativecommons\.org/"
    r"(?:licenses/([a-z-]{2,20})/(\d\.\d)(?:/([a-z]{2,3}))?|publicdomain/(zero|mark|certification)(?:/1\.0)?)"
    r"(?=[/?#.]|$)",
    re.IGNORECASE,
)
_CC_TEXT = re.compile(
    r"\b(?:cc|creative[ -]commons)[ -:]{0,3}((?:by|attribution)(?:[ -/]{0,3}"
    r"(?:nc|nd|sa|non-?commercial|no[ -]?deriv(?:ative)?s?(?:[ -]works?)?|share[ -]?alike)){0,2})"
    r"[ -]{0,3}(?:licen[cs]e,? ?)?(?:international |unported |generic )?(?:v(?:ersion)?[ .]?)?([1-4]\.[05])\b",
    re.IGNORECASE,
)
_CC_ZERO_TEXT = re.compile(r"\b(?:cc[ -]?0|cc[ -]zero|creative commons zero)(?:[ -]1\.0)?\b", re.IGNORECASE)
_CC_VERSIONS = frozenset({"1.0", "2.0", "2.1", "2.5", "3.0", "4.0"})

# Deeds adapted to a jurisdiction that have an SPDX identifier of their own; others get the unported one.
_PORTED_IDS = (
    "BY-2.5-AU BY-3.0-AT BY-3.0-AU BY-3.0-DE BY-3.0-IGO BY-3.0-NL BY-3.0-US BY-NC-3.0-DE BY-NC-ND-3.0-DE "
    "BY-NC-ND-3.0-IGO BY-NC-SA-2.0-DE BY-NC-SA-2.0-FR BY-NC-SA-2.0-UK BY-NC-SA-3.0-DE BY-NC-SA-3.0-IGO BY-ND-3.0-DE "
    "BY-SA-2.0-UK BY-SA-2.1-JP BY-SA-3.0-AT BY-SA-3.0-DE BY-SA-3.0-IGO"
)
_CC_PORTED = frozenset(_PORTED_IDS.split())

# A GNU licence's URL names a version and not "or any later", so it is read as the narrower grant.
_OTHER_URLS = (
    (r"apache\.org/licenses/license-2\.0", "Apache-2.0"),
    (r"opensource\.org/licen[cs]es?/mit(?:-license)?\b", "MIT"),
    (r"opensource\.org/licen[cs]es?/apache-2\.0", "Apache-2.0"),
    (r"opensource\.org/licen[cs]es?/bsd-2-clause", "BSD-2-Clause"),
    (r"opensource\.org/licen[cs]es?/bsd-3-clause", "BSD-3-Clause"),
    (r"opensource\.org/licen[cs]es?/isc\b", "ISC"),
    (r"mozilla\.org/(?:en-us/)?mpl/2\.0", "MPL-2.0"),
    (r"gnu\.org/licenses/(?:old-licenses/)?fdl-1\.2", "GFDL-1.2-only"),
    (r"gnu\.org/licenses/fdl-1\.3", "GFDL-1.3-only"),
    (r"gnu\.org/licenses/(?:old-licenses/)?gpl-2\.0", "GPL-2.0-only"),
    (r"gnu\.org/licenses/gpl-3\.0", "GPL-3.0-only"),
    (r"gnu\.org/licenses/agpl-3\.0", "AGPL-3.0-only"),
    (r"opendatacommons\.org/licenses/odbl\b", "ODbL-1.0"),
    (r"opendatacommons\.org/licenses/by\b", "ODC-By-1.0"),
    (r"opendatacommons\.org/licenses/pddl\b", "PDDL-1.0"),
    (r"nationalarchives\.gov\.uk/doc/open-government-licence/version/([123])\b", "OGL-UK-{}.0"),
)
_OTHER = tuple((re.compile(pattern, re.IGNORECASE), spdx) for pattern, spdx in _OTHER_URLS)
_PLAIN_IDS = {
    spdx.lower(): spdx for spdx in ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "ODbL-1.0")
}
MAX_STATEMENT_CHARACTERS = 500
MAX_LINKS = 5000
MAX_LICENCE_LINKS = 40  # a page with more of them is a catalogue
MAX_BLOCK_NODES = 400

_META_KEYS = ("dcterms.license", "dcterms.rights", "dc.rights", "dc.rights.license", "dc.license", "license", "rights")
_RELATIONS = frozenset({"license", "licence"})
_OF_TEXTS = ("CC", "GFDL", "OGL")  # a link to another licence is about software or data
_BLOCKS = frozenset(
    {"p", "li", "div", "td", "th", "dd", "dt", "section", "article", "aside", "main", "header", "footer"}
)
_BLOCKS |= {"address", "figure", "figcaption", "blockquote", "body", "form", "center", "h4", "h5", "h6"}
_OF_OTHERS = frozenset({"figure", "figcaption", "picture", "blockquote", "q", "cite"})
_OTHER_PLACE = re.compile(
    r"(?:^|\s)(?!(?:has|no|with|without|format)[-_])\S*(?:caption|photo|image|img|picture|gallery|thumb|credit|"
    r"signature|quote|comment(?!s?[-_](?:open|closed|status))|disqus|repl(?:y|ies)\b)",
)
_FOOT = re.compile(r"foot|copyright|colophon|legal|imprint|bottom|fuss")
_BOX = re.compile(r"licen[cs]e|sidebar|widget|aside")  # where lists of links stand, too
_SENTENCE_END = re.compile(r"[.!?;]\s|[|•·\n]|\s[-–—]\s|//|,\s+(?:and|but|while|und|aber|et|mais|y|e|en|i|и)\s")
_OTHER_WORK = re.compile(
    r"imag|immagin|foto|photo|pictur|illustra|ilustra|icon|icôn|logo|graphi|grafi|gráfi|fonts?\b|theme|templat|plantilla|"
    r"szablon|vorlage|design|diseñ|layout|video|vídeo|vidéo|music|musi[kq]|música|audio|sound|\bmaps?\b|karten?\b|mapa|"
    r"\bcartes?\b|\bdata|\bdaten|\bdatos|\bdados|\bdati\b|données|\bcode|código|software|plugin|cartoon|drawing|bild|"
    r"painting|artwork|screenshot|zdjęci|obraz|afbeelding|wikimedia commons|flickr|unsplash|pixabay|pexels|"
    r"openstreetmap|изображ|фото|рисун|иллюстр|икон|шаблон|видео|музык|图|圖|照片|写真|画像|イラスト|主题|主題|テーマ|模板|视频|音|数据|"
    r"データ|コード|代码|사진|이미지",
    re.IGNORECASE,
)
_THIS_WORK = re.compile(  # that a sentence begins with
    r"\W*(?:this|these|dies\w*|ce|cet|cette|ces|est[ea]s?|quest[oaei]|deze|dit|эт\w+)\W+(?:\w+\W+){0,2}?"
    r"(?:works?|pages?|(?:web)?sites?|articles?|posts?|texts?|contents?|blogs?|wiki|werke?|(?:web)?seite|inhalte?|beitrag|"
    r"artikel|œuvre|contenus?|textes?|obra|contenidos?|textos?|artículos?|sitio|opera|contenut[io]|testo|articolo|sito|"
    r"conteúdos?|artigo|werk|tekst|текст|материал|произведение|сайт)\b|\W*本?(?:作品|本文|本站|文章)|\W*(?:この|本)(?:記事|サイト)",
    re.IGNORECASE,
)
_LICENSED = re.compile(
    r"licen|lizen|licenc|publi[sc]|veröffentl|available|disponib|shared|release|steh|доступ|лиценз|授权|授權|许可|許可|協議|协议|"
    r"ライセンス|라이선스",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"(?:\b(?:not|never|nicht|kein\w*|niet|geen|pas|jamais|nem|nie|no|non|não|не)\b|n['’]t\b|不|ない)"
    r"(?!\W*(?:\w+\W+){0,3}(?:other|ander|contrar|sonst|altr|innych|ино|comm|komm|comer|deriv|bearb))",
    re.IGNORECASE,
)
_ALL_RIGHTS = re.compile(
    r"all rights (?:are )?reserved|alle rechte vorbehalten|tous droits réservés|todos los derechos reservados|"
    r"todos os direitos reservados|tutti i diritti (?:sono )?riservati|alle rechten voorbehouden|"
    r"alla rättigheter förbehållna|wszelkie prawa zastrzeżone|все права защищены|tüm hakları saklıdır|"
    r"版权所有|版權所有|保留所有权利|無断転載",
    re.IGNORECASE,
)


def spdx_from_url(url: str) -> str | None:
    """Return the SPDX identifier of a licence's URL, None when it names none that is known."""
    url = url.strip()[:MAX_STATEMENT_CHARACTERS]
    match = _CC_URL.match(url)
    if match:
        elements, version, jurisdiction, public_domain = match.groups()
        if public_domain:
            return {"zero": "CC0-1.0", "mark": "CC-PDM-1.0", "certification": "CC-PDDC"}[public_domain.lower()]
        return _creative_commons(elements.split("-"), version, jurisdiction)
    for pattern, spdx in _OTHER:
        found = pattern.search(url)
        if found:
            return spdx.format(*found.groups())
    return None


def spdx_from_text(statement: str) -> str | None:
    """Return the SPDX identifier of a licence given as a URL or in words ("CC BY-SA 4.0"), None when in doubt."""
    statement = " ".join(statement[:MAX_STATEMENT_CHARACTERS].split())
    if "://" in statement or statement.startswith("//"):
        found = {spdx_from_url(word.strip("()<>\"',;")) for word in statement.split() if "//" in word} - {None}
        return found.pop() if len(found) == 1 else None
    named = {_creative_commons(_elements(words), version, None) for words, version in _CC_TEXT.findall(statement)}
    if named:
        return named.pop() if len(named) == 1 else None
    if _CC_ZERO_TEXT.search(statement):
        return "CC0-1.0"
    return _PLAIN_IDS.get(statement.lower())


def _elements(words: str) -> list[str]:
    """Return the elements by, nc, nd, sa that the words of a licence's name stand for."""
    words = words.lower().replace(" ", "").replace("-", "")
    present = ["by"]
    for element, spelt in (("nc", "noncommercial"), ("nd", "noderiv"), ("sa", "sharealike")):
        if spelt in words or re.search(rf"(?:by|attribution|nc|nd|sa|commercial|/){element}", words):
            present.append(element)
    return present


def _creative_commons(elements: list[str], version: str, jurisdiction: str | None) -> str | None:
    parts = {element.lower() for element in elements}
    if version not in _CC_VERSIONS or not parts <= {"by", "nc", "nd", "sa"} or {"nd", "sa"} <= parts:
        return None
    if parts == {"sa"}:
        return "CC-SA-1.0" if version == "1.0" else None
    if "by" not in parts:
        return None
    name = "-".join(element.upper() for element in ("by", "nc", "nd", "sa") if element in parts)
    ported = f"{name}-{version}-{jurisdiction.upper()}" if jurisdiction else ""
    return f"CC-{ported}" if ported in _CC_PORTED else f"CC-{name}-{version}"


def page_licence(tree: _Element, meta: Mapping[str, str], linked: Sequence[Mapping[str, object]]) -> str | None:
    """Return the licence of a parsed page; None when it names none, or two, or reserves all rights.

    What its head says counts first: `rel=license`, `meta` (content by lower-case name) and `linked` (JSON-LD objects
    about the page). Then links marked as the licence, then links to Creative Commons that say what they are about.
    """
    rights = [meta[key] for key in (*_META_KEYS, "copyright") if key in meta]
    if any(map(_reserves_rights, rights)):
        return None
    links = list(_licence_links(tree))
    stated = {spdx_from_url(url) for element, url, _ in links if element.tag == "link"}
    stated |= {spdx_from_text(text) for node in linked for text in _texts(node.get("license"))}
    stated |= {_spdx_of_rights(meta[key]) for key in _META_KEYS if key in meta}
    if stated := stated - {None}:
        return stated.pop() if len(stated) == 1 else None
    anchors = [(element, spdx_from_url(url) or "", marked) for element, url, marked in links if element.tag == "a"]
    has_terms = any(marked and not licence.startswith(_OF_TEXTS) for _, licence, marked in anchors)
    anchors = [link for link in anchors if link[1].startswith(_OF_TEXTS)]
    if not anchors or len(anchors) > MAX_LICENCE_LINKS or _reserves_rights(" ".join(tree.itertext())):
        return None
    stated = {licence for link, licence, marked in anchors if marked and _is_of_the_page(link, marked=True)}
    if not stated and not has_terms:
        stated = {licence for link, licence, marked in anchors if not marked and _is_of_the_page(link, marked=False)}
    return stated.pop() if len(stated) == 1 else None


def _reserves_rights(text: str) -> bool:
    return _ALL_RIGHTS.search(" ".join(text.split())) is not None


def _spdx_of_rights(statement: str) -> str | None:
    return None if _OTHER_WORK.search(statement) or _DENIAL.search(statement) else spdx_from_text(statement)


def _licence_links(tree: _Element) -> Iterator[tuple[_Element, str, bool]]:
    """Yield the links that name a licence or may: element, target, whether its relation says so."""
    for link in islice(tree.iter("a", "link"), MAX_LINKS):
        relations, target = (link.get("rel") or "").lower().split(), link.get("href") or ""
        marked = not _RELATIONS.isdisjoint(relations) or (link.tag == "link" and "copyright" in relations)
        if (
            target
            and not target.startswith("#")
            and (marked or (link.tag == "a" and "creativecommons.org/" in target and spdx_from_url(target)))
        ):
            yield link, target, marked


def _texts(value: object) -> list[str]:
    """Return the strings of a JSON-LD value: itself, of a list, or the URL or name of an object."""
    values = value[:10] if isinstance(value, list) else [value]
    texts = [item for item in values if isinstance(item, str)]
    for item in values:
        if isinstance(item, dict):
            texts += [text for key in ("@id", "url", "name") if isinstance(text := item.get(key), str)]
    return texts


def _is_of_the_page(link: _Element, *, marked: bool) -> bool:
    """Say whether a link to a licence is about the page: by the elements around it and the words of its sentence."""
    around = [element for element in link.iterancestors() if element.tag not in ("body", "html")]
    named = ("class", "id", "itemprop", "itemtype")
    places = [" ".join([str(element.tag), *(element.get(name) or "" for name in named)]).lower() for element in around]
    if any(element.tag in _OF_OTHERS for element in around) or any(map(_OTHER_PLACE.search, places)):
        return False
    blocks = [element for element in link.iterancestors() if element.tag in _BLOCKS][:2]
    before, after, has_picture = _words_around(link, blocks[0]) if blocks else ("", "", False)
    if len(blocks) > 1 and not before.strip() and not after.strip():
        before, after, has_picture = _words_around(link, blocks[1])
    words = "".join(link.itertext()).strip()
    after = after if words else after.lstrip()  # a badge stands before what it is about
    before, after = _SENTENCE_END.split(before)[-1], _SENTENCE_END.split(after)[0]
    sentence = f"{before} {words} {after}"
    if _OTHER_WORK.search(before) or _OTHER_WORK.search(after) or _DENIAL.search(before):
        return False
    if any(map(_FOOT.search, places)):
        return True
    says_so = _LICENSED.search(sentence) is not None
    if marked:
        return says_so or not has_picture
    return says_so and (any(map(_BOX.search, places)) or _THIS_WORK.match(before) is not None)


def _words_around(link: _Element, block: _Element) -> tuple[str, str, bool]:
    """Return the text of a block before and behind a link, and whether a picture stands there, too."""
    parts: list[list[str]] = [[], [], []]
    place, has_picture = 0, False
    for event, element in islice(etree.iterwalk(block, events=("start", "end")), MAX_BLOCK_NODES):
        if event == "start":
            place = 1 if element is link else place
            has_picture |= element.tag == "img" and place != 1
            hidden = element.tag in ("script", "style")
            parts[place].append("\n" if element.tag == "br" else "" if hidden else element.text or "")
        else:
            place = 2 if element is link else place
            parts[place].append(element.tail or "" if element is not block else "")
    return "".join(parts[0])[-MAX_STATEMENT_CHARACTERS:], "".join(parts[2])[:MAX_STATEMENT_CHARACTERS], has_picture
