"""Pages as a browser would understand them, and what holds of every page."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced; collects ids, links, text, and the cells of tables by their class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table = ""
        self._cell = False
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href"):
                self.links.append(value or "")
            self.links += re.findall(r"url\(([^)]*)\)", value or "")
        if tag == "table":
            self._table = dict(attrs).get("class") or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("th", "td"):
            self.tables[self._table][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("th", "td"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[self._table][-1][-1] += data


def self_contained(text: str) -> Page:
    """The page, which asks for nothing from outside and whose links and colours are its own."""
    parsed = Page(text)
    assert re.findall(r"https?://[^\"'\s]*|//[a-z]+\.", text) == []
    assert not {"script", "link", "img", "iframe", "object", "image"} & parsed.tags.keys()
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link.removeprefix("#") for link in parsed.links} <= set(parsed.ids)
    # Every colour of a plot is a variable of the page, or dark mode would not reach it.
    assert re.findall(r"(?:fill|stroke): #\w+", text) == []
    return parsed
