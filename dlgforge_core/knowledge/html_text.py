"""The text of a web page as its reader sees it: what the page is about, without what stands around it.

Menus, the site's head and foot, side columns, cookie notices, controls and whatever is hidden are left out;
what remains is cut down to `main` or `article` where the page has them. Nothing is guessed from how much text
or how many links a part has: short pages and pages in any language stay whole.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

_WHITE = re.compile(r"[ \t\n\r\f]+")
# Not text, not shown to a reader, or controls: hidden text is where instructions to a model are put.
_NOT_TEXT = re.compile(
    "audio|button|canvas|datalist|dialog|head|iframe|input|noscript|object|option|script|select|style|svg|"
    "template|textarea|video"
)
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?!\.?\d*[1-9])", re.IGNORECASE
)
_AROUND_ROLES = re.compile(
    "alertdialog|banner|complementary|contentinfo|dialog|menu|menubar|navigation|search"
)
_COOKIES = re.compile(
    r"\b(cookie|consent|gdpr)s?[-_]?(banner|bar|box|consent|law|message|modal|notice|overlay|popup|wall)|"
    r"\b(onetrust|cookiebot|cookieconsent|didomi|usercentrics|osano-cm)\b",
    re.IGNORECASE,
)
# Notes within a text, as documentation has them.
_NOTE = re.compile(r"note|admonition|callout|tip\b|hint|caution|warning|important|danger|info", re.IGNORECASE)
_PARTS = ["article", "main", "section", "blockquote", "figure", "td"]
_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|caption|d[dlt]|details|div|fieldset|fig(caption|ure)|footer|form|"
    "h[1-6r]|header|li|main|nav|[ou]l|p|pre|section|summary|table"
)
_MANY_LINES = ["p", "ul", "ol", "dl", "table", "pre", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6"]
_CELLS = ["td", "th"]
# Smaller parts than this share of the page's text are not what it is about.
_MAIN_SHARE = 0.25
_GAPS = ("", " ", "\n", "\n\n")


def html_text(page: str) -> tuple[str, str]:
    """Title and text of a page, a tab between the cells of a table. Raises ValueError when it is not HTML."""
    from bs4 import BeautifulSoup  # here and not above: only this format needs it

    try:
        title, text = _read(BeautifulSoup(page, "html.parser"), around=False)
        if not text:  # a page of nothing but a head, say
            title, text = _read(BeautifulSoup(page, "html.parser"), around=True)
    except (ValueError, RecursionError, AssertionError, LookupError) as error:
        raise ValueError(f"it cannot be read as HTML: {type(error).__name__}: {error}") from None
    return title, text


def _read(soup: Any, *, around: bool) -> tuple[str, str]:
    heading = soup.title or soup.find("h1")
    title = heading.get_text(" ") if heading is not None else ""
    for tag in soup.find_all(_not_shown):
        tag.decompose()
    if not around:
        for tag in _around(soup):
            tag.decompose()
    return title, "\n\n".join(filter(None, (_Writer().written(root) for root in _roots(soup))))


def _not_shown(tag: Any) -> bool:
    hidden = tag.get("hidden")
    return (
        _NOT_TEXT.fullmatch(tag.name) is not None
        or (hidden is not None and hidden != "until-found")
        or str(tag.get("aria-hidden", "")).strip().lower() == "true"
        or bool(_HIDDEN.search(str(tag.get("style", ""))))
    )


def _around(soup: Any) -> list[Any]:
    """Return the outermost tags that are part of the site and not of what the page says."""
    with_main = set[int]()
    for tag in soup.find_all(["main", "article"]):
        for parent in tag.parents:
            if id(parent) in with_main:
                break
            with_main.add(id(parent))
    found, todo = list[Any](), [(soup, False)]
    while todo:  # and each tag once, however deep it stands
        tag, in_part = todo.pop()
        if _stands_around(tag, in_part=in_part, has_main=id(tag) in with_main):
            found.append(tag)
            continue
        in_part = in_part or tag.name in _PARTS
        todo.extend((child, in_part) for child in tag.find_all(True, recursive=False))
    return found


def _stands_around(tag: Any, *, in_part: bool, has_main: bool) -> bool:
    if tag.name in ("html", "body", "main", "article"):
        return False
    if tag.name == "nav" or _AROUND_ROLES.fullmatch(str(tag.get("role", ""))):
        return True
    if tag.name == "aside":
        marks = " ".join((str(tag.get("role", "")), *tag.get_attribute_list("class", [])))
        return not in_part or not _NOTE.search(marks)
    if tag.name in ("header", "footer"):
        return not in_part
    marks = " ".join(str(mark) for mark in (tag.get("id", ""), *tag.get_attribute_list("class", [])))
    return bool(_COOKIES.search(marks)) and not has_main


def _roots(soup: Any) -> list[Any]:
    """Return what the page is about: its main part or articles, unless they hold little of its text."""
    whole = len(soup.get_text("", strip=True))
    for found in (soup.select("main, [role=main]"), soup.find_all("article")):
        outermost = _outermost(soup, found)
        if sum(len(tag.get_text("", strip=True)) for tag in outermost) >= max(1, _MAIN_SHARE * whole):
            return outermost
    return [soup]


def _outermost(soup: Any, found: list[Any]) -> list[Any]:
    """Return those of the tags `found` that stand in no other of them, in their order."""
    ids, outermost, todo = set(map(id, found)), list[Any](), [soup] if found else []
    while todo:
        tag = todo.pop()
        if id(tag) in ids:
            outermost.append(tag)
        else:
            todo.extend(reversed(tag.find_all(True, recursive=False)))
    return outermost


def _lines_within(root: Any) -> Counter[int]:
    """Return, by the id of each tag in `root`, how many tags within it are of several lines."""
    counts = Counter[int]()
    for tag in reversed(root.find_all(True)):  # what is within a tag comes after it
        counts[id(tag.parent)] += counts[id(tag)] + (tag.name in _MANY_LINES)
    return counts


@dataclass
class _Row:
    """A row of a table: whether it becomes one line, has had a cell, and stands within cells of such rows."""

    one_line: bool
    cells_around: int = 0
    begun: bool = False


class _Writer:
    """Writes the text of a tag as a browser lays it out: white space counts in `pre` alone."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._gap = 0  # what comes before the next text, as a place in _GAPS
        self._rows: list[_Row] = []
        self._cells = 0  # the cells of one line that it is within
        self._lines_within = Counter[int]()

    def written(self, root: Any) -> str:
        """Return the text of `root`, once."""
        from bs4.element import NavigableString, Tag

        self._lines_within = _lines_within(root)
        todo: list[tuple[Any, bool]] = [(root, False)]
        while todo:
            node, ends = todo.pop()
            if isinstance(node, Tag):
                if self._mark(node, ends):
                    todo.append((node, True))
                    todo.extend((child, False) for child in reversed(node.contents))
            elif type(node) is NavigableString:  # not a comment
                self._text(str(node))
        return "\n".join(line.rstrip() for line in "".join(self._out).splitlines()).strip("\n")

    def _mark(self, tag: Any, ends: bool) -> bool:
        """Do what a tag does where it begins or ends; whether its content is still to be written."""
        if tag.name == "br":
            if not ends:
                self._space(3 if self._gap >= 2 else 2)
        elif tag.name == "pre" and not self._cells:
            if not ends:
                self._preformatted(tag.get_text())
            return False
        elif tag.name == "tr":
            self._row(tag, ends)
        elif tag.name in _CELLS:
            self._cell(ends)
        elif _BLOCKS.fullmatch(tag.name):
            self._space(3)
        return not ends

    def _row(self, tag: Any, ends: bool) -> None:
        if ends:
            self._space(2)
            self._cells = self._rows.pop().cells_around
            return
        # Not one that lays the page out, or whose cells have several paragraphs.
        cells = tag.find_all(_CELLS, recursive=False)
        one_line = all(self._lines_within[id(cell)] < 2 for cell in cells)
        # Cells whose end is left out have the next row within them.
        self._rows.append(_Row(one_line, self._cells))
        self._cells = 0
        self._space(2)

    def _cell(self, ends: bool) -> None:
        row = self._rows[-1] if self._rows else _Row(False)
        if not row.one_line:
            self._space(3)
        elif ends:
            self._cells -= 1
        else:
            if row.begun:
                self._flush(but=1)
                self._out.append("\t")
            row.begun = True
            self._cells += 1

    def _space(self, gap: int) -> None:
        self._gap = max(self._gap, 1 if self._cells else gap)

    def _flush(self, but: int = 0) -> None:
        if self._gap > but and self._out:
            self._out.append(_GAPS[self._gap])
        self._gap = 0

    def _text(self, text: str) -> None:
        words = _WHITE.sub(" ", text)
        if words[:1] == " ":
            self._gap = max(self._gap, 1)
        if words := words.strip(" "):
            # A line, or a cell, does not begin with a space.
            self._flush(but=1 if self._out and self._out[-1] == "\t" else 0)
            self._out.append(words)
            self._gap = 1 if _WHITE.match(text[-1]) else 0

    def _preformatted(self, text: str) -> None:
        if text.strip():
            self._space(3)
            self._flush()
            self._out.append(text.replace("\r\n", "\n").strip("\n"))
            self._space(3)
