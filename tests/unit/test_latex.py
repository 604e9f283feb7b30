"""LaTeX to text: what each construct becomes, and what a hostile source costs."""

from __future__ import annotations

import io
import tarfile
import time
from contextlib import suppress

import pytest

from pipeline.extract.conversion import RefusedError
from pipeline.extract.latex.convert import convert
from pipeline.extract.latex.papers import to_text

CASES = [
    # letters, signs, spaces
    (r"\'e \`a \^o \"{u} \~n \c{c} \c s \v{s} \H{o} \k a \=a \.z \u g \'\i \"{\i}", "é à ô ü ñ ç ş š ő ą ā ż ğ í ï"),
    (r"\ss{} \ae\ \o \L{}\aa\ \S 3 \pounds5 \textendash", "ß æ øŁå §3 £5 –"),
    ("A---B--C ``q'' `s' !`H! 5\\% \\$5 \\& \\# \\_ \\{a\\} a~b", "A—B–C “q” ‘s’ ¡H! 5% $5 & # _ {a} a b"),
    (
        r"\LaTeX{} \TeX\ x\ldots{} 10\textsuperscript{-3} H\textsubscript{2}O 1\textsuperscript{st}",
        "LaTeX TeX x… 10⁻³ H₂O 1st",
    ),
    (r"\SI{5}{\kilo\meter} \num{3} \qty{2}{\square\meter}", "5 km 3 2 m²"),
    ('\\usepackage[ngerman]{babel}"uber Stra"se "`so"\' Auf"-lage', "über Straße „so“ Auflage"),
    # comments, paragraphs, breaks
    ("one% note\ntwo % note\n\nthree\\\\four\\par five", "onetwo\n\nthree\nfour\n\nfive"),
    ("% note\n  % note\na %\n\n% note\n\nb", "a\n\nb"),
    # mathematics
    (r"$a$ \(b\) $$c$$ \[d\]", "$a$ $b$\n\n$$c$$\n\n$$d$$"),
    (
        "\\begin{align}\na &= b \\\\ % note\nc\\label{x}\n\\end{align}",
        "$$\\begin{align}\na &= b \\\\\nc\n\\end{align}$$",
    ),
    (r"\begin{equation}\label{e} \left( x \right) \nonumber\end{equation}", r"$$\left( x \right)$$"),
    (r"$\text{if $y$ ok} \{ \$ \}$ \ensuremath{\alpha}", r"$\text{if \(y\) ok} \{ \$ \}$ $\alpha$"),
    ("a $lost\n\nb $c$", "a lost\n\nb $c$"),
    # macros
    (r"\newcommand{\R}{\mathbb{R}}\newcommand{\f}[2][x]{#1^{#2}}$\R \f{2} \f[y]3$ \R", "$\\mathbb{R} x^{2} y^{3}$ R"),
    (r"\def\be{\begin{equation}}\def\ee{\end{equation}}\def\v#1{\mathbf#1}\be \v x \ee \v", "$$\\mathbf x$$"),
    (r"\DeclareMathOperator*{\argmax}{arg\,max}$\argmax x$", r"$\operatorname*{arg\,max} x$"),
    (r"\newcommand{\us}{CI/CD\xspace}\us pipeline, \us. \newcommand{\b}[1]{<#1>}\b{z}", "CI/CD pipeline, CI/CD. <z>"),
    (r"\let\x\alpha $\x$ \newenvironment{e}[1]{[#1:}{]}\begin{e}{n}c\end{e}", r"$\alpha$ [n:c]"),
    (r"\def\a{\a b}\a c \def\c#1.#2;{no}\csname x\endcsname d", "c d"),
    (
        r"\newcommand{\define}[1]{\textbf{#1}}\def\remark#1{(#1)}a \define{b} c \remark{d}",
        "a b c (d)",
    ),
    (
        r"\newcommand{\unit}[1]{$\mathrm{#1}$}\newcommand{\num}{n}\def\alert#1{!#1}\renewcommand{\State}{S}"
        r"5 \unit{m}, \num\ of \alert{b}, \State.",
        r"5 $\mathrm{m}$, n of !b, S.",
    ),  # AMS-TeX's names
    # conditions
    (r"A\iffalse no \ifx a b \fi no \fi B\if0 no\fi C\iftrue yes\else no\fi", "ABCyes"),
    (r"\newif\ifd \ifd a\else b\fi \dtrue \ifd c\fi \iffalse", "bc"),
    # structure
    (r"\section{A $x$}\label{a}\subsection*{B}\paragraph{C} d", "## A $x$\n\n### B\n\n##### C\n\nd"),
    (r"\chapter{A}\section[s]{B \emph{c}}", "## A\n\n### B c"),
    (
        r"\begin{abstract}a\end{abstract}\footnote{n}. \href{http://a.b/\%20}{t} \url{u_~%1}",
        "## Abstract\n\na\n\n(n). [t](http://a.b/%20) u_~%1",
    ),
    (r"\textbf{b \emph{e}} {\bf o} \texttt{t} \textcolor{red}{r} \unknown{u}{v} \mbox{m}", "b e o t r u v m"),
    (r"x \cite{a,b} \citep[see][p.~5]{c}, \ref{d} \eqref{e}", "x [a, b] [c, see, p. 5], [d] ([e])"),
    (r"\newtheorem{t}{Theorem}\begin{t}[N]s\end{t}\begin{proof}p\end{proof}", "Theorem (N). s\n\nProof. p"),
    (
        r"\begin{enumerate}\item a\begin{itemize}\item[--] b\item c\end{itemize}\item d\end{enumerate}",
        "1. a\n   - b\n   - c\n2. d",
    ),
    (r"\begin{description}\item[T] d\item[U:] e\end{description}", "- T: d\n- U: e"),
    (r"\begin{quote}a\par b\end{quote}", "> a\n> b"),
    (
        r"\begin{table}\caption{C}\begin{tabular}{|l|c|}\hline A & B\\ \multicolumn{2}{c}{w}\\ \cline{1-2} $|x|$ &"
        r"\multirow{2}{*}{m}\\ \end{tabular}\end{table}",
        "| A | B |\n| --- | --- |\n| w | |\n| $|x|$ | m |\n\nTable: C",
    ),
    (r"\begin{figure}\includegraphics[width=1cm]{a}junk\caption[s]{A.}\label{f}\end{figure}b", "Figure: A.\n\nb"),
    (
        r"\begin{figure}\begin{subfigure}{1cm}\caption{a}\end{subfigure}\subfloat[b]{x}\caption{c}\end{figure}",
        "Figure: a\n\nFigure: b\n\nFigure: c",
    ),
    (r"\begin{tikzpicture}\draw(0,0);\end{tikzpicture}\begin{comment}no\end{comment}a", "a"),
    # code
    ("\\verb|\\a{$|, \\lstinline!x%y!", "`\\a{$`, `x%y`"),
    ("\\begin{verbatim}\n \\section{x} % y\n\\end{verbatim}b", "```\n \\section{x} % y\n```\n\nb"),
    ("\\begin{lstlisting}[language=C]\nint a; /* $b$ */\n\\end{lstlisting}", "```\nint a; /* $b$ */\n```"),
    (
        "\\begin{lstlisting}[caption={A $x$, b},label=l]\na\n\\end{lstlisting}",
        "```\na\n```\n\nListing: A $x$, b",
    ),
    (
        "\\begin{quote}q\\begin{itemize}\\item\n\\begin{verbatim}\na\n  b\n\\end{verbatim}\\end{itemize}\\end{quote}",
        "> q\n> - ```\n>   a\n>     b\n>   ```",
    ),
    (
        "\\begin{enumerate}\\item a\\[\\begin{matrix}\nb\n\\end{matrix}\\]\\end{enumerate}",
        "1. a\n   $$\\begin{matrix}\n   b\n   \\end{matrix}$$",
    ),
    # tables: breaks within a cell, heads that are said again, sizes
    (
        r"\resizebox{1cm}{!}{\begin{tabular}{ll} a & \makecell{b\\c}\\ d & e\end{tabular}}",
        "| a | b c |\n| --- | --- |\n| d | e |",
    ),
    (
        r"\begin{longtable}{ll}\caption{L}\\a&b\\\endfirsthead\caption{M}\\a&b\\\endhead go on\\\endfoot\endlastfoot"
        r" p&q\end{longtable}",
        "| a | b |\n| --- | --- |\n| p | q |\n\nTable: L",
    ),
    (
        r"\begin{deluxetable}{ll}\tablewidth{0pt}\tablecaption{C}\tablehead{\colhead{A} & \colhead{B}}\startdata a"
        r"& \nodata\enddata\tablenotetext{a}{N.}\tablecomments{M.}\end{deluxetable}\altaffiltext{1}{x}",
        "| A | B |\n| --- | --- |\n| a | … |\n\nTable: C\n\nN.\n\nM.",
    ),
    (r"\begin{numcases}{x=} a & $b$\end{numcases}", "$$\\begin{numcases}\n{x=} a & \\(b\\)\n\\end{numcases}$$"),
    (r"\begin{tabbing}a \= b\\c \> d\end{tabbing}", "a b\nc d"),
    # algorithms
    (
        r"\begin{algorithm}\KwIn{a}\ForEach{$x$}{do\;\lIf{c}{d\;}}\Return e \tcp{n}\caption{A}\end{algorithm}",
        "Input: a\nfor each $x$ do\ndo\nif c then\nd\nreturn e // n\n\nAlgorithm: A",
    ),
    # slides
    (
        r"\begin{frame}<1>[t]\frametitle<1>{A}\setbeamertemplate{x}[y] b \begin{block}{C}d\end{block}\begin{columns}[T]"
        r"\begin{column}{.5\textwidth}e\end{column}\column{2cm}f\end{columns}\end{frame}",
        "### A\n\nb\n\nC\n\nd\n\ne\n\nf",
    ),
    # other classes
    (
        r"\IEEEPARstart{T}{his} \lettrine[lines=2]{O}{ne} \begin{keyword}a \sep b\end{keyword}",
        "This One\n\n## Keywords\n\na , b",
    ),
    (r"\begin{proof}[Proof of \ref{x}.]p\end{proof}\begin{CJK*}{UTF8}{song}q\end{CJK*}", "Proof of [x]. p\n\nq"),
    (r"\ifodd 3 a\fi \tikz[x] \draw (0,0); b \tikz{\node;}\looseness=-1 c", "a b c"),
    # AMS-TeX and plain TeX
    (
        r"\input amstex\documentstyle{amsppt}\topmatter\title A b\endtitle\author C\endauthor\endtopmatter\document"
        r"\head 1. D\endhead\define\R{\Bbb R}\proclaim{Theorem 1} $\R$\endproclaim\demo{Proof} e\enddemo"
        r"\Refs\ref\no 1\by F\endref\endRefs\enddocument g",
        "# A b\n\n## 1. D\n\nTheorem 1. $\\Bbb R$\n\nProof. e",
    ),
    (
        "\\magnification=\\magstep1\\font\\big=cmr10 scaled \\magstep2 \\headline={\\hfil A}\\hangafter=1\n"
        "\\beginsection 1. B\n\nc\\footnote{$^1$}{d}\\halign{#&#\\cr e&f\\cr g&h\\cr}\\bye no",
        "## 1. B\n\nc (d)\n\n| e | f |\n| --- | --- |\n| g | h |",
    ),
    (r"\SI{1 \pm 2}{\meter\tothe{4}} \ifstrequal{a}{b}{yes}{no}", "1 ±2 m⁴ no"),
    # dimensions, and what says nothing
    ("\\tolerance=1000 \\section{A}\\hbadness=5\nin", "## A\n\nin"),
    (r"\normalsize \section{A}\parskip=2\baselineskip\parindent\parskip b", "## A\n\nb"),
    (
        r"a\hspace*{1cm}b\hskip 1em plus 2pt c\kern2pt \setlength{\x}{1pt}\parskip=3pt d\penalty10 e\noindent f",
        "a b cdef",
    ),
    (r"\usepackage{x}\pagestyle{empty}\bibliography{x}\thispagestyle{y}\newpage a", "a"),
    (
        r"\let\oldcite\cite\renewcommand{\cite}[1]{see~\oldcite{#1}}\let\oldemph=\emph\def\emph#1{\oldemph{#1!}}"
        r"A \cite{x} b \emph{c}.",
        "A see [x] b c!.",
    ),
    (
        r"\LetLtxMacro{\oldsqrt}{\sqrt}\renewcommand{\sqrt}[1]{\oldsqrt[2]{#1}}\NewCommandCopy\old\eps"
        r"\let\eps\varepsilon\let\oldphi\phi\let\phi\varphi\let\varphi\oldphi $\sqrt{x}\eps y\phi\varphi$ a\phi{}b",
        r"$\sqrt[2]{x}\varepsilon y\varphi\phi$ aφb",
    ),
    (r"\makeatletter\let\@old\cite\def\cite#1{\@old{#1}}\makeatother A \cite{x}.", "A [x]."),
    (r"\let\cite=\citep\let\citep=\cite\let\sp\,\let\b=| A \cite{x}\sp b \citep{z} \b.", "A [x] b [z] |."),
]


