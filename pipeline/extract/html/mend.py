"""What extraction engines lose of a page, made into what they keep: on the parsed tree, before an engine sees it.

Raised and lowered numbers get a mark, formulas become LaTeX, code is held together verbatim, prose without `p` gets
one. The tree is changed in place. Engines may still drop such a piece with the part of the page that it stands in;
`Pieces.lost` counts that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_plus

from lxml import etree
from lxml.etree import XPath, _Element
from resiliparse.parse.html import HTMLTree
from trafilatura.xpaths import BODY_XPATH

# Noncharacters, which no page may hold: they keep the white space of code from engines that collapse it.
_HELD = {"\n": "\ufdd0", "\t": "\ufdd1", " ": "\ufdd2"}
_EDGE = "\ufdd3"
_COMPANION = "\ufdd4"
_HOLD = str.maketrans(_HELD)
_RELEASE = str.maketrans({held: space for space, held in _HELD.items()})
_OURS = (*_HELD.values(), _EDGE, _COMPANION)
_FOREIGN = str.maketrans(dict.fromkeys(_OURS, "\ufffd"))
_LONE = re.compile(r"(>\s*(?:[\u0800-\udfff\uf900-\uffff]|&(?!nbsp;|#160;|#xa0;)#?\w{1,31};))(?=\s*<)", re.IGNORECASE)
_AROUND_EDGE = re.compile(rf"\s*{_EDGE}\s*")
_CODE_SPACE = re.compile(r"[\n\t]|(?<![^\n\t ]) | (?= )")

_BLOCK_NAMES = (
    "address article aside blockquote body center dd details div dl dt fieldset figcaption figure footer form h1 h2 h3"
    " h4 h5 h6 header hr li main menu nav ol p pre section table tbody td tfoot th thead tr ul"
)
BLOCKS = frozenset(_BLOCK_NAMES.split())
_CONTAINER_NAMES = "article body center dd details div figure li main section td th"
_CONTAINERS = frozenset(_CONTAINER_NAMES.split())


@dataclass(slots=True)
class Pieces:
    """Code and formulas that a page holds, as they should stand in its text; `unreadable` formulas have no source."""

    code: list[str] = field(default_factory=list)
    formulas: list[str] = field(default_factory=list)
    unreadable: int = 0
    changed: bool = False  # whether there is more in the tree now than the engines' parsers read

    def lost(self, text: str) -> tuple[int, int]:
        """Return how many blocks of code and how many formulas are not in `text`."""
        if not self.code and not self.formulas:
            return 0, self.unreadable
        dense = "".join(text.split())
        code, formulas = (
            sum("".join(piece.split()) not in dense for piece in pieces) for pieces in (self.code, self.formulas)
        )
        return code, formulas + self.unreadable


def without_held(html: str) -> str:
    """Return `html` without the noncharacters that stand for white space here."""
    is_foreign = not html.isascii() and any(held in html for held in _OURS)
    return html.translate(_FOREIGN) if is_foreign else html


def release(text: str) -> str:
    """Return an engine's text with the white space of code as it was."""
    text = text.replace(_COMPANION, "")
    return _AROUND_EDGE.sub("\n", text).translate(_RELEASE).strip() if _EDGE in text else text


def accompany(html: str) -> str:
    """Return `html` with a companion beside each lone character: Resiliparse takes most of them for icons."""
    return _LONE.sub(rf"\1{_COMPANION}", html)


def mend(tree: _Element, html: str, engine: str) -> Pieces:
    """Change `tree`, the parsed `html`, so that an engine keeps what it would lose; return what must not be lost."""
    pieces = Pieces()
    _mend_formulas(tree, html, pieces)
    _mend_code(tree, pieces)
    _mend_forum(tree, html, pieces)
    for figure in list(tree.iter("figure")):
        if next(figure.iter(_CONTENT_OF_FIGURES), None) is not None:
            figure.tag, pieces.changed = "div", True
    if engine == "trafilatura":
        _mend_blocks(tree)
        _mend_frame(tree)
    marked = [_mark(element) for element in list(tree.iter("sup", "sub"))]
    pieces.changed |= any(marked) or bool(pieces.formulas)
    return pieces


# Raised and lowered text

