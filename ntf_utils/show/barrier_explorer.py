"""The explorer of the chapter on linear mode connectivity: walk along the line between two networks.

The states that it shows come from recorded runs:

    {"classes": ["T-shirt/top", ...],
     "truth": [0, 0, ...],                     class of each test image that is shown, class by class
     "settings": [{"title": "dense, lr 0.1",
                   "pairs": [{"kind": "order",           or "independent", "same"
                              "alphas": [0, 0.1, ..., 1],
                              "loss": [...], "error": [...],       on the training images
                              "test_error": [...],                 on all test images
                              "changed": [...],  share of all test images with another label than at alpha = 0
                              "said": [[3, 0, ...], ...]}]}]}      [alpha][image] predicted class

The images themselves are not part of a page: a tile shows what an image is called. Jupyter's view shows the pixels
too, where the data set is at hand.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ntf_utils.refusal import Refusal
from ntf_utils.show import barrier_picture
from ntf_utils.show.explorer import Explorer, choice, page_html

if TYPE_CHECKING:
    import ipywidgets

    from ntf_utils.show.barrier_live import LivePairs

TITLE = "Barrier explorer: the loss between two networks, and which test images change their label"
NOTE = (
    "Each tile is a test image, in the row of its true class; it shows the class that the network at this point of "
    "the path predicts. Dashed orange: that class is wrong. Thick frame: another class than at the start of the path."
)


class BarrierExplorer(Explorer):
    """Settings, pairs and a slider along the path; curves and tiles follow it.

    Args:
        states: see the module.
        live: makes the model that Jupyter's view computes with; called when it is first needed.

    Raises:
        Refusal: there is no setting, or the lists of a pair do not fit together.
    """

    def __init__(self, states: dict, live: "Callable[[], LivePairs] | None" = None) -> None:
        _check(states)
        self.states = states
        self.live = live

    def __repr__(self) -> str:
        lines = [f"Barrier explorer: {len(self.states['truth'])} test images; highest loss on the path, nats:"]
        for setting in self.states["settings"]:
            heights = (f"{barrier_picture.KINDS[p['kind']]} {max(p['loss']):.3f}" for p in setting["pairs"])
            lines.append(f"  {setting['title']}: {'; '.join(heights)}")
        return "\n".join(lines)

    def page(self) -> str:
        setting = self.states["settings"][0]
        pair = setting["pairs"][0]
        at = len(pair["alphas"]) // 2
        kinds = [barrier_picture.KINDS[pair["kind"]] for pair in setting["pairs"]]
        controls = choice("setting", "Setting", [s["title"] for s in self.states["settings"]])
        controls += choice("pair", "Networks", kinds)
        body = (
            f'<div class="controls">{controls}</div>{_slider(pair["alphas"], at)}'
            f"{barrier_picture.panel(self.states, pair, at)}"
            f'<p class="reading" aria-live="polite">{escape(barrier_picture.summary(setting, pair, at))}</p>'
            f'<p class="note">{NOTE}</p>'
        )
        return page_html("barrier_explorer", TITLE, body, self._page_data(at))

    def live_view(self) -> "ipywidgets.Widget | None":
        if self.live is None:
            return None
        from ntf_utils.show.barrier_live import BarrierView

        return BarrierView(self.states, self.live).widget

    def _page_data(self, at: int) -> dict:
        """The states in the form that the script reads."""
        names = ("alphas", "loss", "error", "test_error", "changed", "said")
        settings = [
            {"title": setting["title"], "pairs": [{n: pair[n] for n in names} | {
                "title": barrier_picture.KINDS[pair["kind"]], "curve": barrier_picture.curve(pair),
                "top": barrier_picture.top_text(pair),
            } for pair in setting["pairs"]]}
            for setting in self.states["settings"]
        ]  # fmt: skip
        return {"at": at, "classes": self.states["classes"], "truth": self.states["truth"], "settings": settings}


def _check(states: dict) -> None:
    """Refuses lists whose lengths do not fit, which a page would show as a dead slider."""
    if not states["settings"]:
        raise Refusal("barrier explorer: there is no setting to show")
    kinds = [[pair["kind"] for pair in setting["pairs"]] for setting in states["settings"]]
    for setting in states["settings"]:
        where = f"barrier explorer: {setting['title']!r}"
        if [pair["kind"] for pair in setting["pairs"]] != kinds[0]:
            raise Refusal(f"{where} must have the pairs {kinds[0]}")
        for pair in setting["pairs"]:
            points = len(pair["alphas"])
            names = ("loss", "error", "test_error", "changed", "said")
            if any(len(pair[name]) != points for name in names):
                raise Refusal(f"{where}: every list of {pair['kind']!r} must have {points} points")
            if any(len(said) != len(states["truth"]) for said in pair["said"]):
                raise Refusal(f"{where}: {pair['kind']!r} must say a class for each of {len(states['truth'])} images")


def _slider(alphas: list[float], at: int) -> str:
    return (
        '<div class="time"><button type="button" class="play">Play</button>'
        f'<input type="range" min="0" max="{len(alphas) - 1}" value="{at}" aria-label="Position on the path">'
        f"<output>α = {alphas[at]:.2f}</output></div>"
    )
