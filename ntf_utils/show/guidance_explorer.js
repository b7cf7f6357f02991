// The page face of the guidance explorer: moves the picture that Python drew to another guide, prompt or strength.
const NAMES = ["concept", "probe", "site"];

explorers("guidance-explorer", (root, data, controls) => {
  const radios = NAMES.map((name) => [...root.querySelectorAll(`[data-choice="${name}"]`)]);
  const asked = root.querySelector(".prompt");
  const rows = [...root.querySelectorAll(".scores tbody tr")];
  const state = { kind: [...data.guides[0].kind], at: data.guides[0].first, prompt: 0 };
  const last = () => guideOf(state.kind).strengths.length - 1;

  // the guide of a choice; where there is none, the first that keeps as much of it as it can
  function guideOf(kind) {
    const agree = (guide) => guide.kind.findIndex((value, place) => value !== kind[place]);
    let best = data.guides[0], most = -1;
    for (const guide of data.guides) {
      const first = agree(guide);
      const kept = first < 0 ? NAMES.length : first;
      if (kept > most) { best = guide; most = kept; }
    }
    return best;
  }

  function draw() {
    const guide = guideOf(state.kind);
    state.kind = [...guide.kind];
    radios.forEach((group, place) => group.forEach((radio, value) => {
      radio.checked = value === guide.kind[place];
      const wish = [...guide.kind];
      wish[place] = value;
      const there = data.guides.some((other) => other.kind.slice(0, place + 1).every((v, i) => v === wish[i]));
      radio.closest("label").classList.toggle("gone", !there);
    }));
    const { at, prompt } = state;
    const plain = guide.texts[guide.base][prompt], guided = guide.texts[at][prompt];
    write(root.querySelector(".said-unguided p"), plain[0]);
    write(root.querySelector(".said-guided p"), guided[0]);
    rows.forEach((row, place) => {
      const values = guide.scores[place];
      row.classList.toggle("own", place === guide.own);
      row.querySelector(".before").textContent = percent(plain[1][place]);
      row.querySelector(".after").textContent = percent(guided[1][place]);
      row.querySelector(".mean b").textContent = values[at] === null ? "–" : (100 * values[at]).toFixed(0);
      const bar = row.querySelector(".bar");
      bar.replaceChildren(piece("span", "fill", "width", values[at] ?? 0));
      if (values[guide.base] !== null) bar.append(piece("i", "", "left", values[guide.base]));
    });
    const score = root.querySelector(".curve-tradeoff");
    score.querySelector("b").textContent = data.titles[guide.own];
    score.querySelector("svg").setAttribute("aria-label",
      `Mean score of ${data.titles[guide.own]} against strength, with the band of random directions`);
    score.querySelector(".band").setAttribute("points", guide.lines.band);
    score.querySelector("polyline").setAttribute("points", guide.lines.score);
    root.querySelector(".curve-fluency polyline").setAttribute("points", guide.lines.fluency);
    root.querySelector(".curve-layers .bars").innerHTML = guide.lines.layers;  // rectangles, made of numbers alone
    const x = (place) => (data.width * place / Math.max(1, guide.strengths.length - 1)).toFixed(1);
    for (const line of root.querySelectorAll(".now")) line.setAttribute("d", `M${x(at)} -2V${data.height + 2}`);
    for (const line of root.querySelectorAll(".base")) line.setAttribute("d", `M${x(guide.base)} 0V${data.height}`);

    const strength = signed(guide.strengths[at]);
    controls.place(at, last(), `strength ${strength}`, strength);
    controls.say(() => guide.spoken[at]);
  }

  function write(place, packed) {
    place.replaceChildren();
    for (let index = 0; index < packed.length; index += 2) {
      const tint = packed[index + 1];
      const word = document.createElement("span");
      word.className = `w ${tint >= 0 ? "more" : "less"}`;
      if (tint >= data.marked) word.classList.add("up");
      if (tint <= -data.marked) word.classList.add("down");
      word.style.setProperty("--t", Math.min(Math.abs(tint) / data.largest, 1).toFixed(2));
      word.textContent = data.words[packed[index]];
      place.append(word, " ");
    }
    if (!packed.length) {
      const none = document.createElement("span");
      none.className = "none";
      none.textContent = "(the model ends at once)";
      place.append(none);
    }
  }

  function choose(change) {
    const before = guideOf(state.kind);
    Object.assign(state, change);
    const guide = guideOf(state.kind);
    if (guide.strengths.length !== before.strengths.length && !("at" in change)) state.at = guide.first;
    draw();
  }

  controls.slide({ at: () => state.at, last, go: (at) => choose({ at }), every: 700 });
  asked.addEventListener("change", () => choose({ prompt: Number(asked.value) }));
  NAMES.forEach((name, place) => controls.choice(name, (value) => {
    const kind = [...state.kind];
    kind[place] = value;
    choose({ kind });
  }));
  asked.value = "0"; // a browser may keep an old choice over a reload
  draw();
});

function piece(tag, name, side, value) {
  const made = document.createElement(tag);
  made.className = name;
  made.style[side] = `${(100 * Math.min(Math.max(value, 0), 1)).toFixed(1)}%`;
  return made;
}

function percent(score) {
  return score < 0 ? "–" : String(score);
}

function signed(strength) {
  return strength === 0 ? "0" : (strength > 0 ? "+" : "−") + String(Math.abs(strength));
}