_ORDINAL_ENDS = "a as d e er ère ème ma me mo nd nde o os r rd re st ste te th ª º"
_ORDINALS = frozenset(_ORDINAL_ENDS.split())
_OPENERS = frozenset("([{/⁄∕<>=+×·~—–-")
_SIMPLE = re.compile(r"[-+−–]?[^\W_]+")
_PRICE = re.compile(r"[$€£¥₹]\s?\d[\d., ]*$")
_FRACTION_BARS = ("/", "⁄", "∕")


def _mark(element: _Element) -> bool:
    """Write what is raised or lowered so that it does not run together with what stands before it."""
    text = " ".join("".join(element.itertext()).split())
    if not text:
        return False
    before, after = _text_before(element), element.tail or ""
    if _refers_to_note(element) and text.isalnum():
        marked = f"[{text}]"
    elif not before or before[-1].isspace() or (before[-1] in _OPENERS and before[-1] not in _FRACTION_BARS):
        return False
    elif " " in text:
        marked = text if text[0] in "[(" else f" {text}"
    elif element.tag == "sup":
        following = element.getnext()
        is_fraction = following is not None and following.tag == "sub" and after.strip() in _FRACTION_BARS
        marked = _raised(before, text, after, is_fraction)
    else:
        marked = _lowered(before, text, after)
    if marked == text:
        return False
    for child in list(element):
        element.remove(child)
    element.text = marked
    return True


def _raised(before: str, text: str, after: str, is_fraction: bool) -> str:
    if text.isdecimal() and is_fraction:
        return f" {text}" if before[-1].isdigit() else text
    if text.isdecimal() and len(text) == 2 and _PRICE.search(before):
        return f".{text}"
    letters = text.rstrip(".")
    if not any(map(str.isalnum, text)) or (before[-1].isdigit() and letters.lower() in _ORDINALS):
        return text
    if text[0] in "[(" or (letters.isalpha() and len(letters) > 1):  # a note in brackets; Mlle, TM, th
        return text
    return f"^{_grouped(text, after)}"


def _lowered(before: str, text: str, after: str) -> str:
    last = before[-1]
    if last in _FRACTION_BARS or not (last.isalnum() or last in ")]}") or not any(map(str.isalnum, text)):
        return text
    if text.isdecimal() and not last.isdigit() and not after[:1].isdigit():  # H2O, Fe2(SO4)3
        return text
    return f"_{_grouped(text, after)}"


def _grouped(text: str, after: str) -> str:
    return text if _SIMPLE.fullmatch(text) and not after[:1].isalnum() else f"{{{text}}}"


def _text_before(element: _Element) -> str:
    """Return the end of the text before an element within its block, empty at the start of one."""
    for _ in range(8):  # inline elements that begin with it
        previous = element.getprevious()
        if previous is not None:
            if previous.tail:
                return str(previous.tail)[-24:]
            if previous.tag in BLOCKS or previous.tag == "br":
                return ""
            text = "".join(previous.itertext())
            if text:
                return text[-24:]
            element = previous
            continue
        parent = element.getparent()
        if parent is None or parent.text or parent.tag in BLOCKS:
            return (parent.text or "")[-24:] if parent is not None else ""
        element = parent
    return ""


def _refers_to_note(element: _Element) -> bool:
    link = element if element.tag == "a" else element.find(".//a")
    if link is None:
        parent = element.getparent()
        link = parent if parent is not None and parent.tag == "a" else None
    return link is not None and (link.get("href") or "").startswith("#")


# Formulas

