"""The live face of the room explorer, for Jupyter: any room by its seed, any question, answered by the networks.

Rooms are made and networks asked in the background: of several requests the newest wins, and an error is shown in the
view. A question may be chosen from those that have an answer beyond doubt, or typed; what is right is looked up in the
attributes of the things.
"""

import time
from collections.abc import Callable
from html import escape
from typing import Any, NamedTuple, Protocol

import ipywidgets
import numpy as np

from ntf_utils.data.room_language import answer, possible_questions
from ntf_utils.data.rooms import Cloud, Room, make_room, sample
from ntf_utils.refusal import Refusal
from ntf_utils.show import room_picture as picture
from ntf_utils.show.explorer import style_html
from ntf_utils.show.live_training import status_html, wrapped
from ntf_utils.show.newest import Newest

PAIRS = {"pairs that training asked about": "seen", "pairs it never asked about": "held-out", "all pairs": "all"}
POINTS = 24_000  # of a room that is drawn
LIVE_SEEDS = 1_000_007  # the first number of a live room's seed, where the chapter's rooms have small ones


class LiveRooms(Protocol):
    """What the live face needs."""

    def boxes(self, room: Room) -> np.ndarray:
        """[p, 6] the proposals that the networks see in a room."""

    def ask(self, room: Room, text: str) -> list[dict[str, Any]]:
        """What each arm of the explorer's states answers: answer, sure, looks (a proposal) and share.

        Raises:
            Refusal: no question at all, or one that is too long.
        """


class Request(NamedTuple):
    seed: int
    pairs: str
    text: str
    turn: float
    tilt: float


class Shown(NamedTuple):
    """What was answered, kept so that a turn of the room asks nobody again."""

    room: Room
    entry: dict
    cloud: Cloud
    question: dict | None
    picture: bytes
    seconds: float
    refused: str


class RoomView:
    """The widgets and what they do. `widget` is the whole view."""

    def __init__(self, states: dict, live: Callable[[], LiveRooms]) -> None:
        self._arms, self._make_live = states["arms"], live
        self._model: LiveRooms | None = None
        self._rooms: dict[tuple[int, str], tuple[Room, dict, Cloud]] = {}  # the last one made
        self._asked: dict[tuple[int, str, str], tuple[dict | None, str]] = {}
        self._quiet = False  # while controls are set by the view itself
        self._newest = Newest(self._answered, self._show, self._say_error)

        self.seed = ipywidgets.BoundedIntText(value=0, min=0, max=10**6, description="Room", tooltip="any number")
        self.pairs = ipywidgets.Dropdown(options=PAIRS, value="held-out", description="Things of")
        self.question = ipywidgets.Combobox(
            description="Question", placeholder="choose or type one", continuous_update=False,
            layout=ipywidgets.Layout(width="30em"),
        )  # fmt: skip
        self.turn = ipywidgets.IntSlider(value=20, min=0, max=360, step=5, description="Turn", readout_format="d")
        self.tilt = ipywidgets.IntSlider(value=picture.TILT, min=4, max=88, description="From above")
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.status, self.answers = ipywidgets.HTML(), ipywidgets.HTML()
        self.widget = ipywidgets.VBox([
            wrapped(self.seed, self.pairs, self.question), wrapped(self.turn, self.tilt, self.status), self.image,
            self.answers,
        ])  # fmt: skip
        for control in (self.seed, self.pairs):
            control.observe(lambda change: self._new_room(), "value")
        for control in (self.question, self.turn, self.tilt):
            control.observe(lambda change: self._ask(), "value")
        self._ask()

    def _new_room(self) -> None:
        """Another room has other questions: the first of them is asked."""
        self._quiet = True
        try:
            self.question.value = ""
        finally:
            self._quiet = False
        self._ask()

    def _ask(self) -> None:
        if self._quiet:
            return
        self._say("Computing …")
        request = Request(self.seed.value, self.pairs.value, self.question.value, self.turn.value, self.tilt.value)
        self._newest.ask(request)

    # in the thread

    def _answered(self, request: Request) -> Shown:
        began = time.perf_counter()
        if self._model is None:
            self._model = self._make_live()
        room, entry, cloud = self._room(request)
        text = request.text.strip() or entry["asks"][0]
        key = (request.seed, request.pairs, text)
        if key not in self._asked:
            self._asked = {key: self._question(room, entry["boxes"], text)}
        question, refused = self._asked[key]
        png = picture.image(cloud, entry, question, request.turn, request.tilt)
        return Shown(room, entry, cloud, question, png, time.perf_counter() - began, refused)

    def _room(self, request: Request) -> tuple[Room, dict, Cloud]:
        key = (request.seed, request.pairs)
        if key not in self._rooms:
            room = make_room((LIVE_SEEDS, 0, request.seed), request.pairs, name=f"room {request.seed}")
            entry = picture.shown_room(room, self._model.boxes(room), f"{room.kind} {request.seed}")
            entry["asks"] = list(dict.fromkeys(question.text for question in possible_questions(room)))
            cloud = sample(room, POINTS, np.random.default_rng(0), shell=0.4)
            self._rooms = {key: (room, entry, cloud)}
        return self._rooms[key]

    def _question(self, room: Room, boxes: list, text: str) -> tuple[dict | None, str]:
        """The question as a state of the explorer, and why it has no right answer, where it has none."""
        said = self._model.ask(room, text)
        wanted = [each.objects[0] for each in possible_questions(room) if each.text == text and each.objects]
        try:
            right, refused = answer(room, text), ""
        except Refusal as reason:
            right, refused = (), str(reason)
        said = [one | {"right": (one["answer"] in right) if right else None} for one in said]
        place = picture.box_of(room.things[wanted[0]], boxes) if wanted else -1
        return {"text": text, "answers": list(right), "object": place, "said": said}, refused

    def _show(self, shown: Shown) -> None:
        self._quiet = True
        try:
            self.question.options = tuple(shown.entry["asks"])
            if not self.question.value:
                self.question.value = shown.question["text"]
        finally:
            self._quiet = False
        self.image.value = shown.picture
        told = picture.sentence(self._arms, shown.entry, shown.question)
        why = f'<p class="note">{escape(shown.refused)}</p>' if shown.refused else ""
        self.answers.value = (
            f'{style_html("room_explorer")}<div class="explorer room-explorer">'
            f"{picture.answers(self._arms, shown.entry, shown.question)}{why}"
            f'<p class="reading" aria-live="polite">{escape(told)}</p>{picture.inventory(shown.entry)}</div>'
        )
        self._say(f"live, {1000 * shown.seconds:.0f} ms")

    def _say_error(self, error: Exception) -> None:
        self._say(f"{type(error).__name__}: {error}", alarm=True)

    def _say(self, sentence: str, alarm: bool = False) -> None:
        self.status.value = status_html(sentence, alarm)