def text(source: str, **files: str) -> str:
    sources = {"m.tex": source, **{f"{name}.tex": data for name, data in files.items()}}
    return convert("m.tex", sources, bibliography=False, citations=True).text


@pytest.mark.parametrize(("source", "expected"), CASES)
def test_what_a_construct_becomes(source: str, expected: str) -> None:
    assert text(source) == expected


def test_a_document_begins_and_ends_where_it_says() -> None:
    source = (
        r"\documentclass{a}noise\newcommand{\x}{X}\title{T\\U\thanks{n}}\begin{document}\maketitle \x\end{document}no"
    )
    assert text(source) == "# T U\n\nX"


def test_files_are_read_where_they_are_named() -> None:
    assert text(r"a \input{b} \include c \input{none}", b=r"B\endinput no", c=r"\input{m}C") == "a B C"
    source = r"\documentclass{x}\begin{document}a \subfile{s}\end{document}"
    assert text(source, s=r"\documentclass{y}\begin{document}S\end{document}no") == "a S"


PAPERS = {
    "inner encoding": (
        {"m.tex": (r"\usepackage[cp1251]{inputenc}", "A \\input{b}"), "b.tex": "Привет".encode("cp1251")},
        "A Привет",
    ),
    "GBK": ({"m.tex": (r"\usepackage{CJK}", "\\begin{CJK}{GBK}{song}你好，世界\\end{CJK}", "gbk")}, "你好，世界"),
    "Japanese": (
        {"m.tex": r"\documentclass{jsarticle}\begin{document}日本語の論文\end{document}".encode("euc-jp")},
        "日本語の論文",
    ),
    "UTF-16": ({"m.tex": ("", "é", "utf-16")}, "é"),
    "mostly UTF-8": ({"m.tex": ("", "Zürich " * 20 + "%"), "n.tex": b"\xe9"}, ("Zürich " * 20).strip()),
    "a folder": ({"p/ms.tex": ("", "A \\input{s}"), "p/s.tex": b"B", "p/supplement.tex": ("", "C" * 99)}, "A B"),
    "a preamble": ({"m.tex": b"\\input{p}\\begin{document}A\\end{document}", "p.tex": b"\\documentclass{a}"}, "A"),
    "letters' case": ({"M.TEX": ("", "A \\include{Chap}"), "chap.TEX": b"B"}, "A B"),
    "a path that leads out": ({"../m.tex": ("", "no"), "m.tex": ("", "A")}, "A"),
}


