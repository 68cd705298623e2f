r"""Tables as LaTeX with booktabs: every text is escaped, every symbol of this package's has its command (pdflatex).

The preamble needs the packages of `PACKAGES`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from teamtr_jax.validation import InputError

__all__ = ["escaped", "table", "PACKAGES", "preamble"]

PACKAGES = ("booktabs", "longtable", "amsmath", "amssymb")
"""What a preamble has to load."""


def preamble() -> str:
    """The line of a preamble that loads them."""
    return f"\\usepackage{{{','.join(PACKAGES)}}}"


TEXT = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': r"\textquotedbl{}",
    "–": "--", "—": "---", "…": r"\ldots{}", "“": "``", "”": "''", "‘": "`", "’": "'", "\u00a0": "~", "§": r"\S{}", "¶": r"\P{}",
    "\n": " ", "\t": " ", "\r": " ", "°": r"\textdegree{}", "•": r"\textbullet{}",
}  # fmt: skip
"""Of a character its text, outside of mathematics."""
GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho . sigma tau upsilon phi chi"
GREEK += " psi omega"
LATIN = {"Alpha": "A", "Beta": "B", "Epsilon": "E", "Zeta": "Z", "Eta": "H", "Iota": "I", "Kappa": "K", "Mu": "M", "Nu": "N",
         "Omicron": "O", "Rho": "P", "Tau": "T", "Chi": "X"}  # fmt: skip
"""Capitals that have no command: they look like these."""
SYMBOLS = {
    "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "≈": r"\approx", "≡": r"\equiv", "∼": r"\sim", "∝": r"\propto", "±": r"\pm",
    "−": "-", "·": r"\cdot", "×": r"\times", "÷": r"\div", "√": r"\surd", "∞": r"\infty", "∑": r"\sum", "∏": r"\prod",
    "∫": r"\int", "∂": r"\partial", "∇": r"\nabla", "∈": r"\in", "∉": r"\notin", "⊂": r"\subset", "⊆": r"\subseteq",
    "∪": r"\cup", "∩": r"\cap", "∅": r"\emptyset", "∀": r"\forall", "∃": r"\exists", "¬": r"\neg", "∧": r"\wedge",
    "∨": r"\vee", "→": r"\to", "←": r"\leftarrow", "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "⇔": r"\Leftrightarrow",
    "↦": r"\mapsto", "‖": r"\Vert", "∥": r"\parallel", "⟨": r"\langle", "⟩": r"\rangle", "⌊": r"\lfloor", "⌋": r"\rfloor",
    "⌈": r"\lceil", "⌉": r"\rceil", "′": "{}'", "″": "{}''", "†": r"\dagger", "∗": r"\ast", "⊤": r"\top", "⊥": r"\bot",
    "⊗": r"\otimes", "⊕": r"\oplus", "ℓ": r"\ell", "ℝ": r"\mathbb{R}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "𝔼": r"\mathbb{E}", "½": r"\tfrac12", "¼": r"\tfrac14", "¾": r"\tfrac34", "⅓": r"\tfrac13", "ϱ": r"\varrho",
    "ε": r"\varepsilon", "ϵ": r"\epsilon", "ϕ": r"\phi", "φ": r"\varphi", "ϑ": r"\vartheta", "ς": r"\varsigma", "µ": r"\mu",
    "…": r"\ldots",
    "≪": r"\ll", "≫": r"\gg", "≲": r"\lesssim", "≳": r"\gtrsim", "⋅": r"\cdot", "∘": r"\circ", "‑": "-", "≔": ":=",
    "𝟙": r"\mathbf{1}", "𝟏": r"\mathbf{1}", "⁻": "{}^{-}", "⁺": "{}^{+}", "₊": "{}_{+}", "₋": "{}_{-}", "‾": r"\bar{}",
}  # fmt: skip
"""Of a character its command, inside of mathematics."""
ACCENTS = {"\u0302": r"\hat", "\u0303": r"\tilde", "\u0304": r"\bar", "\u0305": r"\overline", "\u0307": r"\dot",
           "\u0308": r"\ddot", "\u0300": r"\grave", "\u0301": r"\acute", "\u030c": r"\check"}  # fmt: skip
TEXT_ACCENTS = {"\u0302": r"\^", "\u0303": r"\~", "\u0304": r"\=", "\u0307": r"\.", "\u0308": r"\"", "\u0300": r"\`",
                "\u0301": r"\'", "\u030c": r"\v", "\u0327": r"\c", "\u030a": r"\r"}  # fmt: skip


def _greek(character: str) -> str:
    """The command of a Greek letter, "" of another character."""
    names = GREEK.split()
    for first, upper in (("α", False), ("Α", True)):
        place = ord(character) - ord(first)
        if 0 <= place < len(names) and names[place] != ".":
            name = names[place].capitalize() if upper else names[place]
            if name in LATIN:
                return rf"\mathrm{{{LATIN[name]}}}"
            return "o" if name == "omicron" else rf"\{name}"
    return ""


def _raised(character: str) -> str:
    """A superscript or a subscript as such, "" of another character."""
    kind, _, plain = unicodedata.decomposition(character).partition(" ")
    if kind not in ("<super>", "<sub>"):
        return ""
    inner = "".join(chr(int(code, 16)) for code in plain.split())
    return f"{{}}{'^' if kind == '<super>' else '_'}{{{_mathematics(inner) or inner}}}"


def _mathematics(character: str) -> str:
    """What a character is inside of mathematics, "" where it is text."""
    return SYMBOLS.get(character) or _raised(character) or _greek(character)


def escaped(text: object) -> str:
    r"""A text for LaTeX: its special characters harmless, symbols as mathematics, what has no command as its number.

    Example:
      >>> print(escaped("50 % of L_i ≤ ϱ·π̂², & more"))
      50 \% of L\_i $\le$ $\varrho$$\cdot$$\hat{\pi}$${}^{2}$, \& more
    """
    out: list[str] = []
    characters = unicodedata.normalize("NFC", str(text))
    for i, character in enumerate(characters):
        if unicodedata.combining(character):
            continue
        accents = ""
        for mark in characters[i + 1 :]:
            if not unicodedata.combining(mark):
                break
            accents += mark
        out.append(_one(character, accents))
    return "".join(out)


def _one(character: str, accents: str) -> str:
    """A character with the accents that follow it."""
    inner = _mathematics(character)
    parts = unicodedata.normalize("NFD", character)
    if not inner and character not in TEXT and len(parts) > 1 and unicodedata.combining(parts[1]):
        return _one(parts[0], parts[1:] + accents)
    if not accents:
        plain = TEXT.get(character, character if character.isascii() and character.isprintable() else "")
        return plain or (f"${inner}$" if inner else rf"[U+{ord(character):04X}]")
    if not inner and character.isascii() and all(mark in TEXT_ACCENTS for mark in accents):
        return "".join(TEXT_ACCENTS[mark] + "{" for mark in accents[::-1]) + character + "}" * len(accents)
    inner = inner or (character if character.isascii() and character.isalnum() else rf"\text{{{_one(character, '')}}}")
    for mark in accents:
        inner = rf"{ACCENTS[mark]}{{{inner}}}" if mark in ACCENTS else rf"{inner}\text{{[U+{ord(mark):04X}]}}"
    return f"${inner}$"


def table(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "", wide: Sequence[str] = ()
) -> str:
    r"""A `longtable` with booktabs' rules; the first column left, numbers right, texts in `wide` columns broken.

    Args:
      headings: of the columns; at least one.
      rows: a cell for each of them.
      wide: headings of columns with sentences.

    Raises:
      InputError: no heading, or a row of another length.

    Example:
      >>> print(table("A & B", ["update", "k1"], [["0.0", "0.1"]]))
      \begin{longtable}{lr}
      \caption{A \& B}\\
      \toprule
      update & k1 \\
      \midrule
      \endfirsthead
      \toprule
      update & k1 \\
      \midrule
      \endhead
      \bottomrule
      \endfoot
      0.0 & 0.1 \\
      \end{longtable}
      <BLANKLINE>
    """
    if not headings:
        raise InputError("headings", "none", "at least one")
    if bad := [i for i, row in enumerate(rows) if len(row) != len(headings)]:
        raise InputError(f"row {bad[0]}", f"{len(rows[bad[0]])} cells", f"{len(headings)}, as there are headings")
    share = 0.8 / max(1, len(wide))
    columns = "".join(
        rf"p{{{share:.2f}\linewidth}}" if name in wide else "r" if i else "l" for i, name in enumerate(headings)
    )
    head = " & ".join(map(escaped, headings)) + r" \\"
    lines = [
        rf"\begin{{longtable}}{{{columns}}}",
        rf"\caption{{{escaped(f'{title}. {caption}' if caption else title)}}}\\",
        *(r"\toprule", head, r"\midrule", r"\endfirsthead", r"\toprule", head, r"\midrule", r"\endhead"),
        *(r"\bottomrule", r"\endfoot"),
        *(" & ".join(_cell(cell, first=not i) for i, cell in enumerate(row)) + r" \\" for row in rows),
        r"\end{longtable}",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str, first: bool) -> str:
    r"""A cell. A bracket that opens a row would be an argument of the line break before it, and so would a star."""
    out = escaped(text)
    return "{}" + out if first and out[:1] in ("[", "*") else out
