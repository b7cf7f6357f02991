"""What the reader sees of rooms: their figure, and the explorer with its two faces."""

import json
import os
import re
import shutil
import threading
from base64 import b64decode

import numpy as np
import pandas as pd
import pytest
from waiting import wait_for

from ntf_utils.data.proposals import proposals
from ntf_utils.data.renders import render
from ntf_utils.data.room_language import possible_questions
from ntf_utils.data.rooms import Cloud, make_room, room_scene, split
from ntf_utils.refusal import Refusal
from ntf_utils.runs import Config, Outcome, Store, experiment, sweep
from ntf_utils.show import RoomExplorer, room_picture
from ntf_utils.show.room_figures import described, rooms_and_words
from ntf_utils.show.room_live import RoomView
from ntf_utils.show.room_states import recorded_states

ARMS = [{"name": "S", "title": "from scratch"}, {"name": "TI", "title": "text & <i>image</i>"}]
POINT = (1.0, -0.5, 1.2)  # the only one of the second room, in pure green


def said(answer, right, looks=1, share=0.75):
    return {"answer": answer, "right": right, "sure": 0.5, "looks": looks, "share": share}


def question(text, *answers, wrong="<b>blue</b>", thing=0):
    return {"text": text, "answers": list(answers), "object": thing,
            "said": [said(wrong, False), said(answers[0], True, looks=0, share=1.0)]}  # fmt: skip


def room(title="bedroom 1", points=None, colours=None):
    points = np.array([[0, 0, 0.1], [1, 1, 0.5], [-2.0, 0.3, 1.0]]) if points is None else np.array(points)
    colours = np.full(points.shape, 0.5) if colours is None else np.array(colours)
    return {
        "title": title, "note": "", "floor": [5.0, 4.0], "points": points, "colours": colours,
        "things": ["a large red bed left of the <b>lamp</b>"],
        "boxes": [[-1.2, 0.9, 0.5, 1.2, 0.8, 1.0], [1.2, -0.4, 0.3, 0.6, 0.6, 0.6]],
        "names": ["large red bed", "small & blue bin"],
        "questions": [
            question("what colour is the bed ?", "red"),
            question("how many beds are there ?", "1", thing=-1),
        ],
    }  # fmt: skip


def states():
    second = room("office 2", [POINT], [[0.0, 1.0, 0.0]])
    second["questions"] = [question("is there a red </script><script>document.title='broken'</script> ?", "no", "none")]
    return {"arms": ARMS, "rooms": [room(), second]}


class TestPage:
    def test_begins_with_the_first_question_of_the_first_room(self):
        html = RoomExplorer(states()).page()
        assert (
            "bedroom 1, what colour is the bed? Right answer: red. from scratch: &lt;b&gt;blue&lt;/b&gt;, wrong" in html
        )
        assert "looks at: <i>small &amp; blue bin (75 %)</i>" in html and "✓ right" in html and "✗ wrong" in html

    def test_markup_of_questions_answers_and_things_stays_text(self):
        html = RoomExplorer(states()).page()
        assert html.count("<script") == html.count("</script>") == 2
        assert "<b>blue</b>" not in html and "<b>lamp</b>" not in html and "<i>image</i>" not in html

    def test_its_data_hold_the_points_in_six_bytes_each(self):
        html = RoomExplorer(states()).page()
        data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
        (found,) = np.frombuffer(b64decode(data["rooms"][1]["cloud"]), np.uint8).reshape(-1, 6)
        place = (found[:2] / 255 * 2 - 1) * data["reach"], found[2] / 255 * data["tall"]
        assert np.concatenate([place[0], [place[1]]]) == pytest.approx(POINT, abs=0.015)
        assert found[3:].tolist() == [0, 255, 0]
        assert data["rooms"][1]["questions"][0]["truth"] == "no or none"

    def test_loads_nothing_and_stays_small(self):
        made = split("val_comp", 8)
        entries = []
        for place, each in enumerate(made):
            boxes = proposals(room_scene(each))[1]
            entry = room_picture.shown_room(each, boxes, f"{each.kind} {place}")
            entry["questions"] = [question(q.text, *q.answers) for q in possible_questions(each)[:8]]
            entries.append(entry)
        html = RoomExplorer({"arms": ARMS, "rooms": entries}).page()
        assert not re.search(r"""(src|href)=|https?://|url\(|@import""", html)
        assert len(html.encode()) < 300_000

    def test_the_text_form_is_short(self):
        assert repr(RoomExplorer(states())).splitlines() == [
            "Room explorer: 2 rooms, 3 questions; right answers:",
            "  from scratch: 0 of 3",
            "  text & <i>image</i>: 3 of 3",
        ]

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"arms": []}, "no arm or no room"),
            ({"rooms": []}, "no arm or no room"),
            ({"rooms": [room() | {"points": []}]}, "needs points"),
            ({"rooms": [room() | {"colours": [[0, 0, 0]]}]}, "a colour for each"),
            ({"rooms": [room() | {"names": ["bed"]}]}, "a name for each of its 2 boxes"),
            ({"rooms": [room() | {"questions": []}]}, "has no question"),
            ({"arms": ARMS[:1]}, "an answer of each of 1 arms"),
            ({"rooms": [room() | {"questions": [question("why ?", "so", thing=2)]}]}, "a box that is not there"),
        ],
    )
    def test_states_that_do_not_fit_are_refused(self, change, sentence):
        with pytest.raises(Refusal, match=sentence):
            RoomExplorer(states() | change)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRAWN = "() => document.querySelector('canvas').toDataURL()"
