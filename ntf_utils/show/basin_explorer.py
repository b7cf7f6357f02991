"""The explorer of the chapter on a single basin: how tightly an ensemble is held together, and how its members vote.

The states that it shows come from recorded runs:

    {"classes": ["airplane", ...],
     "truth": [0, 0, ...],                    class of each test image that is shown, class by class
     "reference": {a stop},                   the deep ensemble
     "sweeps": [{"title": "spawn time",
                 "stops": [{"title": "branches part at 20 %", "value": 0.2,
                            "alphas": [0, 0.1, ..., 1], "loss": [...],   mean over all pairs of members
                            "nll": 1.73, "joint": 0.01, "disagreement": 0.2,
                            "said": [[3, 0, ...], ...]}]}]}              [member][image] predicted class

The images themselves are not part of a page. Jupyter's view shows the pixels too, where the data set is at hand.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ntf_utils.refusal import Refusal
from ntf_utils.show import basin_picture
from ntf_utils.show.explorer import Explorer, choice, page_html

if TYPE_CHECKING:
    import ipywidgets

    from ntf_utils.show.basin_live import LiveEnsembles

TITLE = "Basin explorer: how tightly an ensemble is held together, and how its members vote"
NOTE = (
    "Each tile is a test image, in the row of its true class; it shows what the members say, with the number of votes "
    "where they differ (thick frame). Dashed orange: the class with most votes is wrong."
)


class BasinExplorer(Explorer):
    """Sweeps, and a slider over the settings of each; curve and votes follow it.

    Args:
        states: see the module.
        live: makes the model that Jupyter's view computes with; called when it is first needed.

    Raises:
        Refusal: there is nothing to show, or the lists of a stop do not fit together.
    """

    def __init__(self, states: dict, live: "Callable[[], LiveEnsembles] | None" = None) -> None:
        _check(states)
        self.states = states
        self.live = live

    def __repr__(self) -> str:
        lines = [f"Basin explorer: {len(self.states['truth'])} test images; joint barrier and NLL, nats:"]
        for sweep in self.states["sweeps"]:
            found = (f"{stop['title']} {stop['joint']:.3f}, {stop['nll']:.3f}" for stop in sweep["stops"])
            lines.append(f"  {sweep['title']}: {'; '.join(found)}")
        return "\n".join(lines)

    def page(self) -> str:
        sweep = self.states["sweeps"][0]
        stop = sweep["stops"][0]
        body = (
            f'<div class="controls">{choice("sweep", "Change", [s["title"] for s in self.states["sweeps"]])}</div>'
            '<div class="time"><button type="button" class="play">Play</button>'
            f'<input type="range" min="0" max="{len(sweep["stops"]) - 1}" value="0" aria-label="Setting">'
            f"<output>{escape(stop['title'])}</output></div>"
            f"{basin_picture.panel(self.states, stop)}"
            f'<p class="reading" aria-live="polite">{escape(basin_picture.summary(self.states, stop))}</p>'
            f'<p class="note">{NOTE}</p>'
        )
        return page_html("basin_explorer", TITLE, body, self._page_data())

    def live_view(self) -> "ipywidgets.Widget | None":
        if self.live is None:
            return None
        from ntf_utils.show.basin_live import BasinView

        return BasinView(self.states, self.live).widget

    def _page_data(self) -> dict:
        """The states in the form that the script reads: every text is made here."""
        top, images = basin_picture.top_of(self.states), range(len(self.states["truth"]))

        def drawn(stop: dict) -> dict:
            tiles = [basin_picture.votes(self.states, stop, image) for image in images]
            return {"title": stop["title"], "curve": basin_picture.curve(stop, top),
                    "reading": basin_picture.summary(self.states, stop), "tiles": [list(tile) for tile in tiles]}

        return {"sweeps": [[drawn(stop) for stop in sweep["stops"]] for sweep in self.states["sweeps"]]}


def _check(states: dict) -> None:
    """Refuses lists whose lengths do not fit, which a page would show as a dead slider."""
    if not states["sweeps"] or not all(len(sweep["stops"]) >= 2 for sweep in states["sweeps"]):
        raise Refusal("basin explorer: every sweep needs two settings or more to move between")
    for stop in [states["reference"], *(stop for sweep in states["sweeps"] for stop in sweep["stops"])]:
        where = f"basin explorer: {stop['title']!r}"
        if len(stop["alphas"]) != len(stop["loss"]) or len(stop["loss"]) < 2:
            raise Refusal(f"{where} must have a loss at every position")
        if len(stop["said"]) < 2 or any(len(said) != len(states["truth"]) for said in stop["said"]):
            raise Refusal(f"{where}: two members or more must say a class for each of {len(states['truth'])} images")
