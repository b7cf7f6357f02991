"""The ten papers and how far their chapters are."""

from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ntf_utils import ROOT
from ntf_utils.claims import Court, load_claims
from ntf_utils.runs import Store
from ntf_utils.show import marks


@dataclass(frozen=True)
class Paper:
    """One of the ten. `name` is the folder of its chapter, `authors` and `venue` as they are cited."""

    name: str
    title: str
    authors: str
    venue: str
    arxiv: str


PAPERS = (
    Paper("next_token_pitfalls", "The Pitfalls of Next-Token Prediction",
          "Bachmann, Nagarajan", "ICML 2024", "2403.06963"),
    Paper("concept_guidance", "A Language Model's Guide Through Latent Space",
          "von Rütte, Anagnostidis, Bachmann, Hofmann", "ICML 2024", "2402.14433"),
    Paper("single_basin", "How Good is a Single Basin?",
          "Lion, Noci, Hofmann, Bachmann", "AISTATS 2024", "2402.03187"),
    Paper("linear_mode_connectivity", "Disentangling Linear Mode-Connectivity",
          "Altıntaş, Bachmann, Noci, Hofmann", "UniReps 2023", "2312.09832"),
    Paper("adaptive_scaling", "Navigating Scaling Laws: Compute Optimality in Adaptive Model Training",
          "Anagnostidis, Bachmann, Schlag, Hofmann", "ICML 2024", "2311.03233"),
    Paper("scaling_mlps", "Scaling MLPs: A Tale of Inductive Bias",
          "Bachmann, Anagnostidis, Hofmann", "NeurIPS 2023", "2306.13575"),
    Paper("multi_clip",
          "Multi-CLIP: Contrastive Vision-Language Pre-training for Question Answering tasks in 3D Scenes",
          "Delitzas, Parelli, Hars, Vlassis, Anagnostidis, Bachmann, Hofmann", "BMVC 2023", "2306.02329"),
    Paper("clip_guided_3dqa",
          "CLIP-Guided Vision-Language Pre-training for Question Answering in 3D Scenes",
          "Parelli, Delitzas, Hars, Vlassis, Anagnostidis, Bachmann, Hofmann",
          "CVPR Workshops 2023", "2304.06061"),
    Paper("random_teachers", "Random Teachers are Good Teachers",
          "Sarnthein, Bachmann, Anagnostidis, Hofmann", "ICML 2023", "2302.12091"),
    Paper("benign_memorization", "The Curious Case of Benign Memorization",
          "Anagnostidis, Bachmann, Noci, Hofmann", "ICLR 2023", "2210.14019"),
)  # fmt: skip


@dataclass(frozen=True)
class Chapter:
    """A paper and the verdicts that its chapter has given; `claims` is 0 while nobody has written it."""

    paper: Paper
    claims: int
    verdicts: Counter
    first_notebook: str

    @property
    def state(self) -> str:
        if not self.claims:
            return "to come"
        counts = ", ".join(
            f"{self.verdicts[word]} {word}" for word in marks.VERDICT_COLOURS if self.verdicts[word]
        )
        return f"{self.claims} claims" + (f": {counts}" if counts else ", not judged yet")


class Chapters:
    """The ten papers as a table with the state of each chapter."""

    def __init__(self, chapters: list[Chapter]) -> None:
        self.chapters = chapters

    def __repr__(self) -> str:
        return "\n".join(f"{c.paper.title} (arXiv {c.paper.arxiv}): {c.state}" for c in self.chapters)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{number}</td><td>{_title(c)}<br><small>{escape(c.paper.authors)}</small></td>"
            f'<td>{escape(c.paper.venue)}<br><small><a href="https://arxiv.org/abs/{c.paper.arxiv}">'
            f"arXiv {c.paper.arxiv}</a></small></td><td>{escape(c.state)}</td></tr>"
            for number, c in enumerate(self.chapters, start=1)
        )
        return (
            '<table class="chapters"><thead><tr><th scope="col">#</th><th scope="col">Paper</th>'
            f'<th scope="col">Venue</th><th scope="col">Chapter</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>"
        )


def chapters(
    profile: str = "laptop", notebooks: Path = ROOT / "notebooks", store: Store | None = None
) -> Chapters:
    """All ten papers in the book's order, with the verdicts recorded for `profile`."""
    return Chapters([_chapter(paper, profile, notebooks, store) for paper in PAPERS])


def _chapter(paper: Paper, profile: str, notebooks: Path, store: Store | None) -> Chapter:
    path = notebooks / paper.name / "claims.yaml"
    if not path.exists():
        return Chapter(paper, 0, Counter(), "")
    claims = load_claims(path)
    court = Court(paper.name, profile, claims, store)
    recorded = [court.recorded(name) for name in claims.claims]
    first = min(claim.shown_in for claim in claims.claims.values())
    return Chapter(paper, len(recorded), Counter(verdict.verdict for verdict in recorded if verdict), first)


def _title(chapter: Chapter) -> str:
    title = escape(chapter.paper.title)
    if not chapter.claims:
        return title
    return f'<a href="../notebooks/{chapter.paper.name}/{chapter.first_notebook}.html"><b>{title}</b></a>'