FIND = """([r, g, b]) => {
    const canvas = document.querySelector('canvas'), { width, height } = canvas;
    const at = canvas.getContext('2d').getImageData(0, 0, width, height).data;
    let [x, y, n] = [0, 0, 0];
    for (let i = 0; i < at.length; i += 4) if (at[i] === r && at[i + 1] === g && at[i + 2] === b) {
        x += i / 4 % width; y += Math.floor(i / 4 / width); n++;
    }
    return [x / n + .5, y / n + .5, n, width, height];
}"""


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        missing = "no chromium on this machine: the page is not looked at (apt-get install chromium)"
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """The explorer twice on one page, without any network."""
    html = RoomExplorer(states()).page()
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8><title>whole</title>{html}{html}")
    context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True, has_touch=True)
    page = context.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("document.querySelector('canvas').width !== 640")  # drawn at the page's own size
    yield page
    context.close()
    assert not problems


def settled(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


class TestBrowser:
    def test_a_point_is_drawn_where_python_has_it(self, page):
        page.locator("select.room").first.select_option(index=1)
        slider = page.locator("input[type=range]").first
        for presses in (0, 5, 20):
            slider.focus()
            for _ in range(presses):
                slider.press("ArrowRight")
            settled(page)
            stop = int(slider.input_value())
            column, row, count, width, height = page.evaluate(FIND, [0, 255, 0])
            assert count > 2
            eye = room_picture.camera(360 * stop / room_picture.STOPS)
            side = min(width, 1.25 * height)  # the square whose angle of view the camera has
            ((x, y),) = room_picture.on_picture(eye, np.array([POINT]), side)
            assert (column - width / 2, row - height / 2) == pytest.approx((x - side / 2, y - side / 2), abs=2.5)

    def test_mouse_arrow_keys_and_slider_turn_the_room(self, page):
        seen = [page.evaluate(DRAWN)]
        canvas, output = page.locator("canvas").first, page.locator("output").first

        def moved():
            settled(page)
            seen.append(page.evaluate(DRAWN))
            assert seen[-1] not in seen[:-1]

        assert output.inner_text() == "20°"
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 50, box["y"] + 50)
        page.mouse.down()
        page.mouse.move(box["x"] + 130, box["y"] + 60)
        page.mouse.up()
        moved()
        assert output.inner_text() == "340°"
        page.mouse.move(box["x"] + 10, box["y"] + 10)  # let go: nothing follows the mouse any more
        settled(page)
        assert page.evaluate(DRAWN) == seen[-1]
        canvas.focus()
        for key, degrees in (("ArrowLeft", "345°"), ("ArrowUp", "345°"), ("+", "345°"), ("ArrowRight", "340°")):
            canvas.press(key)
            moved()
            assert output.inner_text() == degrees
        page.locator("input[type=range]").first.press("Home")
        moved()
        assert output.inner_text() == "0°"

    def test_a_finger_turns_the_room(self, page):
        before = page.evaluate(DRAWN)
        page.evaluate("""() => {
            const canvas = document.querySelector('canvas');
            const about = { pointerId: 1, pointerType: 'touch', clientY: 90 };
            canvas.setPointerCapture = () => null;  // there is no real finger to hold on to
            const send = (kind, x) => canvas.dispatchEvent(new PointerEvent(kind, { ...about, clientX: x }));
            send('pointerdown', 100); send('pointermove', 140); send('pointercancel', 140); send('pointermove', 300);
        }""")
        settled(page)
        assert page.evaluate(DRAWN) != before and page.locator("output").first.inner_text() == "0°"

    def test_rooms_and_questions_bring_their_answers(self, page):
        def shown():
            return page.locator(".answers").first.inner_text().split("\n")

        page.locator("select.question").first.select_option(index=1)
        assert shown()[0] == "Right answer: 1" and "<b>blue</b>" in shown()
        page.wait_for_function("document.querySelector('.reading').innerText.startsWith('bedroom 1, how many beds')")
        before = page.evaluate(DRAWN)
        page.locator("select.room").first.select_option(index=1)
        settled(page)
        assert shown()[0] == "Right answer: no or none" and page.evaluate(DRAWN) != before
        assert page.locator("select.question").first.locator("option").count() == 1
        assert page.locator("canvas").first.get_attribute("aria-label").startswith("Point cloud of a room, office 2")
        assert page.title() == "whole" and page.locator(".answers b b, .inventory b").count() == 0
        other = page.locator(".answers").nth(1).inner_text()
        assert other.startswith("Right answer: red"), "the other explorer on the page stays as it was"

    def test_cards_are_those_that_python_draws(self, page):
        before = page.locator(".answers").first.inner_html()
        select = page.locator("select.question").first
        select.select_option(index=1)
        assert page.locator(".answers").first.inner_html() != before
        select.select_option(index=0)
        assert page.locator(".answers").first.inner_html() == before

    def test_it_fits_a_narrow_page(self, page):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


