"""The scorecard: every claim of every paper, built from the claim files and the verdict records."""

import re
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ntf_utils import ROOT
from ntf_utils.claims import Claim, ClauseVerdict, Court, Verdict, load_claims
from ntf_utils.runs import Store
from ntf_utils.show import boxes, marks, wording
from ntf_utils.show.chapters import PAPERS


@dataclass(frozen=True)
class Line:
    """One claim of one paper; `verdict` is None while no run of this profile has judged it."""

    paper: str
    name: str
    claim: Claim
    verdict: Verdict | None

    @property
    def word(self) -> str:
        return self.verdict.verdict if self.verdict else "not tested"

    @property
    def reason(self) -> str:
        if self.verdict:
            return self.verdict.reason
        return self.claim.untested or "no verdict is recorded for this profile"

    @property
    def clauses(self) -> list[ClauseVerdict]:
        return self.verdict.clauses if self.verdict else []

    @property
    def address(self) -> str:
        """Of the claim's box, from a page in `book/`."""
        return f"../notebooks/{self.paper}/{self.claim.shown_in}.html#{boxes.claim_anchor(self.name)}"


class Scorecard:
    """The lines of each paper as a table (HTML) and as text."""

    def __init__(self, profile: str, papers: dict[str, list[Line]]) -> None:
        """`papers`: title -> lines."""
        self.profile = profile
        self.papers = papers

    def __repr__(self) -> str:
        out = []
        for title, lines in self.papers.items():
            out.append(f"{title} ({self.profile}): {_counts(lines)}")
            for line in lines:
                found = "; ".join(boxes.found_text(clause) for clause in line.clauses) or "–"
                out.append(f"  {line.name:<4}{line.word:<13}{line.claim.name} | paper: "
                           f"{boxes.published_text(line.claim)} | ours: {found}")  # fmt: skip
        return "\n".join(out) or f"no claims yet ({self.profile})"

    def _repr_html_(self) -> str:
        if not self.papers:
            return "<p>No chapter has claims yet.</p>"
        return "".join(self._table(title, lines) for title, lines in self.papers.items())

    def _table(self, title: str, lines: list[Line]) -> str:
        rows = "".join(_row(line) for line in lines)
        return (
            f'<table class="scorecard" style="border-collapse:collapse;width:100%">'
            f'<caption style="text-align:left"><b>{escape(title)}</b> '
            f"<span>{escape(_counts(lines))} · profile {escape(self.profile)}</span></caption>"
            '<thead><tr><th scope="col">Claim</th><th scope="col">Paper</th><th scope="col">Ours</th>'
            f'<th scope="col">Verdict</th></tr></thead><tbody>{rows}</tbody></table>'
        )


def scorecard(
    profile: str = "laptop", notebooks: Path = ROOT / "notebooks", store: Store | None = None
) -> Scorecard:
    """The scorecard of one profile, for every `claims.yaml` under `notebooks`, papers in the book's order."""
    order = [paper.name for paper in PAPERS]
    files = sorted(notebooks.glob("*/claims.yaml"), key=lambda path: (_place(order, path.parent.name), path))
    papers = {}
    for path in files:
        claims = load_claims(path)
        court = Court(claims.paper, profile, claims, store)
        papers[claims.title] = [
            Line(claims.paper, name, claims.claims[name], court.recorded(name))
            for name in sorted(claims.claims, key=_natural)
        ]
    return Scorecard(profile, papers)


def recorded_profiles(store: Store | None = None) -> list[str]:
    """Profiles for which verdicts are recorded, the cheapest first; smoke judges nothing and is left out."""
    root = (store or Store()).root / "verdicts"
    return [profile for profile in ("laptop", "gpu", "paper") if any(root.glob(f"*/{profile}/*.json"))]


def _place(order: list[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def _natural(name: str) -> list[int | str]:
    """Sorts C2 before C10; the file's own order is that of what rests on what."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _counts(lines: list[Line]) -> str:
    counts = Counter(line.word for line in lines)
    return " · ".join(f"{counts[word]} {word}" for word in marks.VERDICT_COLOURS if counts[word])


def _row(line: Line) -> str:
    found = "".join(
        f'<div class="found" title="{escape(clause.measure)}">{boxes.clause_picture(clause)}'
        f'<span class="found-text">{escape(boxes.found_text(clause))}</span>'
        f"<small>{escape(clause.name)}: holds {escape(wording.criterion(clause.holds, clause.unit))}"
        f"</small></div>"
        for clause in line.clauses
    )
    return (
        f'<tr class="scorecard-{marks.slug(line.word)}">'
        f'<th scope="row"><a href="{escape(line.address)}">{escape(line.name)} {escape(line.claim.name)}</a>'
        f"<p>{escape(line.claim.statement)}</p></th>"
        f'<td data-head="Paper">{boxes.published_html(line.claim)}</td>'
        f'<td data-head="Ours">{found or "–"}</td>'
        f'<td data-head="Verdict">{marks.pill(line.word)}{_why(line)}</td></tr>'
    )


def _why(line: Line) -> str:
    """The reason where the intervals do not already show it."""
    return f"<p><small>{escape(line.reason)}</small></p>" if line.word == "not tested" else ""