_RENDERED_CLASS = re.compile(
    r"(?:^|\s)(?:MathJax(?:_\w+)?|MJXc-display|mjx-chtml|katex(?:-display)?|mwe-math-element|hurmet-tex|math-(?:inline|block))(?:\s|$)"
)
_RENDERED = XPath(
    "//*[self::mjx-container or @data-math or @data-tex or @data-latex or @data-entry or contains(@class, 'MathJax')"
    " or contains(@class, 'MJXc') or contains(@class, 'mjx-chtml') or contains(@class, 'katex')"
    " or contains(@class, 'mwe-math-element')]"
)
_RENDERERS = ("MathJax", "katex", "mwe-math", "data-math", "data-latex", "data-tex", "data-entry")
_TEX_IMAGES = ("latex", "codecogs", "tex.cgi", 'alt="\\', "alt='\\")
_SOURCE_ATTRIBUTES = ("data-math", "data-tex", "data-latex", "data-entry")
_TEX = re.compile(r"application/(?:x-)?(?:la)?tex|(?:la)?tex", re.IGNORECASE)
_TEX_IMAGE = re.compile(
    r"latex\.php|codecogs\.com|mathtex|mimetex|(?:^|[\s/_-])(?:la)?tex(?:$|[\s/._?-])|math|equation"
)
_TEX_SERVER = re.compile(r"latex\.php\?(?:.*?&)?latex=([^&]+)|codecogs\.com/[\w.]+\?(.+)$|(?:math|mime)tex\.cgi\?(.+)$")
_TEX_GROUP = re.compile(r"\\[a-zA-Z]+\{")
_TEX_COMMAND = re.compile(r"\\[a-zA-Z]+|[_^]\{|\w\^\w")
_INVISIBLE = str.maketrans(dict.fromkeys("\u2061\u2062\u2063\u2064", ""))


def _mend_formulas(tree: _Element, html: str, pieces: Pieces) -> None:
    if any(name in html for name in _RENDERERS):
        gone: set[_Element] = set()
        for element in _RENDERED(tree):
            if element.tag not in ("body", "html") and gone.isdisjoint(element.iterancestors()):
                _mend_rendered(element, gone, pieces)
    for element in list(tree.iter("math", "mml:math")):
        _replace(element, _source_of(element), _is_display(element), pieces)
    if "math/" in html or "x-mathml" in html:
        for element in list(tree.iter("script")):
            _mend_script(element, pieces)
    if any(name in html for name in _TEX_IMAGES):
        for element in list(tree.iter("img")):
            source = _image_source(element)
            if source:
                _replace(element, source, False, pieces)


def _mend_rendered(element: _Element, gone: set[_Element], pieces: Pieces) -> None:
    """Replace what MathJax, KaTeX and others made of a formula by its source."""
    named = element.tag == "mjx-container" or any(map(element.get, _SOURCE_ATTRIBUTES))
    if not named and not _RENDERED_CLASS.search(element.get("class") or ""):
        return
    following = element.getnext()
    while following is not None and not element.tail and following.tag in ("span", "div"):
        if "MathJax" not in (following.get("class") or "") or following.tail:
            break
        following = following.getnext()
    is_copy = following is not None and following.tag == "script" and "math/" in (following.get("type") or "")
    if is_copy and not (element.tail or "").strip():  # MathJax 2 leaves the source beside its output
        gone.add(element)
        _drop(element)
        return
    source = _source_of(element)
    if source:
        gone.add(element)
        _replace(element, source, _is_display(element), pieces)
    elif "".join(element.itertext()).strip() or element.find(".//svg") is not None:
        gone.add(element)
        pieces.unreadable += element.tag == "mjx-container" or "katex" in (element.get("class") or "")


def _mend_script(element: _Element, pieces: Pieces) -> None:
    kind = (element.get("type") or "").lower()
    source = (element.text or "").strip()
    if not source or not kind.startswith(("math/", "text/x-mathml")):
        return
    if kind.startswith("math/tex"):
        _replace(element, source, "mode=display" in kind.replace(" ", ""), pieces)
    elif kind.startswith("math/ascii"):
        _insert(element, f"`{' '.join(source.split())}`", False, pieces)
    else:
        try:
            parsed = etree.fromstring(source, etree.XMLParser(recover=True, resolve_entities=False, no_network=True))
        except etree.XMLSyntaxError:
            parsed = None
        if parsed is None:
            pieces.unreadable += 1
        else:
            _replace(element, _source_of(parsed), parsed.get("display") == "block", pieces)


def _source_of(element: _Element) -> str | None:
    """Return the LaTeX of a formula: an annotation, an attribute, or what its MathML says."""
    for part in element.iter("{*}annotation", "annotation"):
        if _TEX.fullmatch(part.get("encoding") or "") and (part.text or "").strip():
            return " ".join((part.text or "").split())
    named = [element.get(name) for name in _SOURCE_ATTRIBUTES]
    maths = list(element.iter("{*}math", "math", "mml:math"))
    named += [part.get("alttext") for part in maths]
    for source in named:
        if source and source.strip():
            return " ".join(source.split())
    return " ".join(_latex(maths[0]).split()) if maths else None