class FakeNetworks:
    """Answers when the test allows it; the first answers of `errors` fail."""

    def __init__(self, *errors):
        self.errors, self.asked, self.go = list(errors), [], threading.Semaphore(0)

    def boxes(self, room):
        return proposals(room_scene(room))[1]

    def ask(self, room, text):
        self.asked.append((room.seed[-1], text))
        assert self.go.acquire(timeout=10)
        if self.errors:
            raise self.errors.pop(0)
        return [said(answer, None, looks=place) | {"sure": 0.25} for place, answer in enumerate(("<s>", "red"))]


class TestLive:
    def view(self, networks):
        view = RoomView(states(), lambda: networks)
        wait_for(lambda: networks.asked)
        return view

    def test_both_faces_are_offered_and_only_one_in_a_book(self, monkeypatch):
        networks = FakeNetworks()
        networks.go.release(9)
        monkeypatch.delenv("NTF_RECORDED_ONLY", raising=False)
        assert len(RoomExplorer(states(), live=lambda: networks)._repr_mimebundle_()) == 3
        assert len(RoomExplorer(states())._repr_mimebundle_()) == 2
        monkeypatch.setenv("NTF_RECORDED_ONLY", "1")
        assert len(RoomExplorer(states(), live=lambda: networks)._repr_mimebundle_()) == 2

    def test_a_question_is_answered_and_judged_by_the_oracle(self):
        networks = FakeNetworks()
        view = self.view(networks)
        networks.go.release(3)
        wait_for(lambda: "live, " in view.status.value)
        assert view.question.value == view.question.options[0] == networks.asked[0][1]
        assert bytes(view.image.value).startswith(b"\x89PNG")
        room = make_room((1_000_007, 0, 0), "held-out")
        colours = [q for q in possible_questions(room) if q.template == "existence" and q.answers == ("yes",)]
        view.question.value = colours[0].text
        wait_for(lambda: len(networks.asked) == 2 and "live, " in view.status.value)
        assert "Right answer: <b>yes</b>" in view.answers.value and view.answers.value.count("✗ wrong") == 2
        assert "&lt;s&gt;" in view.answers.value and "<s>" not in view.answers.value

    def test_a_turn_asks_nobody_again(self):
        networks = FakeNetworks()
        networks.go.release(9)
        view = self.view(networks)
        wait_for(lambda: "live, " in view.status.value)
        before = view.image.value
        view.turn.value = 120
        wait_for(lambda: view.image.value != before)
        before = view.image.value
        view.tilt.value = 80
        wait_for(lambda: view.image.value != before)
        assert len(networks.asked) == 1

    def test_the_newest_request_wins(self):
        networks = FakeNetworks()
        view = self.view(networks)
        for seed in (1, 2, 3):
            view.seed.value = seed
        networks.go.release()
        wait_for(lambda: len(networks.asked) == 2)
        assert "live" not in view.status.value
        networks.go.release()
        wait_for(lambda: "live, " in view.status.value)
        assert [seed for seed, _ in networks.asked] == [0, 3], "those between are never begun"
        assert view.question.value == networks.asked[-1][1]

    def test_a_typed_question_without_an_answer_is_told_why(self):
        networks = FakeNetworks()
        networks.go.release(9)
        view = self.view(networks)
        wait_for(lambda: "live, " in view.status.value)
        view.question.value = "who broke the <lamp> ?"
        wait_for(lambda: "not a question about rooms" in view.answers.value)
        assert view.answers.value.count("not judged") >= 2 and "<lamp>" not in view.answers.value

    def test_errors_are_shown_escaped_and_then_forgotten(self):
        networks = FakeNetworks(Refusal("the question is <empty>"))
        networks.go.release(9)
        view = self.view(networks)
        wait_for(lambda: "Refusal: the question is &lt;empty&gt;" in view.status.value)
        assert "alert" in view.status.value
        view.seed.value = 5
        wait_for(lambda: "live, " in view.status.value)

        def broken():
            raise OSError("no weights here")

        view = RoomView(states(), broken)
        wait_for(lambda: "OSError: no weights here" in view.status.value)


