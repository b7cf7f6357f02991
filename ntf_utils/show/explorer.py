"""The base of the book's explorers: one object, two faces.

In the rendered page an explorer is HTML with precomputed states and plain JavaScript: it needs no kernel, no
network and no library. In Jupyter it is the ipywidgets view, which computes live. `_repr_mimebundle_` offers
both and the front end picks.
"""

import json
import os
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ipywidgets


class Explorer:
    """What all explorers share. A subclass says `page` and, where it can compute live, `live_view`."""

    def page(self) -> str:
        """HTML of the page face."""
        raise NotImplementedError

    def live_view(self) -> "ipywidgets.Widget | None":
        """The ipywidgets view; None where nothing can be computed live."""
        return None

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        bundle = {"text/plain": repr(self), "text/html": self.page()}
        if not _building_the_book():
            view = self.live_view()
            if view is not None:
                bundle |= _widget_part(view._repr_mimebundle_())
        return bundle


def page_html(name: str, title: str, body: str, data: dict) -> str:
    """A whole page face: style, body, data and script, under one root element.

    Args:
        name: of the explorer, e.g. `path_explorer`: its `.css` and `.js` lie beside this module, and its root element
            has the class `path-explorer`. The data lie in the root's `script[type="application/json"]`. The script
            starts with `explorers("path-explorer", (root, data, controls) => ...)`, which `explorer.js` gives it.
        title: for readers who hear the page.
        body: HTML of the first state.
        data: what the script needs to draw the other states.
    """
    text = json_for_html(data)
    script = f'(() => {{\n"use strict";\n{_source("explorer.js")}\n{_source(f"{name}.js")}}})();'
    return (
        f"<style>{_source('explorer.css')}{_source(f'{name}.css')}</style>"
        f'<div class="explorer {name.replace("_", "-")}" role="group" aria-label="{escape(title)}">'
        f'{body}<script type="application/json">{text}</script></div><script>{script}</script>'
    )


def choice(name: str, legend: str, options: list[str]) -> str:
    """A row of radio buttons, the first one chosen; the page's script makes `name` unique on the page."""
    labels = "".join(
        f'<label><input type="radio" name="{name}" data-choice="{name}" value="{index}"'
        f"{' checked' if index == 0 else ''}><span>{escape(option)}</span></label>"
        for index, option in enumerate(options)
    )
    return f"<fieldset><legend>{legend}</legend>{labels}</fieldset>"


def style_html(name: str) -> str:
    """The style of an explorer alone, for its ipywidgets view."""
    return f"<style>{_source('explorer.css')}{_source(f'{name}.css')}</style>"


def json_for_html(data: object) -> str:
    """Compact JSON that is safe inside a script element: no `<` survives that could end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _source(file: str) -> str:
    return (files("ntf_utils.show") / file).read_text(encoding="utf-8")


def _widget_part(bundle: object) -> dict:
    """The widget view of what ipywidgets offers, which may come with metadata."""
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    kind = "application/vnd.jupyter.widget-view+json"
    return {kind: data[kind]}


def _building_the_book() -> bool:
    """In the book build a live view would only add widget state, and with it scripts, to the page."""
    return os.environ.get("NTF_RECORDED_ONLY") == "1"
