"""How the book's figures look: one matplotlib style and one colour a method, all through the book.

Colours are Okabe & Ito's set (https://jfly.uni-koeln.de/color/), which stays apart for colour-blind readers
and in grey. Colour is never the only sign: figures label their lines directly.
"""

import matplotlib
from cycler import cycler

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#767676"

# method -> colour; a method that returns in another chapter keeps its colour
COLOURS = {
    "next_token": VERMILLION,
    "reversed": GREEN,
    "teacherless": BLUE,
    "hop_only": ORANGE,
    "transformer": BLACK,
    "mamba": PURPLE,
    "pretrained": SKY,
    "control": GREY,  # controls that must fail, e.g. shuffled labels
    "shuffled": GREY,
    "chance": GREY,
    "order": BLUE,  # copies of one initialisation trained on different orders
    "independent": GREY,  # networks from different initialisations: the control that must be far apart
    "same": BLACK,  # copies trained in the same order: the control that must coincide
    "logistic": BLUE,  # probes of a concept: logistic regression
    "difference": ORANGE,  # difference in means
    "principal": GREEN,  # first principal component
    "fit": VERMILLION,  # a fitted curve through measured points
    "predicted": SKY,  # where a prediction made before the runs lies
    "student": BLUE,
    "teacher": VERMILLION,  # a network at its random start that another one learns from
    "pixels": BLACK,  # a probe on the raw images: what features have to beat
    "noise": GREY,  # the control that learns from noise
    "benign": BLUE,  # random labels memorised with augmentation
    "malign": VERMILLION,  # without
    "true labels": GREEN,  # the control that must learn
    "paper": BLACK,  # a number of the paper, drawn as an open marker or a dotted line
}

_STYLE = {
    "figure.figsize": (6.6, 3.6),
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=[BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK]),
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.fonttype": "path",  # the same picture on every machine, whatever fonts it has
    "svg.hashsalt": "claim-by-claim",  # the same figure gives the same bytes
}


def use_style() -> None:
    """Sets the book's matplotlib style; in a notebook, figures also become SVG without a date."""
    matplotlib.rcParams.update(_STYLE)
    if _in_notebook():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg", metadata={"Date": None})


def _in_notebook() -> bool:
    """Whether a kernel runs this; asking for the formats outside one would start a shell."""
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