def test_the_live_picture_draws_the_boxes_that_are_looked_at():
    entry, cloud = room(), Cloud(np.zeros((1, 3)), np.ones((1, 3)), np.zeros(1), np.array([[0, 0, -1.0]]))
    asked = question("what ?", "red")
    plain = asked | {"object": -1, "said": [one | {"looks": -1} for one in asked["said"]]}
    drawn = {room_picture.image(cloud, entry, each, 20, 38) for each in (asked, plain, asked | {"object": 1})}
    assert len(drawn) == 3
    assert (render(cloud, [room_picture.camera(20)], 60) == 255).all()  # the point itself faces away


# Recorded states


class ShownConfig(Config):
    seed: int = 0
    lacking: bool = False


@experiment(version=1)
def write_rooms(config: ShownConfig) -> Outcome:
    """What `write_explorer` records, in small."""
    rooms = split("val_comp", 3, config.seed)[1:]
    rows, boxes = [], []
    for each in rooms:
        found = proposals(room_scene(each))[1]
        boxes += [{"room": each.name, **dict(zip(("cx", "cy", "cz", "dx", "dy", "dz"), map(float, box), strict=True))}
                  for box in found]  # fmt: skip
        for number, asked in enumerate(possible_questions(each)[:2]):
            for arm in ("S", "TI")[: 1 if config.lacking else 2]:
                rows.append({
                    "room": each.name, "question": number, "text": asked.text, "answers": " | ".join(asked.answers),
                    "object": -1, "arm": arm, "answer": "red", "right": False, "sure": 0.5, "looks": 0, "share": 0.9,
                })  # fmt: skip
    about = [{"room": each.name, "split": "val_comp", "seed": config.seed, "row": row + 1, "note": "comp"}
             for row, each in enumerate(rooms)]  # fmt: skip
    arms = {"arm": ["S", "TI"], "title": ["from scratch", "text and image"]}
    curves = {name: pd.DataFrame(lines).to_dict("list") for name, lines in (("rooms", about), ("boxes", boxes))}
    return Outcome(rows, curves | {"arms": arms})


def test_states_come_back_from_a_record(tmp_path):
    store = Store(tmp_path)
    made = recorded_states(sweep(write_rooms, [ShownConfig()], store=store), store)
    rooms = split("val_comp", 3)[1:]
    assert [entry["title"] for entry in made["rooms"]] == [f"{each.kind} {n}" for n, each in enumerate(rooms, 1)]
    assert [entry["questions"][1]["text"] for entry in made["rooms"]] == [
        possible_questions(each)[1].text for each in rooms
    ]
    for entry, each in zip(made["rooms"], rooms, strict=True):
        assert len(entry["points"]) == room_picture.POINTS and entry["note"] == "comp"
        truly = {f"{thing.size} {thing.colour} {thing.noun}" for thing in each.things}
        assert set(entry["names"]) <= truly and len(set(entry["names"])) > 2
    assert made["arms"] == [{"name": "S", "title": "from scratch"}, {"name": "TI", "title": "text and image"}]
    assert "from scratch: 0 of 4" in repr(RoomExplorer(made))

    two = sweep(write_rooms, [ShownConfig(), ShownConfig(seed=1)], store=store)
    with pytest.raises(Refusal, match="one run"):
        recorded_states(two, store)
    with pytest.raises(Refusal, match="no answer of TI"):
        recorded_states(sweep(write_rooms, [ShownConfig(lacking=True)], store=store), store)


# The figure


def test_the_figure_shows_each_room_with_what_is_said_and_asked_of_it():
    rooms = split("train", 2)
    figure = rooms_and_words(rooms)
    figure.canvas.draw()
    assert len(figure.axes) == 8
    for row, each in enumerate(rooms):
        words = "\n".join(text.get_text() for text in figure.axes[4 * row + 3].texts)
        assert words.count("Q: ") >= 2 and words.count("“") == 3
        assert each.kind in figure.axes[4 * row].get_ylabel()
    text = described(rooms)
    assert text.count("Row ") == 2 and all(f"{len(each.things)} things" in text for each in rooms)
