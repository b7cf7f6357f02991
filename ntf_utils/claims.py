"""Claims and verdicts: what a paper says, when we hold it to be reproduced, and what the runs say.

A claim's criterion is written in `notebooks/<paper>/claims.yaml` before the runs. The notebook hands
in the effect of every seed; `Court.judge` gives an interval and one of four verdicts:

- reproduced: every clause's interval lies wholly in the region where the clause holds;
- contradicted: some clause's interval lies wholly outside it;
- inconclusive: an interval straddles the border;
- not tested: a gate failed, a claim it rests on is not reproduced, or this profile cannot tell.

A claim holds only if all its clauses do, so it is an intersection-union test: the chance of a false
"reproduced" is at most that of its least certain clause, and no correction for the number of
clauses is needed (Berger 1982, Technometrics 24:295). A claim that compares several factors is also
read factor by factor: with `holm: true` its clauses' intervals are widened by Holm's step-down rule
(Holm 1979, Scandinavian Journal of Statistics 6:65), so that at most 5 % of such claims have any
clause whose interval lies wholly on the wrong side of a border.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy import stats

from ntf_utils import ROOT
from ntf_utils.refusal import Refusal, explain, nearest
from ntf_utils.runs import Store, write_atomically

Profile = Literal["smoke", "laptop", "gpu", "paper"]
Word = Literal["reproduced", "contradicted", "inconclusive", "not tested"]
Effects = Mapping[str, Sequence[float]]  # clause name -> one effect a seed
FEWEST_SEEDS = 3  # an interval from two is so wide that it only pretends to be a test
COUNTED_UNITS = ("%", "pp")

METHOD = {
    "mean": "95 % t interval over seeds, at least as wide as the test examples can resolve (rule of three)",
    "share": "share of seeds, 90 % Clopper-Pearson interval (95 % on each side)",
    "holm": "levels by Holm's rule over the clauses, each of which is also read alone",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


_Ends = Annotated[list[float], Field(min_length=2, max_length=2)]


class Region(_Part):
    """Where a clause holds: exactly one of `above`, `below` and `outside` (border excluded) and `within` (included).

    `outside` is for "makes a difference, in whatever direction": the two ends say how small a
    difference counts as none, so that "makes none" can be shown too.
    """

    above: float | None = None
    below: float | None = None
    within: _Ends | None = None
    outside: _Ends | None = None

    @model_validator(mode="after")
    def _one_and_sound(self) -> Self:
        if [self.above, self.below, self.within, self.outside].count(None) != 3:
            raise ValueError("give exactly one of above, below, within, outside")
        for name, ends in (("within", self.within), ("outside", self.outside)):
            if ends and ends[0] >= ends[1]:
                raise ValueError(f"{name} needs [low, high] with low < high")
        return self

    @property
    def borders(self) -> list[float]:
        """The one or two values at which the clause begins or ceases to hold."""
        return self.within or self.outside or [self.below if self.above is None else self.above]

    def verdict(self, low: float, high: float) -> Word:
        """What the interval [low, high] says."""
        if self.within:
            inside = self.within[0] <= low and high <= self.within[1]
            outside = high < self.within[0] or low > self.within[1]
        elif self.outside:
            inside = high < self.outside[0] or low > self.outside[1]
            outside = self.outside[0] <= low and high <= self.outside[1]
        elif self.above is not None:
            inside, outside = low > self.above, high < self.above
        else:
            inside, outside = high < self.below, low > self.below
        return "reproduced" if inside else "contradicted" if outside else "inconclusive"


class Clause(_Part):
    """One measured condition of a claim.

    `kind: mean` judges the mean effect over seeds; `kind: share` the share of seeds in which
    something happened (the effects are then 0 or 1 a seed, the region in shares, or in percent
    where the unit is "%").
    """

    measure: str
    unit: str
    holds: Region
    kind: Literal["mean", "share"] = "mean"


class Published(_Part):
    """The paper's own number, and how well we know it."""

    value: str
    standing: Literal["verified", "secondhand", "memory", "unknown"]
    source: str = ""

    @model_validator(mode="after")
    def _unknown_is_unknown(self) -> Self:
        if (self.standing == "unknown") != (self.value == "unknown"):
            raise ValueError("value is 'unknown' exactly where standing is")
        return self


