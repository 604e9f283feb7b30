"""The commands and environments of LaTeX that have a part in a document's structure, by what is done with them."""

from __future__ import annotations

import re

SOURCE_NAME = re.compile(r"(?:\.(?:tex|ltx|latex|bbl|sty|txt)|(?:^|/)(?:00README[^/]*|[^/.]+))$", re.IGNORECASE)
"""Files of a paper's sources that may be read."""


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


DISPLAYS = _names("""
    equation displaymath align gather multline eqnarray alignat flalign xalignat dmath math dgroup subeqnarray
    IEEEeqnarray IEEEeqnarraybox numcases subnumcases xxalignat dseries tikzcd prooftree mathpar empheq
""")
BARE = frozenset({"equation", "displaymath", "math", "dmath"})  # whose names say nothing
VERBATIM = _names("""
    verbatim Verbatim BVerbatim LVerbatim lstlisting minted alltt code Code spverbatim
""")
DRAWN = _names("""
    tikzpicture picture pspicture pgfpicture circuitikz forest comment filecontents axis overpic diagram asy CCSXML
    psmatrix feynman fmffile fmfgraph IEEEbiography IEEEbiographynophoto
""")
FLOATS = {
    **dict.fromkeys(("figure", "wrapfigure", "SCfigure", "sidewaysfigure", "floatingfigure", "marginfigure"), "Figure"),
    **dict.fromkeys(("subfigure", "teaserfigure"), "Figure"),
    **dict.fromkeys(
        ("table", "wraptable", "sidewaystable", "SCtable", "margintable", "longtable", "deluxetable"), "Table"
    ),
    **dict.fromkeys(("algorithm", "algorithm2e"), "Algorithm"),
    "listing": "Listing",
}
TABLES = {
    **dict.fromkeys(
        ("tabular", "array", "longtable", "supertabular", "deluxetable", "tblr", "longtblr", "NiceTabular"), 1
    ),
    **dict.fromkeys(("tabularx", "tabulary", "tabular*", "xltabular"), 2),
}
LISTS = {
    **dict.fromkeys(("itemize", "compactitem", "list", "trivlist", "itemize*", "inparaitem", "tightlist"), "- "),
    **dict.fromkeys(("enumerate", "compactenum", "enumerate*", "inparaenum", "enumeratei", "steps"), "1"),
    **dict.fromkeys(("description", "compactdesc", "labeling"), ":"),
}
BEGIN_ARGUMENTS = {
    **dict.fromkeys(("multicols", "spacing", "otherlanguage"), "om"),
    **dict.fromkeys(("wrapfigure", "wraptable"), "omom"),
    **dict.fromkeys(("subfigure",), "om"),
    **dict.fromkeys(("adjustbox", "tcolorbox", "mdframed", "algorithmic"), "o"),
    "minipage": "ooom",
    "thebibliography": "m",
    "list": "mm",
    "labeling": "om",
    "CJK": "omm",
    "adjustwidth": "mm",
    "frame": "o",
    "column": "om",
}
FRONT = {
    "abstract": "Abstract",
    **dict.fromkeys(("acknowledgments", "acknowledgements", "acknowledgement", "acks"), "Acknowledgements"),
    **dict.fromkeys(("keywords", "keyword", "IEEEkeywords"), "Keywords"),
}
THEOREMS = dict.fromkeys(
    _names("""
    theorem lemma proposition corollary definition remark remarks example examples conjecture claim proof fact
    observation assumption hypothesis notation question problem exercise property axiom note case solution
""")
) | {"thm": "Theorem", "lem": "Lemma", "prop": "Proposition", "cor": "Corollary", "defn": "Definition", "rem": "Remark"}
SECTIONS = {
    "frametitle": 2,
    "framesubtitle": 3,
    "part": 0,
    "chapter": 0,
    "section": 1,
    "subsection": 2,
    "subsubsection": 3,
    "paragraph": 4,
    "subparagraph": 5,
}
PRIMITIVES = _names("""advance multiply divide kern mkern raise lower catcode lccode uccode mathcode sfcode hbox vbox
    vtop hrule vrule count dimen skip write moveleft moveright
    magnification""")
