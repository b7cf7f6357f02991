// The page face of the barrier explorer: moves the picture that Python drew to another setting, pair or position.
const WIDTH = 100, HEIGHT = 40;

explorers("barrier-explorer", (root, data, controls) => {
  const tiles = [...root.querySelectorAll(".tile")];
  const state = { setting: 0, pair: 0, at: data.at };
  const last = () => data.settings[state.setting].pairs[state.pair].alphas.length - 1;

  function draw() {
    const setting = data.settings[state.setting];
    const pair = setting.pairs[state.pair];
    const { at } = state;
    const said = pair.said[at];
    const top = Math.max(...pair.loss, 0.01);
    const y = (HEIGHT * (1 - pair.loss[at] / top)).toFixed(1);
    root.querySelector("polyline").setAttribute("points", pair.curve);
    root.querySelector(".top").textContent = pair.top;
    root.querySelector(".now").setAttribute("d", `M${(WIDTH * pair.alphas[at]).toFixed(1)} -2V${HEIGHT + 2}`);
    root.querySelector(".level").setAttribute("d", `M0 ${y}H${WIDTH}`);
    for (const tile of tiles) {
      const image = Number(tile.dataset.image);
      tile.querySelector("b").textContent = data.classes[said[image]];
      tile.classList.toggle("wrong", said[image] !== data.truth[image]);
      tile.classList.toggle("changed", said[image] !== pair.said[0][image]);
    }
    const alpha = `α = ${pair.alphas[at].toFixed(2)}`;
    controls.place(at, last(), alpha);
    controls.say(() => sentence(setting, pair, at, alpha));
  }

  function choose(change) {
    Object.assign(state, change);
    state.at = Math.min(state.at, last());
    draw();
  }

  controls.slide({ at: () => state.at, last, go: (at) => choose({ at }) });
  for (const name of ["setting", "pair"]) controls.choice(name, (value) => choose({ [name]: value }));
  draw();
});

function sentence(setting, pair, at, alpha) {
  const moved = pair.said[at].filter((kind, image) => kind !== pair.said[0][image]).length;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  return `${setting.title}, ${pair.title}, ${alpha}: training loss ${pair.loss[at].toFixed(3)} nats, training error ` +
    `${percent(pair.error[at])}, test error ${percent(pair.test_error[at])}. ${percent(pair.changed[at])} of all test ` +
    `images have another label than at the start of the path; of the ${pair.said[at].length} shown, ${moved}.`;
}
