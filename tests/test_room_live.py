"""From a recorded run to the page and to the networks that are shipped: both must say the same."""

import json

import numpy as np
import pytest

from ntf_utils.data.room_language import asks_held_out, possible_questions
from ntf_utils.data.rooms import Room, split
from ntf_utils.papers.clip_guided_3dqa import ship as shipping
from ntf_utils.papers.clip_guided_3dqa.answering import AnswerConfig
from ntf_utils.papers.clip_guided_3dqa.explorer_run import RoomExplorerConfig, is_trained, write_room_explorer
from ntf_utils.papers.clip_guided_3dqa.live import LiveRooms
from ntf_utils.papers.clip_guided_3dqa.teacher import TeacherConfig
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Store, curves, sweep
from ntf_utils.show import RoomExplorer
from ntf_utils.show.room_states import recorded_states

TEACHER = TeacherConfig(rooms=16, steps=2, batch=8, unseen=64)
SMALL = AnswerConfig(
    pretrain_rooms=8, qa_rooms=40, val_rooms=8, pretrain_steps=3, answer_steps=25, answer_batch=8, teacher=TEACHER
)
CONFIG = RoomExplorerConfig(network=SMALL, arms=("S", "R", "TI"), shown=2, asked=4)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(store, table of the run, folder of the shipped networks)."""
    folder = tmp_path_factory.mktemp("rooms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTF_STORE", str(folder / "store"))
        patch.setenv("NTF_QUIET", "1")
        assert not is_trained(CONFIG)
        table = sweep(write_room_explorer, [CONFIG])
        assert is_trained(CONFIG)
        shipping.ship(Store().newest_config(write_room_explorer), folder / "shipped")
    return Store(folder / "store"), table, folder / "shipped"


def test_rooms_of_both_reports_are_shown_with_questions_of_different_kinds(recorded):
    store, table, _ = recorded
    states = recorded_states(table, store)
    assert [arm["name"] for arm in states["arms"]] == ["S", "R", "TI"]
    assert len(states["rooms"]) == 4 and len({room["note"] for room in states["rooms"]}) == 2
    rooms = {room.name: room for name in ("val_iid", "val_comp") for room in split(name, 8)}
    for name, asked in table.groupby("room"):
        kinds = asked.drop_duplicates("question")["template"]
        assert kinds.is_unique and len(kinds) == 4
        told = asked.drop_duplicates("question")
        for question in told.to_dict("records"):
            assert question["held_out"] == any(
                asks_held_out(rooms[name], each) for each in _asked(rooms[name], question["text"])
            )
    assert table["held_out"].any() and not table["held_out"].all()
    assert RoomExplorer(states).page().count("<script") == 2
    assert table["share"].between(0, 1).all() and table["sure"].between(0, 1).all()


def _asked(room, text):
    return [question for question in possible_questions(room) if question.text == text]


def test_the_shipped_networks_say_what_the_page_shows(recorded):
    store, table, folder = recorded
    live = LiveRooms.of(folder)
    rooms = {room.name: room for name in ("val_iid", "val_comp") for room in split(name, 8)}
    for (name, text), asked in table.groupby(["room", "text"]):
        said = live.ask(rooms[name], text)
        for one, line in zip(said, asked.to_dict("records"), strict=True):
            assert one["share"] == pytest.approx(line["share"], abs=0.01)
            assert one["sure"] == pytest.approx(line["sure"], abs=0.01)
            assert one["answer"] == line["answer"] and one["looks"] == line["looks"]
    order = curves(table, "rooms", store=store)["room"]
    for name, shown in zip(order, recorded_states(table, store)["rooms"], strict=True):
        assert live.boxes(rooms[name]) == pytest.approx(np.array(shown["boxes"]), abs=1e-4)


def test_the_shipped_folder_is_small_and_holds_no_pickle(recorded):
    files = {path.name: path.stat().st_size for path in recorded[2].iterdir()}
    assert set(files) == {"config.json", "words.safetensors", "S.safetensors", "R.safetensors", "TI.safetensors"}
    assert sum(files.values()) < 2_000_000


@pytest.mark.parametrize(
    ("text", "told"), [("", "needs words"), (" ?! ", "needs words"), ("why " * 60, "60 words is too long")]
)
def test_impossible_questions_are_refused(recorded, text, told):
    with pytest.raises(Refusal, match=told):
        LiveRooms.of(recorded[2]).ask(split("val_iid", 1)[0], text)


def test_a_room_without_things_a_missing_folder_and_damage_are_told(recorded, tmp_path, monkeypatch):
    bare = Room("bare", (1, 2), "office", (5.0, 5.0), 0.7, "bin", split("val_iid", 1)[0].things[:1])
    assert len(LiveRooms.of(recorded[2]).boxes(bare)) == 1
    with monkeypatch.context() as patch:
        patch.setattr("ntf_utils.papers.clip_guided_3dqa.live.proposals", lambda *_: (np.empty((0, 32, 6)),) * 2)
        with pytest.raises(Refusal, match="nothing was found in bare"):
            LiveRooms.of(recorded[2]).ask(bare, "how many beds are there ?")
    with pytest.raises(Refusal, match=r"holds no networks for rooms .*clip_guided_3dqa\.ship"):
        LiveRooms.of(tmp_path).ask(bare, "why ?")
    (tmp_path / "config.json").write_text(json.dumps(LiveRooms.of(recorded[2]).about))
    (tmp_path / "S.safetensors").write_bytes(b"nonsense")
    with pytest.raises(Refusal, match=r"cannot read .*S\.safetensors"):
        _ = LiveRooms.of(tmp_path).networks
    with pytest.raises(Refusal, match="no recorded run"):
        Store(tmp_path).newest_config(write_room_explorer)


def test_arms_that_make_no_sense_are_refused():
    for arms, told in (((), "one or more"), (("S", "S"), "each once"), (("S", "X"), "arms")):
        with pytest.raises(Refusal, match=told):
            RoomExplorerConfig(arms=arms)