def _is_display(element: _Element) -> bool:
    named = " ".join(filter(None, (element.get("class"), element.get("display"), element.get("mode"))))
    if "display" in named or "block" in named or element.get("display") == "true":
        return True
    return any(part.get("display") == "block" for part in element.iter("math"))


def _image_source(element: _Element) -> str | None:
    """Return the LaTeX of an image that shows a formula, None for other images."""
    alt, src = (element.get("alt") or "").strip(), element.get("src") or ""
    asked = _TEX_SERVER.search(src)
    if asked:
        return alt or unquote_plus(next(filter(None, asked.groups()))).strip()
    if _TEX_GROUP.search(alt):
        return alt
    if not alt or not _TEX_IMAGE.search(f"{element.get('class') or ''} {src[:500]}".lower()):
        return None
    is_marked = "latex" in (element.get("class") or "").lower().split()
    return alt if is_marked or _TEX_COMMAND.search(alt) else None


def _replace(element: _Element, source: str | None, is_display: bool, pieces: Pieces) -> None:
    """Put a formula's source in delimiters where the element stands."""
    if not source:
        pieces.unreadable += bool("".join(element.itertext()).strip())
        return
    source = " ".join(source.split())
    source = source.removeprefix("$$").removesuffix("$$").strip("$").strip() or source
    if not source.startswith((r"\(", r"\[")):
        source = rf"\[{source}\]" if is_display else rf"\({source}\)"
    _insert(element, source, is_display, pieces)


def _insert(element: _Element, text: str, is_display: bool, pieces: Pieces) -> None:
    pieces.formulas.append(text)
    parent = element.getparent()
    while parent is not None and parent.tag in ("span", "mjx-assistive-mml") and _holds_only(parent, element):
        element, parent = parent, parent.getparent()  # such wrappers are often hidden from sight, not from readers
    if parent is None:
        return
    if is_display and parent.tag in _CONTAINERS:
        paragraph = element.makeelement("p")
        paragraph.text, paragraph.tail = text, element.tail
        parent.replace(element, paragraph)
        return
    element.tail = text + (element.tail or "")
    _drop(element)


def _holds_only(parent: _Element, child: _Element) -> bool:
    return len(parent) == 1 and not (parent.text or "").strip() and not (child.tail or "").strip()


def _drop(element: _Element) -> None:
    """Take an element out and leave the text after it."""
    parent, previous = element.getparent(), element.getprevious()
    if parent is None:
        return
    if element.tail:
        if previous is not None:
            previous.tail = (previous.tail or "") + element.tail
        else:
            parent.text = (parent.text or "") + element.tail
    parent.remove(element)


def _latex(node: _Element) -> str:
    """Return MathML as LaTeX, its symbols as the characters that they are."""
    tag = str(node.tag).rpartition("}")[2].rpartition(":")[2]
    if tag in ("mi", "mn", "mo", "ms"):
        return "".join(node.itertext()).translate(_INVISIBLE).strip()
    if tag == "mtext":
        text = "".join(node.itertext())
        return rf"\text{{{text}}}" if text.strip() else " "
    if tag in ("annotation", "annotation-xml", "mphantom", "mspace", "none", "mprescripts"):
        return ""
    if tag == "mtable":
        rows = r" \\ ".join(" & ".join(_latex(cell) for cell in row) for row in node)
        return rf"\begin{{matrix}} {rows} \end{{matrix}}"
    parts = [_latex(child) for child in node if isinstance(child.tag, str)]
    if tag == "mfenced":
        inner = (node.get("separators") or ",")[0].join(parts)
        return f"{node.get('open') or '('}{inner}{node.get('close') or ')'}"
    if tag == "msqrt":
        return rf"\sqrt{{{' '.join(parts)}}}"
    written = _written(tag, parts, node) if len(parts) >= 2 else None
    return written if written is not None else " ".join(filter(None, parts))