class Revision(_Part):
    """A criterion changed after the runs were seen: what it was, and why it changed."""

    was: Any
    why: str


class Claim(_Part):
    """One claim of a paper with its criterion.

    `holm: true` where the clauses compare several factors, so that each is also read alone.
    """

    name: str
    statement: str
    where: str
    published: Published
    shown_in: str
    clauses: Annotated[dict[str, Clause], Field(min_length=1)]
    holm: bool = False
    requires: list[str] = []
    only: list[Profile] | None = None
    untested: str | None = None
    revisions: list[Revision] = []

    @model_validator(mode="after")
    def _holm_is_for_means(self) -> Self:
        if self.holm and (len(self.clauses) < 2 or any(c.kind != "mean" for c in self.clauses.values())):
            raise ValueError("holm compares two clauses or more, all of kind mean")
        return self


class ClaimSet(_Part):
    """All claims of one paper: a `claims.yaml`."""

    paper: str
    title: str
    arxiv: str
    gates: dict[str, str] = {}
    claims: dict[str, Claim]

    @model_validator(mode="after")
    def _grounds_exist_and_come_first(self) -> Self:
        for name, claim in self.claims.items():
            for ground in claim.requires:
                where = f"claims.{name}.requires: {ground!r}"
                if ground not in self.claims and ground not in self.gates:
                    hint = nearest(ground, {*self.claims, *self.gates})
                    raise ValueError(f"{where} is neither a claim nor a gate: {hint}")
                if ground in self.claims and self.claims[ground].shown_in > claim.shown_in:
                    raise ValueError(f"{where} is shown in a later notebook")
        return self


