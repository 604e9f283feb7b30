"""Words by which a model speaks to whoever asked, rather than of its subject: refusals and meta phrases."""

from __future__ import annotations

import re

_EDGE_CHARS = 400

_REFUSAL = re.compile(
    r"\b(?:I(?:'m| am) (?:very |so )?(?:sorry|afraid)\b[^.\n]{0,80}\b(?:can(?:'t|not)|unable|not able|won't|don't)"
    r"|(?:sorry|apologi[sz]e|apologies|unfortunately),?[^.\n]{0,40}\bI(?:'m| am)? ?"
    r"(?:can(?:'t|not)|unable|not able|won't)"
    r"|I (?:can(?:'t|not)|am unable to|am not able to|won't|will not|must decline to)"
    r" (?:\w+ ){0,2}?(?:help|assist|comply|fulfil+|provide|rephrase|rewrite|paraphrase|summari[sz]e|generate|create"
    r"|produce|complete|process|answer|continue|discuss|engage)\b"
    r"|I'm (?:unable|not able) to\b"
    r"|as an? (?:AI|artificial intelligence|(?:large )?language model)\b"
    r"|(?:against|violates?) my (?:guidelines|programming|policy|policies)"
    r"|no (?:source )?text (?:was|has been|is) (?:provided|given|supplied)"
    r"|please (?:provide|share|paste|send) (?:me )?(?:with )?the (?:\w+ ){0,2}?(?:text|passage|document|article"
    r"|content)\b)",
    re.IGNORECASE,
)
_META = re.compile(
    r"\A[\s*#>\"'`_-]*(?:"
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|no problem|gladly|alright|understood|got it)\s*[,!.:-]"
    r"|here(?:'s| is| are|'re)\b[^.\n]{0,100}(?::|\b(?:version|rephras\w*|paraphras\w*|rewrit\w*|summar\w*|text|passage"
    r"|article|list|questions?|pairs?)\b)"
    r"|below (?:is|are)\b[^.\n]{0,80}\b(?:version|rephras\w*|paraphras\w*|rewrit\w*|summar\w*|list|questions?|pairs?)\b"
    r"|(?:i have|i've|i) (?:rephrased|rewritten|rewrote|paraphrased|summari[sz]ed|extracted|created|condensed)\b"
    r"|(?:i'll|i will|let me|let's) (?:rephrase|rewrite|paraphrase|summari[sz]e|start|begin|break)\b"
    r"|(?:the )?(?:rephrased|rewritten|paraphrased|revised|distilled|summari[sz]ed) (?:version|text|passage|article"
    r"|content)\s*[:*]"
    r"|as an? (?:AI|(?:large )?language model)\b)",
    re.IGNORECASE,
)
_META_END = re.compile(
    r"(?:let me know (?:if|whether|what)|i hope (?:this|that) (?:helps|meets)|is there anything else"
    r"|(?:would you like|do you want) me to|feel free to ask|note: (?:i have|i've|this (?:is|version|rephras\w*"
    r"|summar\w*)))[^\n]{0,200}\s*\Z"
    r"|\b(?:the (?:source|original|provided|given|above|input) (?:text|passage|article|document)"
    r"|(?:this|the) (?:rephrased|paraphrased|rewritten) (?:version|text|passage))\b[^\n]{0,200}\s*\Z",
    re.IGNORECASE,
)


_REFUSAL_HINTS = (
    "sorry", "afraid", "apolog", "unfortunately", "i can", "unable", "not able", "i won", "i will not", "decline",
    "as an a", "as a l", "language model", "my guidelines", "my p", "text ", "please ",
)  # fmt: skip
_END_HINTS = (
    "let me know", "i hope", "anything else", "would you like", "do you want", "feel free", "note:", " text",
    " passage", " article", " document", " version",
)  # fmt: skip


def is_refusal(text: str) -> bool:
    """Whether the opening of `text` declines the task: later on, such words are probably the document's own."""
    opening = text[:_EDGE_CHARS].replace("\u2019", "'")
    low = opening.lower()
    if not any(hint in low for hint in _REFUSAL_HINTS):
        return False
    match = _REFUSAL.search(opening)
    return match is not None and not opening[: match.start()].count('"') % 2


def is_meta(text: str) -> bool:
    """Whether `text` opens or ends by speaking of itself rather than of its subject."""
    if _META.match(text[:_EDGE_CHARS].replace("\u2019", "'")) is not None:
        return True
    ending = text[-_EDGE_CHARS:].replace("\u2019", "'")
    low = ending.lower()
    return any(hint in low for hint in _END_HINTS) and _META_END.search(ending) is not None
