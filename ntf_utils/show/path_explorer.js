// The page face of the path explorer: moves the picture that Python drew to another graph, objective or step.
// What a picture means (which tokens a cheat reads, and why) comes with the data; here values are only put in place.
const SPARK_WIDTH = 100, SPARK_HEIGHT = 26;

explorers("path-explorer", (root, data, controls) => {
  const panels = [...root.querySelectorAll(".path-panel")];
  const alone = root.querySelector('input[name="alone"]');
  const state = { graph: 0, objective: 0, step: data.objectives[0].steps.length - 1, position: data.position };
  const last = () => data.objectives[state.objective].steps.length - 1;

  function draw() {
    const { graph, objective, step, position } = state;
    const task = data.objectives[objective];
    const path = data.graphs[graph].path;
    const right = task.order === "forward" ? path : [...path].reverse();
    const own = Boolean(alone && alone.checked && task.alone);
    const history = (own ? task.alone : task.shown)[graph];
    const said = history[step];
    const [given, read, told] = data.clues[said[position][3]];
    if (alone) alone.disabled = !task.alone;

    panels.forEach((panel, index) => { panel.hidden = index !== graph; });
    const panel = panels[graph];
    for (const part of panel.querySelectorAll("[data-key]")) {
      part.classList.toggle("read", read.includes(part.dataset.key));
      part.classList.toggle("given", part.dataset.key === given);
      part.classList.toggle("asked", part.dataset.key === `t${position}`);
    }
    const hits = new Map();
    said.forEach(([label], index) => {
      const key = String(label);
      hits.set(key, hits.get(key) || key === String(right[index]));
    });
    for (const node of panel.querySelectorAll("[data-label]")) {
      const hit = hits.get(node.dataset.label);
      node.classList.toggle("right", hit === true);
      node.classList.toggle("wrong", hit === false);
    }
    panel.querySelectorAll(".target b").forEach((target, index) => {
      target.textContent = own ? said[index][0] : right[index];
    });
    panel.querySelectorAll(".card").forEach((card, index) => {
      drawCard(card, said[index], right[index], history.map((row) => row[index][2]), step);
      card.setAttribute("aria-pressed", String(index === position));
    });

    const when = task.steps[step].toLocaleString("en-GB");
    controls.place(step, last(), `step ${when}`);
    controls.say(() => sentence(task, when, said, right, position, told));
  }

  function choose(change) {
    Object.assign(state, change);
    draw();
  }

  controls.slide({ at: () => state.step, last, go: (step) => choose({ step }), every: 160 });
  controls.choice("graph", (graph) => {
    choose({ graph, position: Math.min(state.position, data.graphs[graph].path.length - 1) });
  });
  controls.choice("objective", (objective) => {
    const step = data.objectives[state.objective].steps[state.step];
    choose({ objective, step: nearest(data.objectives[objective].steps, step) });
  });
  if (alone) alone.addEventListener("change", draw);
  for (const card of root.querySelectorAll(".card")) {
    const select = () => choose({ position: Number(card.dataset.position) });
    for (const event of ["click", "focus", "mouseenter"]) card.addEventListener(event, select);
  }
  draw();
});

function drawCard(card, [label, p], right, curve, step) {
  const hit = String(label) === String(right);
  card.classList.toggle("right", hit);
  card.classList.toggle("wrong", !hit);
  card.querySelector(".label").textContent = label;
  card.querySelector(".word").textContent = hit ? "right" : "wrong";
  card.querySelector(".fill").style.width = `${100 * p}%`;
  card.querySelector(".p").textContent = `p = ${p.toFixed(2)}`;
  card.querySelector(".answer b").textContent = right;
  const x = (index) => (SPARK_WIDTH * index) / Math.max(1, curve.length - 1);
  const points = curve.map((value, index) => `${x(index).toFixed(1)},${(SPARK_HEIGHT * (1 - value)).toFixed(1)}`);
  card.querySelector("polyline").setAttribute("points", points.join(" "));
  card.querySelector(".now").setAttribute("d", `M${x(step).toFixed(1)} 0v${SPARK_HEIGHT}`);
}

function sentence(task, when, said, right, position, told) {
  const correct = said.filter(([label], index) => String(label) === String(right[index])).length;
  const [label, p] = said[position];
  const verdict = String(label) === String(right[position]) ? "which is right" : `the answer is ${right[position]}`;
  return `${task.title}, step ${when}: ${correct} of ${right.length} tokens right. Token ${position + 1}: the model ` +
    `says ${label} with probability ${p.toFixed(2)}, ${verdict}. ${told}`;
}

function nearest(steps, wanted) {
  let best = 0;
  steps.forEach((step, index) => { if (Math.abs(step - wanted) < Math.abs(steps[best] - wanted)) best = index; });
  return best;
}
