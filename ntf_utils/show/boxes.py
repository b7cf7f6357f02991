"""Claim boxes: what the paper says, what we find, under which criterion, and the verdict."""

from html import escape

from ntf_utils.claims import Claim, ClauseVerdict, Region, Verdict
from ntf_utils.show import marks, wording

_BOX = "border-left:5px solid {colour};padding:.6em 1em;margin:1em 0;background:rgba(128,128,128,.07)"
_FACTS = "display:grid;grid-template-columns:max-content 1fr;gap:.25em 1em;margin:.6em 0 0"


class ClaimBox:
    """A verdict beside its claim, as HTML (class and colour from the verdict) and as plain text."""

    def __init__(self, verdict: Verdict, claim: Claim) -> None:
        self.verdict = verdict
        self.claim = claim

    def __repr__(self) -> str:
        verdict, claim = self.verdict, self.claim
        lines = [
            f"{verdict.claim} {claim.name}: {verdict.verdict.upper()}",
            f"  claim   {claim.statement}",
            f"  paper   {published_text(claim)} ({claim.where})",
        ]
        for clause in verdict.clauses:
            lines.append(f"  ours    {clause.measure}: {found_text(clause)}, {_seeds(clause)}")
            lines.append(f"          holds {wording.criterion(clause.holds, clause.unit)}: {clause.verdict}")
        lines.append(f"  why     {verdict.reason}")
        lines += [f"  note    criterion revised: {revision.why}" for revision in claim.revisions]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        verdict, claim = self.verdict, self.claim
        anchor = claim_anchor(verdict.claim)
        colour = marks.VERDICT_COLOURS[verdict.verdict]
        facts = [("Paper", f"{published_html(claim)} <small>· {escape(claim.where)}</small>")]
        facts += [("Ours", _clause_html(clause)) for clause in verdict.clauses]
        facts += [("Verdict", escape(verdict.reason))]
        facts += [
            ("Revised", f"was: {escape(_earlier(revision.was))}; {escape(revision.why)}")
            for revision in claim.revisions
        ]
        rows = "".join(
            f'<dt style="font-weight:600">{name}</dt><dd style="margin:0">{text}</dd>' for name, text in facts
        )
        return (
            f'<section id="{anchor}" class="claim-box claim-box-{marks.slug(verdict.verdict)}" '
            f'aria-label="Claim {escape(verdict.claim)}" style="{_BOX.format(colour=colour)}">'
            f'<header style="display:flex;flex-wrap:wrap;gap:.3em .8em;align-items:center">'
            f"<strong>{escape(verdict.claim)} · {escape(claim.name)}</strong>"
            f"{marks.pill(verdict.verdict)}</header>"
            f'<p style="margin:.4em 0 0">{escape(claim.statement)}</p>'
            f'<dl style="{_FACTS}">{rows}</dl></section>'
        )


def claim_box(verdict: Verdict, claim: Claim) -> ClaimBox:
    """The box of one claim, to end a notebook's section with."""
    return ClaimBox(verdict, claim)


def claim_anchor(claim: str) -> str:
    """The id under which a page holds the box of a claim, e.g. `claim-c2`."""
    return f"claim-{escape(claim.lower())}"


def _earlier(was: str | dict) -> str:
    """An earlier criterion in words: as it was written down, or the region."""
    return was if isinstance(was, str) else wording.criterion(Region(**was))


def published_text(claim: Claim) -> str:
    """The paper's value with the standing of that value."""
    published = claim.published
    if published.standing == "unknown":
        return wording.STANDINGS["unknown"]
    return f"{published.value}, {wording.STANDINGS[published.standing]}"


def published_html(claim: Claim) -> str:
    """`published_text` with the standing set apart and its source as a tooltip."""
    published = claim.published
    told = wording.STANDINGS[published.standing]
    source = f' title="{escape(published.source)}"' if published.source else ""
    standing = f'<span class="standing standing-{published.standing}"{source}>{told}</span>'
    return standing if published.standing == "unknown" else f"{escape(published.value)} {standing}"


def found_text(clause: ClauseVerdict) -> str:
    """Our estimate of a clause with its interval."""
    if clause.low is None:
        return wording.quantity(clause.estimate, clause.unit)
    return wording.interval(clause.estimate, clause.low, clause.high, clause.unit)


def clause_picture(clause: ClauseVerdict) -> str:
    """The interval picture of a clause; empty where there is no interval."""
    if clause.low is None:
        return ""
    return marks.interval_picture(
        clause.estimate, clause.low, clause.high, clause.holds, clause.unit, clause.verdict
    )


def _seeds(clause: ClauseVerdict) -> str:
    told = "1 seed" if clause.seeds == 1 else f"{clause.seeds} seeds"
    return f"{told}, {100 * clause.level:.3g} % interval" if clause.level else told


def _clause_html(clause: ClauseVerdict) -> str:
    return (
        f"{escape(clause.measure)}: <b>{escape(found_text(clause))}</b>, {_seeds(clause)}"
        f'<br><span style="display:inline-flex;flex-wrap:wrap;gap:.2em .8em;align-items:center">'
        f"{clause_picture(clause)}<span>holds {escape(wording.criterion(clause.holds, clause.unit))}: "
        f"{escape(clause.verdict)}</span></span>"
    )