def _written(tag: str, parts: list[str], node: _Element) -> str | None:
    """Return a MathML element of two or three parts as LaTeX, None when it is another one."""
    first, second, third = parts[0], parts[1], parts[2] if len(parts) > 2 else ""
    base = first if len(first) <= 1 or not first.count(" ") else f"{{{first}}}"
    is_operator = str(node[0].tag).endswith("mo") or len(parts) > 2
    match tag:
        case "mfrac":
            return rf"\{'binom' if node.get('linethickness') in ('0', '0px') else 'frac'}{{{first}}}{{{second}}}"
        case "mroot":
            return rf"\sqrt[{second}]{{{first}}}"
        case "msup":
            return f"{base}^{{{second}}}"
        case "msub":
            return f"{base}_{{{second}}}"
        case "msubsup" | "munderover":
            return f"{base}_{{{second}}}^{{{third}}}"
        case "munder":
            return f"{base}_{{{second}}}" if is_operator else rf"\underset{{{second}}}{{{first}}}"
        case "mover":
            return f"{base}^{{{second}}}" if is_operator else rf"\overset{{{second}}}{{{first}}}"
    return None


# Code

_GUTTER = re.compile(
    r"(?:^|[\s_-])(?:linenos?|lineno|linenumbers?|line-?numbers?|ln|lnt|gutter|blob-num|hljs-ln-\w+|lntd)(?:$|[\s_-])|rouge-gutter",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"display\s*:\s*none|hover-info|sr-only|visually-hidden", re.IGNORECASE)
_NO_CODE = frozenset(["button", "svg", "script", "style", "template", "noscript", "textarea", "select", "figcaption"])
_CODE_CLASS = re.compile(
    r"(?:^|[\s_-])(?:highlight\w*|hljs|prism\w*|language-\S+|lang-\S+|block|codehilite|sourceCode)(?:$|[\s_-])"
)


def _mend_code(tree: _Element, pieces: Pieces) -> None:
    """Write each block of code as one verbatim text without line numbers, held together for any engine."""
    for code in list(tree.iter("code")):
        if _is_block_of_code(code):
            code.text = (code.text or "").lstrip()
            code.tag, pieces.changed = "pre", True
    for table in list(tree.iter("table")):
        first = table.find(".//td")
        if first is not None and _GUTTER.search(first.get("class") or "") and _is_no_code(first):
            table.tag, pieces.changed = "pre", True
    for pre in list(tree.iter("pre")):
        if any(ancestor.tag == "pre" for ancestor in pre.iterancestors()):
            continue
        whole = "".join(pre.itertext())
        inner = pre[0] if len(pre) == 1 and pre[0].tag == "code" and _holds_only(pre, pre[0]) else pre
        text = "\n".join(line.rstrip() for line in "".join(_verbatim(inner)).splitlines()).strip("\n")
        for child in list(pre):
            pre.remove(child)
        pre.text = None
        if text:
            etree.SubElement(
                pre, "code"
            ).text = f"{_EDGE}{_CODE_SPACE.sub(lambda space: space[0].translate(_HOLD), text)}{_EDGE}"
            pieces.code.append(text)
            is_nested = next(pre.iterancestors("li", "td", "th", "dd"), None) is not None
            pieces.changed |= is_nested or "".join(whole.split()) != "".join(text.split())


def _is_block_of_code(code: _Element) -> bool:
    """Whether `code` outside `pre` is a block: marked as one and of several lines, or the whole of a code box."""
    if any(ancestor.tag in ("pre", "code", "p") for ancestor in code.iterancestors()):
        return False
    marked = code.get("class") or ""
    parent = code.getparent()
    if parent is not None and _holds_only(parent, code):
        marked = f"{marked} {parent.get('class') or ''}"
    text = "".join(code.itertext()).strip()
    is_white = "white-space" in (code.get("style") or "")
    return bool(_CODE_CLASS.search(marked) or is_white) and ("\n" in text or "block" in marked.split())