class _OneKeyOnce(yaml.SafeLoader):
    """YAML lets a later key replace an earlier one; here that would drop a claim in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{min(twice)} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_claims(path: str | Path) -> ClaimSet:
    """Read a `claims.yaml`.

    Raises:
        Refusal: no such file, not YAML, or a bad entry; names file, claim and field.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _OneKeyOnce)
        return ClaimSet.model_validate(content)
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise Refusal(f"{path}: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise Refusal(f"{path}: {explain(error, ClaimSet.model_fields)}") from None


class ClauseVerdict(BaseModel):
    """One clause, measured. `low` and `high` are None below two seeds; `level` only where Holm's rule set it."""

    name: str
    measure: str
    unit: str
    kind: str
    holds: Region
    estimate: float
    low: float | None
    high: float | None
    seeds: int
    verdict: Word
    level: float | None = None


class Verdict(BaseModel):
    """A claim, judged: the record behind its box and its line on the scorecard."""

    paper: str
    profile: Profile
    claim: str
    verdict: Word
    reason: str
    clauses: list[ClauseVerdict]
    runs: list[str]
    method: str


def mean_interval(
    effects: np.ndarray, resolution: float = 0.0, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds with its two-sided t interval, 95 % unless told otherwise.

    Args:
        effects: [..., seeds] one effect a seed, at least two.
        resolution: the least half-width, in the effect's unit. Seeds that agree by luck (all at
            100 %, say) must not claim more than their test examples can show.

    Returns:
        [...] estimate, low and high.
    """
    seeds = effects.shape[-1]
    estimate = effects.mean(axis=-1)
    error = effects.std(axis=-1, ddof=1) / np.sqrt(seeds)
    half = np.maximum(stats.t.ppf((1 + level) / 2, seeds - 1) * error, resolution)
    return estimate, estimate - half, estimate + half


def resolution(unit: str, examples: int) -> float:
    """What `examples` test items can resolve: the rule of three, 3/n, in percent; 0 for other units."""
    return 300 / examples if unit in COUNTED_UNITS else 0.0


def holm_levels(least: Mapping[str, float], alpha: float = 0.05) -> dict[str, float]:
    """The confidence level of each clause's interval under Holm's step-down rule.

    Args:
        least: clause -> the least significance level at which its interval still touches a border, so the
            p-value of the test that it lies on one side. alpha: chance of any false decision.

    Returns:
        Clause -> level. The clearest clause is judged at 1 - alpha / m, the next at 1 - alpha / (m - 1) and so
        on; from the first that fails at its level, all later ones keep that level, and fail too.
    """
    ordered = sorted(least, key=least.__getitem__)
    levels: dict[str, float] = {}
    share, failed = alpha, False
    for rank, name in enumerate(ordered):
        if not failed:
            share = alpha / (len(ordered) - rank)
            failed = least[name] >= share
        levels[name] = 1 - share
    return levels


def _least_level(effects: np.ndarray, holds: Region, resolution: float) -> float:
    """The significance level at which the interval of the mean just touches the region's nearest border."""
    if effects.size < 2:
        return 1.0
    distance = min(abs(effects.mean() - border) for border in holds.borders)
    error = effects.std(ddof=1) / np.sqrt(effects.size)
    if distance <= resolution:
        return 1.0
    return float(2 * stats.t.sf(distance / error, effects.size - 1)) if error > 0 else 0.0


class Court:
    """Judges the claims of one paper for one profile and records the verdicts.

    Args:
        claims: default the paper's `claims.yaml`.
        store: where verdicts lie: `<root>/verdicts/<paper>/<profile>/<claim>.json`.
    """

    def __init__(
        self, paper: str, profile: Profile, claims: ClaimSet | None = None, store: Store | None = None
    ) -> None:
        self.paper = paper
        self.profile = profile
        self.claims = claims or load_claims(ROOT / "notebooks" / paper / "claims.yaml")
        self.store = store or Store()
        self._judged: set[str] = set()

    def judge(
        self,
        claim: str,
        effects: Effects,
        *,
        rests_on: pd.DataFrame | Iterable[pd.DataFrame],
        examples: int | None = None,
        gates: Mapping[str, bool] | None = None,
    ) -> Verdict:
        """Judge a claim by the effects measured, and record the verdict.

        For `kind: mean` the interval is the 95 % two-sided t interval over seeds, never narrower
        than what `examples` can resolve. The chance of a false "reproduced" with the truth on the
        border is 2.5 % for normal effects (`false_reproduced_rate` measures it). For `kind: share`
        it is the 90 % Clopper-Pearson interval over seeds: at most 5 %. Holm's rule, where the claim
        asks for it, makes the t intervals wider.

        Args:
            effects: clause name -> one effect a seed.
            rests_on: the table, or tables, of runs that the effects were computed from.
            examples: test items behind one effect; needed where a clause's unit is "%" or "pp".
            gates: gate name -> whether it passed, for the gates that the claim requires.

        Raises:
            Refusal: unknown claim, a clause missing or unknown, effects that are not finite, or, in
                the book build (NTF_RECORDED_ONLY=1), a verdict other than the recorded one.
        """
        entry = self._entry(claim)
        self._check_effects(claim, effects, examples)
        for gate in (gates or {}).keys() - self.claims.gates:
            raise Refusal(f"{self.paper} has no gate {gate!r}: {nearest(gate, self.claims.gates)}")
        values = {name: np.asarray(effects[name], dtype=float) for name in entry.clauses}
        levels = self._levels(entry, values, examples)
        clauses = [
            self._weigh(name, clause, values[name], examples, levels.get(name))
            for name, clause in entry.clauses.items()
        ]
        obstacle = self._obstacle(claim, gates or {}, min(clause.seeds for clause in clauses))
        if obstacle:
            clauses = [clause.model_copy(update={"verdict": "not tested"}) for clause in clauses]
        word, reason = ("not tested", obstacle) if obstacle else _conclude(clauses)
        tables = [rests_on] if isinstance(rests_on, pd.DataFrame) else rests_on
        runs = sorted({key for table in tables for key in table["key"]})
        return self._record(claim, word, reason, clauses, runs)

    def not_tested(self, claim: str, reason: str | None = None) -> Verdict:
        """Record that this profile does not test the claim; the reason defaults to the claim's `untested`."""
        reason = reason or self._entry(claim).untested
        if not reason:
            raise Refusal(f"{self.paper} {claim}: say why it is not tested, here or in claims.yaml (untested)")
        return self._record(claim, "not tested", reason, [], [])

    def _entry(self, claim: str) -> Claim:
        if claim not in self.claims.claims:
            raise Refusal(f"{self.paper} has no claim {claim!r}: {nearest(claim, self.claims.claims)}")
        return self.claims.claims[claim]

    def _check_effects(self, claim: str, effects: Effects, examples: int | None) -> None:
        clauses = self.claims.claims[claim].clauses
        for name in clauses.keys() ^ effects.keys():
            fault = "has no effects" if name in clauses else "is not in claims.yaml"
            raise Refusal(f"{self.paper} {claim}: clause {name!r} {fault}")
        for name, clause in clauses.items():
            where = f"{self.paper} {claim}, clause {name!r}"
            values = np.asarray(effects[name], dtype=float)
            if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
                raise Refusal(f"{where}: effects are one finite number a seed, not {list(effects[name])!r}")
            if clause.kind == "share" and not np.isin(values, (0, 1)).all():
                raise Refusal(f"{where}: a share is judged on 0 or 1 a seed, not {values.tolist()}")
            if clause.kind == "mean" and clause.unit in COUNTED_UNITS and not examples:
                raise Refusal(f"{where}: in {clause.unit}, so say how many test items an effect has: examples=…")

    def _levels(self, entry: Claim, values: Mapping[str, np.ndarray], examples: int | None) -> dict[str, float]:
        """The level of each clause's interval where Holm's rule sets it; empty elsewhere."""
        if not entry.holm:
            return {}
        return holm_levels({
            name: _least_level(values[name], clause.holds, resolution(clause.unit, examples or 1))
            for name, clause in entry.clauses.items()
        })  # fmt: skip

    def _weigh(
        self, name: str, clause: Clause, values: np.ndarray, examples: int | None, level: float | None
    ) -> ClauseVerdict:
        low = high = None
        word: Word = "not tested"
        if clause.kind == "share":
            scale = 100 if clause.unit in COUNTED_UNITS else 1
            interval = stats.binomtest(int(values.sum()), values.size).proportion_ci(0.90, method="exact")
            estimate, low, high = scale * values.mean(), scale * interval.low, scale * interval.high
        elif values.size == 1:
            estimate = values[0]
        else:
            estimate, low, high = mean_interval(values, resolution(clause.unit, examples or 1), level or 0.95)
        if low is not None:
            word = clause.holds.verdict(low, high)
            low, high = _six(low), _six(high)
        return ClauseVerdict(
            name=name, measure=clause.measure, unit=clause.unit, kind=clause.kind, holds=clause.holds,
            estimate=_six(estimate), low=low, high=high, seeds=values.size, verdict=word, level=level and _six(level),
        )  # fmt: skip

    def _obstacle(self, claim: str, gates: Mapping[str, bool], seeds: int) -> str | None:
        """Why the claim cannot be judged, whatever its effects; None where it can."""
        entry = self._entry(claim)
        for ground in entry.requires:
            required = self.claims.claims.get(ground)
            if required and required.shown_in == entry.shown_in and ground not in self._judged:
                # a record of it may lie there, but from an earlier day
                raise Refusal(f"{self.paper} {claim} rests on {ground}: judge {ground} first")
        if self.profile == "smoke":
            return "smoke runs only prove that the code runs"
        if entry.only and self.profile not in entry.only:
            return entry.untested or f"only the {' or '.join(entry.only)} profile can test it"
        for ground in entry.requires:
            if ground in self.claims.gates and not gates.get(ground, False):
                state = "failed" if ground in gates else "was not measured"
                return f"the gate {ground} {state}: {self.claims.gates[ground]}"
            if ground in self.claims.claims:
                recorded = self.recorded(ground)
                if recorded is None or recorded.verdict != "reproduced":
                    state = recorded.verdict if recorded else "not judged yet"
                    return f"it rests on {ground}, which is {state}"
        if seeds < FEWEST_SEEDS:
            return f"{seeds} seed{'s' * (seeds > 1)}: an interval needs at least {FEWEST_SEEDS}"
        return None

    def recorded(self, claim: str) -> Verdict | None:
        """The recorded verdict on a claim in this profile; None where there is none.

        Raises:
            Refusal: the file is damaged.
        """
        path = self._path(claim)
        try:
            return Verdict.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise Refusal(f"{path} is damaged: delete it and run the notebook again") from None

    def _path(self, claim: str) -> Path:
        return self.store.root / "verdicts" / self.paper / self.profile / f"{claim}.json"

    def _record(self, claim: str, word: Word, reason: str, clauses: list[ClauseVerdict], runs: list[str]) -> Verdict:
        kinds = sorted({clause.kind for clause in clauses})
        kinds += ["holm"] if any(clause.level for clause in clauses) else []
        verdict = Verdict(
            paper=self.paper, profile=self.profile, claim=claim, verdict=word, reason=reason, clauses=clauses,
            runs=runs, method="; ".join(METHOD[kind] for kind in kinds),
        )  # fmt: skip
        before = self.recorded(claim)
        if verdict != before:
            if os.environ.get("NTF_RECORDED_ONLY") == "1":
                was = f"recorded is {before.verdict!r}, with other numbers" if before else "none is recorded"
                raise Refusal(f"{self.paper} {claim}: the verdict drifted: now {word!r}, {was}")
            text = json.dumps(verdict.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
            write_atomically(self._path(claim), text)
        self._judged.add(claim)
        return verdict


def _conclude(clauses: list[ClauseVerdict]) -> tuple[Word, str]:
    """The claim's verdict from its clauses', with the reason in one sentence."""
    for word in ("contradicted", "inconclusive"):
        names = [clause.name for clause in clauses if clause.verdict == word]
        if names:
            where = "lies outside" if word == "contradicted" else "straddles the border of"
            return word, f"the interval of {', '.join(names)} {where} the region where the claim holds"
    return "reproduced", "every interval lies in the region where the claim holds"


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def false_reproduced_rate(
    seeds: int, *, spread: float = 1.0, accuracy: float | None = None, examples: int = 2000,
    trials: int = 100_000, random_seed: int = 0,
) -> float:  # fmt: skip
    """How often "reproduced" is said, by simulation, when the truth lies exactly on the border.

    The clause is `above: border` with the truth at the border: the worst case among truths for
    which it does not hold.

    Args:
        seeds: runs a trial.
        spread: standard deviation between seeds (percentage points where `accuracy` is given; the
            rate does not depend on it otherwise).
        accuracy: None for normal effects; else the true mean accuracy in percent: each seed's own
            accuracy is then Beta-distributed about it, and measured on `examples` test items.
        trials: simulated claims; the Monte-Carlo error of a rate near 2.5 % is 0.05 points at 100,000.
    """
    generator = np.random.default_rng(random_seed)
    if accuracy is None:
        border, least = 0.0, 0.0
        effects = generator.normal(0.0, spread, (trials, seeds))
    else:
        border, least = accuracy, resolution("%", examples)
        mean = accuracy / 100
        weight = mean * (1 - mean) / (spread / 100) ** 2 - 1  # Beta(mean w, (1 - mean) w) has that spread
        own = generator.beta(mean * weight, (1 - mean) * weight, (trials, seeds))
        effects = 100 * generator.binomial(examples, own) / examples
    _, low, _ = mean_interval(effects, least)
    return float((low > border).mean())
