"""The explorer of the chapter on CLIP-guided pre-training: a room to turn, a question, and what each arm answers.

The states that it shows come from a recorded run:

    {"arms": [{"name": "S", "title": "from scratch"}, ...],
     "rooms": [{"title": "bedroom 3", "note": "with pairs that no question had",
                "floor": [5.1, 4.4],                           metres, across and along
                "points": [[x, y, z], ...],                    metres, of a scan
                "colours": [[r, g, b], ...],                   in [0, 1]
                "things": ["a large red bed behind the lamp", ...],   in words, for readers who do not see them
                "boxes": [[cx, cy, cz, dx, dy, dz], ...],      the proposals that the networks see
                "names": ["large red bed", ...],               what each proposal truly is
                "questions": [{"text": "what colour is the bed ?", "answers": ["red"],    that count as right
                               "object": 2,                    proposal of the thing asked for, -1 for none
                               "said": [{"answer": "blue", "right": False, "sure": 0.4,   by arm
                                         "looks": 2, "share": 0.9}, ...]}, ...]}, ...]}   proposal and its softmax

Points come from generated rooms only. Questions and answers may be typed by a reader, so all text is escaped.
"""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ntf_utils.refusal import Refusal
from ntf_utils.show import room_picture as picture
from ntf_utils.show.explorer import Explorer, page_html

if TYPE_CHECKING:
    import ipywidgets

    from ntf_utils.show.room_live import LiveRooms

TITLE = "Room explorer: a question about a room, and what differently trained networks answer"
NOTE = (
    "Drag the room, or give it the focus and use the arrow keys; + and - move nearer and away. The notch in the floor "
    "is the door: left and right in a question are seen from there. A dashed box with a letter is what that network "
    "looks at: the object to which its localisation head gives the highest share. The plain box is the thing that was "
    "asked for. Percentages behind an answer are the network's own confidence."
)


class RoomExplorer(Explorer):
    """A room and a question to choose; the room turns, and each arm's answer stands beside the right one.

    Args:
        states: see the module.
        live: makes the model that Jupyter's view asks; called when it is first needed.

    Raises:
        Refusal: there is nothing to show, or the parts of a room do not fit together.
    """

    def __init__(self, states: dict, live: "Callable[[], LiveRooms] | None" = None) -> None:
        _check(states)
        self.states = states
        self.live = live

    def __repr__(self) -> str:
        asked = [question for room in self.states["rooms"] for question in room["questions"]]
        lines = [f"Room explorer: {len(self.states['rooms'])} rooms, {len(asked)} questions; right answers:"]
        for place, arm in enumerate(self.states["arms"]):
            right = sum(question["said"][place]["right"] for question in asked)
            lines.append(f"  {arm['title']}: {right} of {len(asked)}")
        return "\n".join(lines)

    def page(self) -> str:
        room = self.states["rooms"][0]
        question = room["questions"][0]
        body = (
            f'<div class="controls">{_select("Room", "room", [_title(each) for each in self.states["rooms"]])}'
            f"{_select('Question', 'question', [each['text'] for each in room['questions']])}</div>"
            '<canvas class="room" tabindex="0" role="img" width="640" height="480" '
            f'aria-label="{escape(picture.alt_text(room))}"></canvas>'
            '<div class="time"><button type="button" class="play">Play</button>'
            f'<input type="range" min="0" max="{picture.STOPS - 1}" value="{picture.FIRST_STOP}" '
            f'aria-label="Turn the room"><output>{picture.turned(picture.FIRST_STOP)}</output></div>'
            f"{picture.answers(self.states['arms'], room, question)}"
            f'<p class="reading" aria-live="polite">{escape(picture.sentence(self.states["arms"], room, question))}</p>'
            f"{picture.inventory(room)}"
            f'<p class="note">{NOTE}</p>'
        )
        return page_html("room_explorer", TITLE, body, self._page_data())

    def live_view(self) -> "ipywidgets.Widget | None":
        if self.live is None:
            return None
        from ntf_utils.show.room_live import RoomView

        return RoomView(self.states, self.live).widget

    def _page_data(self) -> dict:
        """The states in the form that the script reads: every text is made here, and points are packed."""
        arms = self.states["arms"]
        rooms = [
            {
                "alt": picture.alt_text(room), "floor": room["floor"], "cloud": picture.packed(room),
                "boxes": [[round(float(side), 2) for side in box] for box in room["boxes"]], "things": room["things"],
                "questions": [
                    {
                        "text": question["text"], "truth": picture.truth(question), "object": question["object"],
                        "reading": picture.sentence(arms, room, question),
                        "said": [[*picture.told(room, said), said["looks"]] for said in question["said"]],
                    }
                    for question in room["questions"]
                ],
            }
            for room in self.states["rooms"]
        ]  # fmt: skip
        return {"rooms": rooms, "reach": picture.REACH, "tall": picture.TALL, "distance": picture.DISTANCE,
                "angle": picture.ANGLE, "middle": picture.MIDDLE, "stops": picture.STOPS,
                "first": picture.FIRST_STOP, "tilt": picture.TILT}  # fmt: skip


def _title(room: dict) -> str:
    return f"{room['title']} ({room['note']})" if room.get("note") else room["title"]


def _select(label: str, name: str, options: list[str]) -> str:
    shown = "".join(f'<option value="{place}">{escape(option)}</option>' for place, option in enumerate(options))
    return f'<label class="ask"><b>{label}</b> <select class="{name}">{shown}</select></label>'


def _check(states: dict) -> None:
    """Refuses parts that do not fit, which a page would show as a dead picture."""
    if not states["arms"] or not states["rooms"]:
        raise Refusal("room explorer: there is no arm or no room to show")
    for room in states["rooms"]:
        where = f"room explorer: {room['title']!r}"
        if not len(room["points"]) or len(room["points"]) != len(room["colours"]):
            raise Refusal(f"{where} needs points, and a colour for each of them")
        if len(room["boxes"]) != len(room["names"]):
            raise Refusal(f"{where} needs a name for each of its {len(room['boxes'])} boxes")
        if not room["questions"]:
            raise Refusal(f"{where} has no question")
        for question in room["questions"]:
            if len(question["said"]) != len(states["arms"]):
                raise Refusal(f"{where}: {question['text']!r} needs an answer of each of {len(states['arms'])} arms")
            places = [question["object"], *(said["looks"] for said in question["said"])]
            if not all(-1 <= place < len(room["boxes"]) for place in places):
                raise Refusal(f"{where}: {question['text']!r} is about a box that is not there")