def _verbatim(pre: _Element) -> Iterator[str]:
    """Yield the text of a block of code; elements that a browser sets on lines of their own are lines."""
    ended = True  # whether what was yielded ends a line
    walk = etree.iterwalk(pre, events=("start", "end"))
    for event, element in walk:
        is_own = element is not pre
        if event == "start":
            if is_own and _is_no_code(element):
                walk.skip_subtree()
                continue
            text = element.text or ""
            starts = is_own and element.tag in BLOCKS and element.tag not in ("td", "th")
            broken = "\n" if element.tag == "br" or (starts and not ended) else ""
        else:
            ends = is_own and element.tag in BLOCKS and element.tag not in ("td", "th") and not ended
            broken, text = "\n" if ends else "", (element.tail or "") if is_own else ""
        if broken or text:
            yield broken + text
            ended = (broken + text).endswith("\n")


def _is_no_code(element: _Element) -> bool:
    if not isinstance(element.tag, str) or element.tag in _NO_CODE:
        return True
    marked, style = element.get("class") or "", element.get("style") or ""
    if not (marked or style or element.get("aria-hidden")):
        return False
    if _HIDDEN.search(f"{marked} {style}"):
        return True
    if _GUTTER.search(marked) or "user-select" in style or element.get("aria-hidden") == "true":
        text = "".join("".join(element.itertext()).split())
        return text.isdecimal() or not text
    return False


# Blocks