CITES = re.compile(
    r"(?:[Cc]ite|parencite|autocite|textcite|footcite|smartcite|supercite|fullcite|Parencite|Autocite|Textcite)[A-Za-z]*"
)
OVERLAYS = _names("only onslide uncover visible invisible alert pause temporal action alt")
REFERENCES = _names("""
    ref eqref pageref autoref cref Cref nameref vref Ref fref Fref subref labelcref thref
""")
CONDITIONS = _names("""
    if ifx ifnum ifdim ifodd ifvmode ifhmode ifmmode ifinner ifvoid ifhbox ifvbox ifeof iftrue iffalse ifcase ifcat
    ifdefined ifcsname iffontchar ifpdf ifluatex ifxetex ifPDFTeX ifLuaTeX ifXeTeX ifpdftex
""")
TRUE = frozenset({"iftrue", "ifpdf", "ifPDFTeX", "ifpdftex", "ifhmode"})
STEPS = {  # of algorithms
    **dict.fromkeys(("State", "STATE", "Statex", "STATEx"), ("", "")),
    **dict.fromkeys(("If", "IF"), ("if ", " then")),
    **dict.fromkeys(("ElsIf", "ELSIF", "ElseIf"), ("else if ", " then")),
    **dict.fromkeys(("uIf", "lIf"), ("if ", " then")),
    **dict.fromkeys(("uElseIf", "lElseIf"), ("else if ", " then")),
    **dict.fromkeys(("For", "FOR", "lFor"), ("for ", " do")),
    **dict.fromkeys(("ForAll", "FORALL"), ("for all ", " do")),
    **dict.fromkeys(("ForEach", "lForEach"), ("for each ", " do")),
    **dict.fromkeys(("While", "WHILE", "lWhile"), ("while ", " do")),
    **dict.fromkeys(("Until", "UNTIL"), ("until ", "")),
    **dict.fromkeys(("KwIn", "KwData"), ("Input: ", " ")),
    **dict.fromkeys(("KwOut", "KwResult"), ("Output: ", " ")),
    **dict.fromkeys(("KwRet",), ("return ", " ")),
    **dict.fromkeys(("Procedure", "Function"), ("function ", "")),
}
STEP_WORDS = {
    **dict.fromkeys(("Else", "ELSE", "uElse", "lElse"), "else"),
    **dict.fromkeys(("Repeat", "REPEAT"), "repeat"),
    **dict.fromkeys(("Loop", "LOOP"), "loop"),
    **dict.fromkeys(("EndIf", "ENDIF"), "end if"),
    **dict.fromkeys(("EndFor", "ENDFOR"), "end for"),
    **dict.fromkeys(("EndWhile", "ENDWHILE"), "end while"),
    **dict.fromkeys(("EndLoop", "ENDLOOP"), "end loop"),
    **dict.fromkeys(("EndProcedure", "EndFunction"), "end function"),
    **dict.fromkeys(("Require", "REQUIRE"), "Require:"),
    **dict.fromkeys(("Ensure", "ENSURE"), "Ensure:"),
    **dict.fromkeys(("Return", "RETURN"), "return"),
}
HEADS = {  # of AMS-TeX
    **dict.fromkeys(("head", "heading", "specialhead"), "section"),
    **dict.fromkeys(("subhead", "subheading"), "subsection"),
    "subsubhead": "subsubsection",
}
DELIMITED = re.compile(  # what AMS-TeX writes as `\title ... \endtitle`
    rf"\\end({'|'.join(HEADS)}|title|author|affil|address|email|date|thanks|keywords|subjclass|abstract|curraddr)"
    "(?![A-Za-z])"
)
STATEMENTS = ("proclaim", "demo", "definition", "remark", "example")  # of AMS-TeX, each up to its \end...
CORE = _names("""
    @input input include includefrom inputfrom import subimport subfile subfileinclude InputIfFileExists usepackage
    endinput begin end item bibitem bibliography title section subsection subsubsection paragraph subparagraph
    chapter part abstract caption caption* captionof footnote footnotetext endnote ref pageref eqref autoref cref
    Cref nameref vref href hyperref url nolinkurl path verb Verb lstinline mintinline lstinputlisting multicolumn
    par newline linebreak newpage clearpage cr tabularnewline hskip hspace vskip vspace bigskip medskip smallskip
    everypar textsubscript textsuperscript ensuremath texorpdfstring xspace char symbol csname def edef gdef xdef
    let newcommand renewcommand providecommand newrobustcmd DeclareRobustCommand DeclareMathOperator
    NewDocumentCommand RenewDocumentCommand DeclareDocumentCommand newenvironment renewenvironment
    provideenvironment newtheorem spnewtheorem newif else fi ifthenelse newbool newtoggle providetoggle booltrue
    boolfalse toggletrue togglefalse ifbool iftoggle ifstrequal IfFileExists makeatletter makeatother
""")
"""What papers are built of, and redefine as only TeX can follow. Of all else a paper's own definition holds."""
SUPERSCRIPTS = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
SUBSCRIPTS = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
QUOTES = {"``": "“", "''": "”", "`": "‘", "'": "’", "--": "–", "---": "—"}