@pytest.mark.parametrize(("files", "expected"), PAPERS.values(), ids=PAPERS.keys())
def test_a_paper_of_several_files(files: dict[str, bytes | tuple[str, ...]], expected: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, said in files.items():
            if isinstance(said, tuple):
                head, body, codec = (*said, "utf-8")[:3]
                said = f"\\documentclass{{article}}{head}\\begin{{document}}{body}\\end{{document}}".encode(codec)
            header = tarfile.TarInfo(path)
            header.size = len(said)
            tar.addfile(header, io.BytesIO(said))
    facts = {"name": "x.tar", "limit": 1 << 20, "bibliography": False, "citations": True}
    assert to_text(packed.getvalue(), facts).text == f"{expected}\n"


def test_references_are_optional() -> None:
    files = {
        "m.tex": r"a \cite{k}\bibliography{x}",
        "m.bbl": r"\begin{thebibliography}{9}\bibitem{k} Title.\end{thebibliography}",
    }
    with_them = convert("m.tex", files, bibliography=True, citations=True).text
    assert with_them == "a [k]\n\n## References\n\n[k] Title."
    assert convert("m.tex", files, bibliography=False, citations=False).text == "a"


def test_the_papers_control_characters_are_none_of_ours() -> None:
    assert text("a\x020\x03 \x1d\x1c$x$\x01\x7f") == "a0 $x$"


HOSTILE = {
    "braces": "{" * 100_000,
    "lists": r"\begin{itemize}\item " * 100_000,
    "footnotes": r"\footnote{" * 100_000,
    "doubling": "".join(
        rf"\def\{a}{{\{b}\{b}}}" for a, b in zip("abcdefghijklmnopqrstuvwx", "bcdefghijklmnopqrstuvwxy", strict=True)
    )
    + r"\a$\a$",
    "recursion": r"\def\a{\b x}\def\b{\a y}\a $\a$",
    "copies": r"\newcommand{\a}[1]{#1#1#1#1#1#1#1#1}" + r"\a{" * 60 + "x" + "}" * 60,
    "brackets": r"\\[" * 100_000,
    "conditions": r"\ifx ab " * 100_000,
    "comments": r"\begin{comment}" * 100_000,
    "formulas": r"$\frac{" * 100_000,
    "cells": r"\begin{tabular}{l}" + "&" * 3000 + r"\\x" * 3000,
    "spaces": "\n \t" * 300_000,
    "input": r"\input{m}" * 100_000,
    "ends of AMS-TeX": r"\title" * 50_000 + r"\endhead" * 50_000,
    "long tables": r"\begin{longtable}{l}a\endhead\endfoot" * 900,
    "captions": r"\begin{lstlisting}[" + "caption={[" * 20_000 + "]\n\\end{lstlisting}",
    "GBK": "[" * 200_000,
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_source_costs_itself(source: str) -> None:
    began = time.process_time()
    with suppress(RefusedError):
        text(source)
    assert time.process_time() - began < 10