_IN_SENTENCES = ("time", "label", "button", "output")
_SENTENCES = frozenset(["p", "li", "td", "th", "dd", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote"])
_PROSE_CHARACTERS = 20
_LEAVES = frozenset(("div", "center", "section"))
_FRAMES = frozenset(("body", "div", "section", "center", "td"))
_TABLE_PARTS = ("tbody", "thead", "tfoot", "tr", "td")
_CONTENT_OF_FIGURES = ("pre", "table", "blockquote", "p", "ul", "ol")


def _mend_blocks(tree: _Element) -> None:
    """Make paragraphs of prose that stands beside paragraphs, and words of what only looks like a control."""
    for word in list(tree.iter(_IN_SENTENCES)):
        parent = word.getparent()
        if parent is not None and parent.tag in _SENTENCES and not _holds_only(parent, word):
            word.tag = "span"
    for table in list(tree.iter("table")):
        _mend_table(table)
    parents = dict.fromkeys(paragraph.getparent() for paragraph in tree.iter("p"))
    for line_break in tree.iter("br"):
        following = line_break.getnext()
        if following is not None and following.tag == "br" and not (line_break.tail or "").strip():
            parents[line_break.getparent()] = None
    for parent in parents:
        if parent is not None and (parent.tag in _CONTAINERS or parent.tag == "form"):
            _mend_paragraphs(parent)


def _mend_table(table: _Element) -> None:
    """Make plain blocks of a table that only sets a page, and lines of the lists in cells of others."""
    if next(table.iter("th", "caption"), None) is None and _is_layout(table):
        parts = [part for part in table.iter(_TABLE_PARTS) if next(part.iterancestors("table"), None) is table]
        for part in [table, *parts]:
            part.tag = "p" if part.tag == "td" and _is_prose(part, 1) and part.find("br") is None else "div"
        for part in parts:
            _mend_paragraphs(part)
        return
    for found in list(table.iter("ul", "ol", "dl")):
        for item in found.iter("li", "dt", "dd"):
            if item.tag != "dt":
                item.text = f"- {(item.text or '').lstrip()}"
            item.tag = "div" if any(inner.tag in BLOCKS for inner in item.iterdescendants()) else "p"
        found.tag = "div"


def _is_layout(table: _Element) -> bool:
    """Whether a table holds tables, headings or paragraphs, or one column alone: what sets a page and holds no data."""
    rows = list(table.iter("tr"))
    if table.find(".//table") is not None or all(len(row) <= 1 for row in rows):
        return True
    return any(cell.find(".//h2") is not None or len(cell.findall(".//p")) > 2 for cell in table.iter("td"))


def _mend_paragraphs(parent: _Element, least: int = _PROSE_CHARACTERS) -> None:
    """Wrap each run of text and inline elements in a paragraph, and make paragraphs of childless blocks of prose."""
    run: list[_Element] = []
    if (parent.text or "").strip():
        lead = parent.makeelement("span")
        lead.text, parent.text = parent.text, None
        parent.insert(0, lead)
    for child in [*parent, None]:
        is_break = child is not None and child.tag == "br"
        if child is not None and child.tag not in BLOCKS and isinstance(child.tag, str):
            following = child.getnext()
            is_double = is_break and following is not None and following.tag == "br" and not (child.tail or "").strip()
            if not is_double:
                run.append(child)
                continue
        _wrap(run, least)
        run = []
        if child is None:
            break
        if child.tag in _LEAVES and _is_prose(child, least):
            child.tag = "p"
        if (child.tail or "").strip():
            tail = parent.makeelement("span")
            tail.text, child.tail = child.tail, None
            child.addnext(tail)
            run.append(tail)


def _wrap(run: list[_Element], least: int) -> None:
    while run and run[0].tag == "br" and not (run[0].tail or "").strip():
        del run[0]
    text = "".join("".join(element.itertext()) + (element.tail or "") for element in run).strip()
    if len(text) < least:
        return
    paragraph = run[0].makeelement("p")
    run[0].addprevious(paragraph)
    paragraph.extend(run)


def _is_prose(block: _Element, least: int) -> bool:
    """Whether a block holds text of its own and no blocks, and is not mostly links."""
    if any(inner.tag in BLOCKS for inner in block.iterdescendants()):
        return False
    text = "".join(block.itertext()).strip()
    linked = sum(len("".join(link.itertext())) for link in block.iter("a"))
    return len(text) >= least and linked < len(text) / 2


# The frame of an article

_LEAST_PROSE = 0.4  # of a page's text that stands in paragraphs; else what it is about may stand elsewhere
_LEAST_FRAME = 0.6  # of the prose of a page that an element must hold to be taken for its article


def _mend_frame(tree: _Element) -> None:
    """Name the article of a page that names none: without a frame trafilatura keeps paragraphs alone, no lists."""
    body = tree.find(".//body")
    if body is None or next(tree.iter("article", "main"), None) is not None or any(frame(tree) for frame in BODY_XPATH):
        return
    prose: dict[_Element, int] = {}
    for paragraph in body.iter("p"):
        size = _size(paragraph)
        for above in paragraph.iterancestors() if size >= _PROSE_CHARACTERS else ():
            prose[above] = prose.get(above, 0) + size
            if above is body:
                break
    whole = len("".join("".join(_VISIBLE_TEXT(body)).split()))
    if prose.get(body, 0) < _LEAST_PROSE * whole:
        return
    enough = _LEAST_FRAME * prose.get(body, 0)
    frames = [element for element, size in prose.items() if size >= enough and element.tag in _FRAMES]
    if not frames:
        return
    frame = max(frames, key=lambda element: sum(1 for _ in element.iterancestors()))
    if frame is not body:
        frame.tag = "article"
        return
    article = body.makeelement("article")
    article.text, body.text = body.text, None
    article.extend(list(body))
    body.append(article)


# Posts of a forum

_FORUM_NAME = re.compile(
    r"forum|thread|bbpress|phpbb|flarum|question-page|ipsapp|vb-page|(?:^|\s)(?:single-)?topic|^xf$", re.IGNORECASE
)
_FORUM_ADDRESS = re.compile(
    r"//(?:forums?|community|discuss(?:ions?)?|boards?)\."
    r"|/(?:forums?|threads?|topics?|viewtopic|showthread|discussions?|questions?|t)(?:[/.?-]|$)|[?&]topic=",
    re.IGNORECASE,
)
_FORUM_TYPES = ("DiscussionForumPosting", "QAPage")
_FORUM_ADDRESSES = (".//link[@rel='canonical']", ".//meta[@property='og:url']")
_POST_CLASSES = tuple(f"class={quote}{name}" for quote in ("", "'", '"') for name in ("post", "message"))
_POST_BODY = re.compile(
    r"(?:post|message|reply|answer|comment|topic|entry)s?[-_]{0,2}(?:user)?(?:body|content|text|message)"
    r"|(?:^|\s)(?:post|message|entry|cooked|bbwrapper|s-prose|usercontent)(?:\s|$)",
    re.IGNORECASE,
)
_POST_TAGS = ("div", "article", "li", "td", "section", "blockquote")
_VISIBLE_TEXT = XPath(".//text()[not(parent::script or parent::style or parent::noscript)]")
_LEAST_POSTS = 2
_LEAST_SHARE = 0.1  # of the page's text that the posts of a forum hold
_LEAST_COMMENTS = 0.5
_INNER_SHARE = 0.6  # of the text of the posts that their innermost containers must hold


def _mend_forum(tree: _Element, html: str, pieces: Pieces) -> None:
    """Put the posts of a thread in one article: engines take the first one for the article, and the rest for noise."""
    body = tree.find(".//body")
    if body is None:
        return
    is_forum = _is_forum(tree, body, html)
    if not is_forum and not ("thread" in html or "forum" in html or "topic" in html):
        return
    if not is_forum and sum(map(html.count, _POST_CLASSES)) < _LEAST_POSTS:
        return
    posts = _posts(body, is_forum)
    if not posts:
        return
    article = body.makeelement("article", {"itemprop": "articleBody"})
    heading = next((found for found in body.iter("h1") if "".join(found.itertext()).strip()), None)
    if heading is not None and not any(post in posts for post in heading.iterancestors()):
        heading.tail = None
        article.append(heading)
    for post in posts:
        post.tail = None
        article.append(post)
        for element in post.iter(etree.Element):
            if _POST_BODY.search(element.get("class") or element.get("id") or ""):
                element.attrib.clear()  # words such as `message` and `reply` are noise elsewhere
        post.tag = "div"
        for element in list(post.iter("div", "section", "td", "center")):
            _mend_paragraphs(element, 1)
    for child in list(body):
        body.remove(child)
    body.append(article)
    pieces.changed = True


def _posts(body: _Element, is_forum: bool) -> list[_Element]:
    """Return the innermost elements that hold the posts of a thread, none where a page seems to be another thing."""
    groups: dict[str, list[_Element]] = {}
    for element in body.iter(_POST_TAGS):
        name = _POST_BODY.search(element.get("class") or element.get("id") or "")
        if name:
            members = groups.setdefault(name.group().strip().lower(), [])
            if not members or members[-1] not in element.iterancestors():
                members.append(element)
    if not all("comment" in name for name in groups):
        groups = {name: members for name, members in groups.items() if "comment" not in name}
    sizes = {name: sum(map(_size, members)) for name, members in groups.items()}
    most = max(sizes.values(), default=0)
    inner = min((name for name in sizes if sizes[name] >= _INNER_SHARE * most), key=sizes.__getitem__, default="")
    posts = groups.get(inner, [])
    if len(posts) < _LEAST_POSTS:
        return []
    if not is_forum:
        around = (above.get(name) or "" for above in posts[0].iterancestors() for name in ("class", "id"))
        if "comment" in inner or not any(map(_FORUM_NAME.search, around)):
            return []
    share = sizes[inner] / max(1, len("".join("".join(_VISIBLE_TEXT(body)).split())))
    least = _LEAST_COMMENTS if "comment" in inner else _LEAST_SHARE  # where comments are few, they are not the page
    return posts if share >= least else []


def _size(element: _Element) -> int:
    return len("".join("".join(element.itertext()).split()))


def _is_forum(tree: _Element, body: _Element, html: str) -> bool:
    if any(name in html for name in _FORUM_TYPES):
        return True
    root = next(body.iterancestors("html"), body)
    names = (element.get(name) or "" for element in (root, body) for name in ("class", "id"))
    if any(map(_FORUM_NAME.search, names)):
        return True
    found = (element for element in map(tree.find, _FORUM_ADDRESSES) if element is not None)
    return any(_FORUM_ADDRESS.search(element.get("href") or element.get("content") or "") for element in found)


# Lists

_MOST_LINKED = 0.4  # share of a list's text in links from which on it is navigation


def spare_lists(dom: HTMLTree) -> None:
    """Make `ol` of each `ul` that is not mostly links: Resiliparse drops a `ul` near the root or with some links."""
    document = dom.document
    if document is None:
        return
    for found in document.get_elements_by_tag_name("ul").values():  # these lists are slow to walk by index
        parent, ordered = found.parent, document.create_element("ol")
        linked = sum(len(link.text or "") for link in found.get_elements_by_tag_name("a").values())
        if parent is None or linked > _MOST_LINKED * len(found.text or ""):
            continue
        for name in found.attrs:
            ordered[name] = found[name]
        parent.replace_child(ordered, found)
        for child in found.child_nodes.values():
            ordered.append_child(child)
