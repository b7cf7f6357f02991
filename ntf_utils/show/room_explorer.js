// The page face of the room explorer: turns the cloud, and moves boxes and answers to another room or question.

explorers("room-explorer", (root, data, controls) => {
  const canvas = root.querySelector("canvas.room"), pen = canvas.getContext("2d");
  const roomSelect = root.querySelector("select.room"), questionSelect = root.querySelector("select.question");
  const cards = [...root.querySelectorAll(".arm")];
  const inks = cards.map((card) => card.style.getPropertyValue("--a"));
  const DASHES = [[9, 5], [2, 4], [12, 4, 2, 4], [5, 2], [1, 6], [14, 6]];  // as in room_picture.py
  const state = { room: 0, question: 0, turn: 360 * data.first / data.stops, tilt: data.tilt, near: 1 };
  const clouds = [];
  let asked = 0;  // the frame that is asked for, so that a drag draws once a frame

  const stopOf = () => Math.round(state.turn * data.stops / 360) % data.stops;

  function cloudOf(number) {
    if (!clouds[number]) {
      const bytes = Uint8Array.from(atob(data.rooms[number].cloud), (letter) => letter.charCodeAt(0));
      const count = bytes.length / 6, at = new Float32Array(3 * count), inks = new Array(count);
      for (let i = 0; i < count; i++) {
        at[3 * i] = (bytes[6 * i] / 255 * 2 - 1) * data.reach;
        at[3 * i + 1] = (bytes[6 * i + 1] / 255 * 2 - 1) * data.reach;
        at[3 * i + 2] = bytes[6 * i + 2] / 255 * data.tall;
        inks[i] = `rgb(${bytes[6 * i + 3]} ${bytes[6 * i + 4]} ${bytes[6 * i + 5]})`;
      }
      clouds[number] = { count, at, inks };
    }
    return clouds[number];
  }

  // world -> [column, row, depth], with the camera of room_picture.camera
  function lens() {
    const yaw = state.turn * Math.PI / 180, down = state.tilt * Math.PI / 180;
    const c = Math.cos(yaw), s = Math.sin(yaw), cd = Math.cos(down), sd = Math.sin(down);
    const distance = data.distance / state.near;
    const focal = Math.min(canvas.width, canvas.height * 1.25) / 2 / Math.tan(data.angle * Math.PI / 360);
    return {
      focal,
      eye: [distance * s * cd, -distance * c * cd],
      see(x, y, z) {
        const across = x * c + y * s, along = y * c - x * s, up = z - data.middle;
        const depth = distance + along * cd - up * sd;
        const scale = focal / depth;
        return [canvas.width / 2 + scale * across, canvas.height / 2 - scale * (along * sd + up * cd), depth];
      },
    };
  }

  function drawRoom() {
    asked = 0;
    const wide = Math.round(canvas.clientWidth * Math.min(window.devicePixelRatio || 1, 2));
    if (wide && canvas.width !== wide) { canvas.width = wide; canvas.height = Math.round(wide * 0.7); }
    const room = data.rooms[state.room], cloud = cloudOf(state.room), view = lens();
    const [width, depth] = room.floor;
    const behindBack = view.eye[1] > depth / 2, behindLeft = view.eye[0] < -width / 2;
    pen.fillStyle = "#f6f5f2";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    outline(view, width, depth);
    const seen = [];
    for (let i = 0; i < cloud.count; i++) {
      const x = cloud.at[3 * i], y = cloud.at[3 * i + 1], z = cloud.at[3 * i + 2];
      // a wall is not looked at from outside
      if ((behindBack && y > depth / 2 - 0.08) || (behindLeft && x < 0.08 - width / 2)) continue;
      const place = view.see(x, y, z);
      if (place[2] > 0.2) seen.push([place[2], place[0], place[1], i]);
    }
    seen.sort((one, other) => other[0] - one[0]);
    for (const [far, x, y, i] of seen) {
      const side = Math.max(1.5, 0.085 * view.focal / far);
      pen.fillStyle = cloud.inks[i];
      pen.fillRect(x - side / 2, y - side / 2, side, side);
    }
    const question = room.questions[state.question];
    if (question.object >= 0) box(view, room.boxes[question.object], 0, "#222", [], "");
    question.said.forEach((said, arm) => {
      const looks = said[said.length - 1];
      if (looks >= 0) box(view, room.boxes[looks], 0.08 * (arm + 1), inks[arm], DASHES[arm % DASHES.length], letterOf(arm));
    });
  }

  const letterOf = (arm) => cards[arm].querySelector(".key").textContent;

  // the floor's edge, with a notch where the door is
  function outline(view, width, depth) {
    const x = width / 2, y = depth / 2;
    const ring = [[-x, -y], [-0.45, -y], [-0.45, -y - 0.25], [0.45, -y - 0.25], [0.45, -y], [x, -y], [x, y], [-x, y]];
    pen.setLineDash([]);
    pen.strokeStyle = "#8a8a86";
    pen.lineWidth = Math.max(1, canvas.width / 640);
    pen.fillStyle = "#eae8e3";
    path(ring.map(([a, b]) => view.see(a, b, 0)), true);
    const [column, row] = view.see(0, -y - 0.45, 0);
    write("door", column, row, "#5c5c58");
  }

  function box(view, [cx, cy, cz, dx, dy, dz], grow, ink, dash, letter) {
    const half = [(dx + grow) / 2, (dy + grow) / 2, (dz + grow) / 2];
    const corner = (i) => view.see(cx + (i & 1 ? 1 : -1) * half[0], cy + (i & 2 ? 1 : -1) * half[1], cz + (i & 4 ? 1 : -1) * half[2]);
    const places = [0, 1, 2, 3, 4, 5, 6, 7].map(corner), unit = Math.max(1, canvas.width / 640);
    pen.strokeStyle = ink;
    pen.lineWidth = (letter ? 2.4 : 1.6) * unit;
    pen.setLineDash(dash.map((length) => length * unit));
    for (let one = 0; one < 8; one++) for (const bit of [1, 2, 4]) if (!(one & bit)) path([places[one], places[one | bit]], false);
    if (letter) {
      const top = places.reduce((high, place) => (place[1] < high[1] ? place : high));
      write(letter, top[0] + grow * 110 * unit, top[1] - 8 * unit, ink, true);
    }
  }

  function path(places, closed) {
    pen.beginPath();
    places.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (closed) { pen.closePath(); pen.fill(); }
    pen.stroke();
  }

  function write(text, x, y, ink, bold = false) {
    pen.font = `${bold ? "700 " : ""}${Math.max(11, Math.round(canvas.width / 46))}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.lineWidth = 4;
    pen.setLineDash([]);
    pen.strokeStyle = "#f6f5f2";
    pen.strokeText(text, x, y);
    pen.fillStyle = ink;
    pen.fillText(text, x, y);
  }

  function drawAnswers() {
    const room = data.rooms[state.room], question = room.questions[state.question];
    canvas.setAttribute("aria-label", room.alt);
    root.querySelector(".truth b").textContent = question.truth;
    cards.forEach((card, arm) => {
      const [answer, right, sure, looks] = question.said[arm];
      card.classList.toggle("right", right === true);
      card.classList.toggle("wrong", right === false);
      card.querySelector(".said").textContent = answer;
      card.querySelector(".mark").textContent = right === null ? "not judged" : right ? "✓ right" : "✗ wrong";
      card.querySelector(".sure").textContent = sure;
      card.querySelector(".looks i").textContent = looks;
    });
    controls.say(() => data.rooms[state.room].questions[state.question].reading);
  }

  function draw() {
    const stop = stopOf(), degrees = Math.floor(360 * stop / data.stops);
    controls.place(stop, data.stops - 1, `turned by ${degrees} degrees`, `${degrees}°`);
    if (!asked) asked = requestAnimationFrame(drawRoom);
  }

  function turn(change) {
    Object.assign(state, change);
    state.turn = (state.turn % 360 + 360) % 360;
    state.tilt = Math.min(89, Math.max(4, state.tilt));
    state.near = Math.min(2.2, Math.max(0.7, state.near));
    draw();
  }

  function choose(change) {
    Object.assign(state, change);
    drawAnswers();
    draw();
  }

  function list(select, texts) {
    select.replaceChildren(...texts.map((text, place) => new Option(text, place)));
    select.value = "0";
  }

  roomSelect.addEventListener("change", () => {
    const room = Number(roomSelect.value), found = data.rooms[room];
    list(questionSelect, found.questions.map((question) => question.text));
    root.querySelector(".inventory ul").replaceChildren(...found.things.map((thing) => {
      const line = document.createElement("li");
      line.textContent = thing;
      return line;
    }));
    choose({ room, question: 0 });
  });
  questionSelect.addEventListener("change", () => choose({ question: Number(questionSelect.value) }));

  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    controls.stop();
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const [x, y] = held;
    held = [event.clientX, event.clientY];
    turn({ turn: state.turn - (event.clientX - x) * 0.5, tilt: state.tilt + (event.clientY - y) * 0.35 });
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  canvas.addEventListener("keydown", (event) => {
    const change = {
      ArrowLeft: { turn: state.turn + 5 }, ArrowRight: { turn: state.turn - 5 },
      ArrowUp: { tilt: state.tilt + 4 }, ArrowDown: { tilt: state.tilt - 4 },
      "+": { near: state.near * 1.1 }, "-": { near: state.near / 1.1 },
    }[event.key];
    if (!change) return;
    event.preventDefault();
    controls.stop();
    turn(change);
  });
  controls.slide({
    at: stopOf, last: () => data.stops - 1, go: (stop) => turn({ turn: 360 * stop / data.stops }), every: 90,
  });
  new ResizeObserver(() => { if (!asked) asked = requestAnimationFrame(drawRoom); }).observe(canvas);
  roomSelect.value = questionSelect.value = "0";  // a browser may keep an old choice over a reload
  draw();
});
