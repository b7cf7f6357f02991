"""The room explorer's states from a recorded run: answers are read, rooms are made again from their seeds."""

from typing import Any

import pandas as pd

from ntf_utils.data.rooms import Room, split
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Store, curves
from ntf_utils.show.room_picture import shown_room

BOX = ["cx", "cy", "cz", "dx", "dy", "dz"]


def recorded_states(table: pd.DataFrame, store: Store | None = None) -> dict[str, Any]:
    """The explorer's states, in the form that `ntf_utils.show.room_explorer` describes.

    Args:
        table: of `sweep(write_explorer, ...)`, one run: a row a room, question and arm.

    Raises:
        Refusal: the table is not of one run, or an arm lacks the answer to a question.
    """
    if table["key"].nunique() != 1:
        raise Refusal("the room explorer needs the table of one run of write_explorer")
    arms, rooms, boxes = (curves(table, name, store=store) for name in ("arms", "rooms", "boxes"))
    order = arms["arm"].tolist()
    shown = []
    for about in rooms.to_dict("records"):
        room = _room(about)
        mine = boxes.loc[boxes["room"] == room.name, BOX].astype(float).to_numpy().tolist()
        entry = shown_room(room, mine, f"{room.kind} {len(shown) + 1}", str(about["note"] or ""))
        asked = table[table["room"] == room.name]
        entry["questions"] = [_question(lines, order) for _, lines in asked.groupby("question", sort=True)]
        shown.append(entry)
    return {"arms": [{"name": arm, "title": title} for arm, title in zip(order, arms["title"], strict=True)],
            "rooms": shown}  # fmt: skip


def _room(about: dict[str, Any]) -> Room:
    room = split(about["split"], int(about["row"]) + 1, int(about["seed"]))[-1]
    if room.name != about["room"]:
        raise Refusal(f"the record speaks of room {about['room']}, and its seed makes {room.name}: run it again")
    return room


def _question(lines: pd.DataFrame, order: list[str]) -> dict[str, Any]:
    by_arm = {line["arm"]: line for line in lines.to_dict("records")}
    first = lines.iloc[0]
    missing = [arm for arm in order if arm not in by_arm]
    if missing:
        raise Refusal(f"no answer of {', '.join(missing)} to {first['text']!r} in room {first['room']}")
    return {
        "text": first["text"],
        "answers": [] if pd.isna(first["answers"]) else str(first["answers"]).split(" | "),
        "object": int(first["object"]),
        "said": [
            {
                "answer": str(by_arm[arm]["answer"]), "right": bool(by_arm[arm]["right"]),
                "sure": float(by_arm[arm]["sure"]), "looks": int(by_arm[arm]["looks"]),
                "share": float(by_arm[arm]["share"]),
            }
            for arm in order
        ],
    }  # fmt: skip
