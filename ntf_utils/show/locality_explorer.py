"""The explorer of the chapter on random teachers: how near to its teacher does the student start?

The states that it shows come from recorded runs of one seed:

    {"classes": ["airplane", ...], "truth": [0, 0, ...],       class of each test image that is shown, class by class
     "pixels": {"converged": 37.1, ...},                       accuracy of each probe on pixels, percent
     "teacher": {"accuracy": {"converged": 35.2, ...}, "said": [3, 0, ...]},
     "settings": [{"locality": 0.1, "steps": [0, 400, ...],
                   "accuracy": {"converged": [35.2, ...], ...},    at each of the steps
                   "said": [3, 0, ...]}]}        label voted by the nearest training images, at the end

The images themselves are not part of a page: a tile shows what an image is called. Jupyter's view shows the pixels
too, where the data set is at hand.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ntf_utils.papers.random_teachers.effects import NAMES
from ntf_utils.refusal import Refusal
from ntf_utils.show import locality_picture
from ntf_utils.show.explorer import Explorer, choice, page_html

if TYPE_CHECKING:
    import ipywidgets

    from ntf_utils.show.locality_live import LiveStudent

TITLE = "Locality explorer: what a student learns, by how near to its teacher it starts"
NOTE = (
    "Locality 0 starts at the teacher, 1 independently of it. Each tile is a test image, in the row of its true class; "
    "it shows the class that its nearest training images vote for, in the student's features at the end. Dashed "
    "orange: that class is wrong. Thick frame: the teacher's features vote otherwise."
)


class LocalityExplorer(Explorer):
    """A slider over locality and a choice of probe; curves and tiles follow them.

    Args:
        states: see the module.
        live: makes the model that Jupyter's view computes with; called when it is first needed.

    Raises:
        Refusal: there is no setting, or the lists of a setting do not fit together.
    """

    def __init__(self, states: dict, live: "Callable[[], LiveStudent] | None" = None) -> None:
        _check(states)
        self.states = states | {"settings": sorted(states["settings"], key=lambda setting: setting["locality"])}
        self.live = live

    def __repr__(self) -> str:
        lines = [f"Locality explorer: {len(self.states['truth'])} test images; accuracy at the end, %:"]
        for setting in self.states["settings"]:
            ends = (f"{NAMES[probe]} {setting['accuracy'][probe][-1]:.1f}" for probe in setting["accuracy"])
            lines.append(f"  locality {setting['locality']:g}: {'; '.join(ends)}")
        return "\n".join(lines)

    def page(self) -> str:
        setting, probe = self.states["settings"][0], next(iter(self.states["pixels"]))
        body = (
            f'<div class="controls">{choice("probe", "Probe", [NAMES[name] for name in self.states["pixels"]])}</div>'
            f"{_slider(self.states['settings'])}{locality_picture.panel(self.states, setting, probe)}"
            f'<p class="reading" aria-live="polite">'
            f"{escape(locality_picture.summary(self.states, setting, probe))}</p>"
            f'<p class="note">{NOTE}</p>'
        )
        return page_html("locality_explorer", TITLE, body, self._page_data())

    def live_view(self) -> "ipywidgets.Widget | None":
        if self.live is None:
            return None
        from ntf_utils.show.locality_live import LocalityView

        return LocalityView(self.states, self.live).widget

    def _page_data(self) -> dict:
        """The states in the form that the script reads: every curve drawn, every sentence written."""
        states, probes = self.states, list(self.states["pixels"])
        levels = {"teacher": states["teacher"]["accuracy"], "pixels": states["pixels"]}
        return {
            "classes": states["classes"], "truth": states["truth"], "taught": states["teacher"]["said"],
            "probes": [{
                "axis": locality_picture.axis_text(states, probe),
                "levels": {
                    name: f"{locality_picture.height(states, probe, found[probe]):.1f}"
                    for name, found in levels.items()
                },
            } for probe in probes],
            "settings": [{
                "name": f"{setting['locality']:g}", "said": setting["said"],
                "curves": [locality_picture.curve(states, setting, probe) for probe in probes],
                "words": [locality_picture.summary(states, setting, probe) for probe in probes],
            } for setting in states["settings"]],
        }  # fmt: skip


def _check(states: dict) -> None:
    """Refuses lists whose lengths do not fit, which a page would show as a dead slider."""
    if not states["settings"]:
        raise Refusal("locality explorer: there is no setting to show")
    probes, images = set(states["pixels"]), len(states["truth"])
    if set(states["teacher"]["accuracy"]) != probes or len(states["teacher"]["said"]) != images:
        raise Refusal(f"locality explorer: the teacher needs {len(probes)} accuracies and {images} labels")
    for setting in states["settings"]:
        where = f"locality explorer: locality {setting['locality']:g}"
        if set(setting["accuracy"]) != probes:
            raise Refusal(f"{where} must have the probes {', '.join(sorted(probes))}")
        if any(len(values) != len(setting["steps"]) for values in setting["accuracy"].values()):
            raise Refusal(f"{where}: every curve must have {len(setting['steps'])} points")
        if len(setting["said"]) != images:
            raise Refusal(f"{where} must say a class for each of {images} images")


def _slider(settings: list[dict]) -> str:
    return (
        f'<div class="time"><span class="from">at the teacher</span><input type="range" min="0" '
        f'max="{len(settings) - 1}" value="0" aria-label="Locality, the distance of the start from the teacher">'
        f"<output>locality {settings[0]['locality']:g}</output></div>"
    )
