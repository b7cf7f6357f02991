"""The built book: nothing comes from elsewhere, links lead somewhere, every claim is on the scorecard."""

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

from ntf_utils import ROOT

CLAIMS = sorted((ROOT / "notebooks").glob("*/claims.yaml"))
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
ELSEWHERE = re.compile(r"(https?:)?//")
CSS_ELSEWHERE = re.compile(r"(url\(|@import)\s*['\"]?(https?:)?//")


class Page(HTMLParser):
    """What a page loads, where it links to, its anchors and its words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads, self.links, self.anchors, self.words, self.css = [], [], set(), [], []
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._inside = tag
        self.anchors |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        self.css.append(attrs.get("style") or "")
        if tag in LOADING and attrs.get(LOADING[tag]):
            self.loads.append(attrs[LOADING[tag]])
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "style":
            self.css.append(data)
        elif self._inside != "script":
            self.words.append(data)


parsed = cache(Page)


def pages(html: Path) -> list[Path]:
    return sorted(path for path in html.rglob("*.html") if "_static" not in path.parts)


def test_nothing_comes_from_elsewhere(html):
    assert len(pages(html)) > 3
    for path in pages(html):
        page = parsed(path)
        assert not [source for source in page.loads if ELSEWHERE.match(source)], path
        assert not [css for css in page.css if CSS_ELSEWHERE.search(css)], path
    for sheet in html.rglob("*.css"):
        assert not CSS_ELSEWHERE.search(sheet.read_text(encoding="utf-8")), sheet


def test_links_within_the_book_lead_somewhere(html):
    dead = []
    for path in pages(html):
        for link in parsed(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            found = target.is_file() and (
                not anchor or target.suffix != ".html" or anchor in parsed(target).anchors
            )
            if not found:
                dead.append(f"{path.relative_to(html)} -> {link}")
    assert not dead


def test_every_claim_is_on_the_scorecard_and_linked(html):
    scorecard = parsed(html / "book" / "scorecard.html")
    targets = [urlsplit(link) for link in scorecard.links]
    assert CLAIMS
    for path in CLAIMS:
        for name, claim in yaml.safe_load(path.read_text(encoding="utf-8"))["claims"].items():
            assert " ".join(claim["statement"].split()) in scorecard.text, f"{path.parent.name} {name}"
            shown = f"{path.parent.name}/{claim['shown_in']}.html", f"claim-{name.lower()}"
            assert any(link.path.endswith(shown[0]) and link.fragment == shown[1] for link in targets), shown
