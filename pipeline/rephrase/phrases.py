"""Words by which a model speaks to whoever asked, rather than of its subject: refusals and meta phrases."""

from __future__ import annotations

import re

_EDGE_CHARS = 400

_REFUSAL = re.compile(
    r"\b(I(?:'m| am) (?:very |so )?(?:sorry|afraid)\b[^.\n]{0,80}\b(?:can(?:'t|not)|unable|not able|won't|don't)"
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
    r"\A[\s*#>\"'`_-]*("
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
_TASK = (
    r"(?:rephras|re-?writ|re-?wrote|re-?word|paraphras|summari[sz]|summary|condens|shorten|simplif|translat|edited|kept"
    r"|preserv|retain|maintain|omit|remov|left out|added|adding|changed|changes|followed|instruction|guideline"
    r"|requested|prompt\b|original|source\b|passage|wording|tone\b|style\b|format\b|facts?\b|meaning\b|version\b)"
)
_META_END = re.compile(
    r"(let me know (?:if|whether|what|how)|i hope (?:this|that|it) |hope (?:this|that|it) helps|is there anything else"
    r"|(?:would you like|do you want) (?:me to|another|more|to (?:continue|know|see|hear|learn|try|proceed))\b"
    r"|what would you like (?:me )?to (?:do|know|ask|discuss|learn|change)\b"
    r"|thank(?:s| you) for (?:asking|reading|sharing|your (?:question|request|input|feedback|message|patience))\b"
    r"|(?:i'm|i am) ready (?:for your|to (?:help|assist|answer))\b"
    r"|please (?:continue|proceed) with (?:the |your )?(?:next|editing|tasks?|questions?|answers?|rewrit|rephras)"
    r"|(?:^|(?<=[.!?]\s))(?:you're (?:very )?welcome\b|good luck(?: with [^.!?]{0,60})?[.!])"
    r"|(?:shall|should|may|can|could) i (?:help|assist|adjust|change)\b"
    r"|feel free to (?:ask|let me|request)|(?:do not|don't) hesitate to (?:ask|let me)"
    r"|(?:i'm|i am|i'd be|i will be) (?:happy|glad|here) to (?:help|assist|answer|adjust)"
    r"|how (?:else )?(?:can|may) i (?:help|assist)|what(?:'s| is| would be) your (?:next|other) "
    r"|do you have any (?:\w+ )?questions"
    r"|\b(?:the (?:source|original|provided|given|above|input) (?:text|passage|article|document)"
    r"|(?:this|the) (?:rephrased|paraphrased|rewritten) (?:version|text|passage))\b)[^\n]{0,200}\Z",
    re.IGNORECASE,
)
_BEGINS = r"(?:^|(?<=[.!?:\"')\]*])\s)[\s*_()\[\]\"'`#-]{0,8}"
_NOTE = re.compile(
    _BEGINS + r"(note|n\.b|p\.s|disclaimer|remark|comment|explanation|word count|(?:key )?changes(?: made)?)\b"
    r"[^\n]{0,100}?(?:\bI\b|\bmy\b|\d+ words|: ?\d+\W*$|\b" + _TASK + r")",
    re.IGNORECASE,
)
_PLEASE = re.compile(r"\b(?:please|kindly) (?=note\b)", re.IGNORECASE)
_OWN_WORK = re.compile(
    _BEGINS
    + r"(?:I(?:'ve)? (?:(?:have|did|not|also|only|just|tried|aimed|made|sure|to|that|the|all|every|any) ){0,4}"
    + _TASK
    + r"|(?i:(?:all|no|every|the (?:original|core|main)) [^\n.]{0,60}\b(?:facts?|information|details?|names?|numbers?"
    r"|meaning|tone|content|wording)\b[^\n.]{0,40}\b(?:kept|preserved|retained|rephrased|maintained|added|omitted)\b[^\n]{0,40}\Z"
    r"|(?:this|the above) (?:version|rewrite|rewriting|rephras\w+|paraphras\w+"
    r"|summary) (?:\w+ ){0,3}?" + _TASK + r"))"
)
_FIRST_PERSON = re.compile(r"\bI\b")


_REFUSAL_HINTS = (
    "sorry", "afraid", "apolog", "unfortunately", "i can", "unable", "not able", "i won", "i will not", "decline",
    "as an a", "as a l", "language model", "my guidelines", "my p", "text ", "please ",
)  # fmt: skip
_TOKENS = (
    r"<[|｜][^\s<>|｜]{1,40}[|｜]>|\[\|[^\s\[\]|]{1,40}\|\]|</?s>|<(?:bos|eos|pad|sep|cls|eo[atdh])>"
    r"|<(?:start|end|begin|beginning)_of_(?:turn|text|sentence|sequence|document|utterance)>"
    r"|<\|[a-z_]{2,30}>|<[a-z_]{2,30}\|>|<(?:BOS|EOS|PAD)_TOKEN>|<END-OF-TURN>|\[(?:BOS|EOS|PAD|gMASK)\]|\[/?INST\]|<</?SYS>>"
)
SPECIAL_TOKEN = re.compile(_TOKENS)
"""What chat templates part turns with: ChatML, Llama, Mistral, Gemma, DeepSeek, Cohere, Phi, GLM, EXAONE and others."""
_LEAK = re.compile(
    _TOKENS
    + r"|<unk>|\[UNK\]|<mask>|<0x[0-9A-Fa-f]{2}>|<(?:unused|extra_id_|reserved_)\d+>|\[UNUSED_TOKEN_\d+\]|\ufffd"
)


def leaks(text: str, source: str = "") -> bool:
    """Whether `text` holds a special token, or half a character, that `source` does not have."""
    return any(match[0] not in source for match in _LEAK.finditer(text))


def is_refusal(text: str, source: str = "") -> bool:
    """Whether the opening of `text` declines the task: later on, such words are probably the document's own.

    So are words that stand in `source`.
    """
    opening = text[:_EDGE_CHARS].replace("\u2019", "'")
    low = opening.lower()
    if not any(hint in low for hint in _REFUSAL_HINTS):
        return False
    match = _REFUSAL.search(opening)
    return match is not None and not opening[: match.start()].count('"') % 2 and not _stands_in(source, match)


def is_meta(text: str, source: str = "") -> bool:
    """Whether `text` opens or ends by speaking of itself, or to whoever asked, rather than of its subject.

    Words that stand in `source` are the document's own.
    """
    opening = _META.match(text[:_EDGE_CHARS].replace("\u2019", "'"))
    if opening is not None and not _stands_in(source, opening):
        return True
    line = text.rstrip()[-_EDGE_CHARS:].rpartition("\n")[2].replace("\u2019", "'")
    for pattern in (_META_END, _NOTE):
        match = pattern.search(_PLEASE.sub("", line))
        if match is not None and not _stands_in(source, match):
            return True
    return _OWN_WORK.search(line) is not None and not _FIRST_PERSON.search(source)


def _stands_in(source: str, match: re.Match[str]) -> bool:
    return bool(source) and match[1].lower() in source.lower().replace("\u2019", "'")
