// The page face of the barrier explorer: moves the picture that Python drew to another setting, pair or position.
(() => {
  "use strict";
  const WIDTH = 100, HEIGHT = 40;

  function start(root) {
    root.dataset.ready = "";
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const slider = root.querySelector('input[type="range"]');
    const output = root.querySelector("output");
    const reading = root.querySelector(".reading");
    const play = root.querySelector(".play");
    const tiles = [...root.querySelectorAll(".tile")];
    const state = { setting: 0, pair: 0, at: data.at };
    let timer = 0, speech = 0;

    const number = [...document.querySelectorAll(".barrier-explorer")].indexOf(root);  // each has a script of its own
    for (const radio of root.querySelectorAll('input[type="radio"]')) radio.name = `${radio.dataset.choice}-${number}`;

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
      slider.max = pair.alphas.length - 1;
      slider.value = at;
      slider.setAttribute("aria-valuetext", alpha);
      output.textContent = alpha;
      clearTimeout(speech); // a moving slider is not read out at each stop
      speech = setTimeout(() => { reading.textContent = sentence(setting, pair, at, alpha); }, 150);
    }

    function choose(change) {
      Object.assign(state, change);
      const last = data.settings[state.setting].pairs[state.pair].alphas.length - 1;
      state.at = Math.min(state.at, last);
      draw();
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    }

    play.addEventListener("click", () => {
      if (timer) return stop();
      const last = () => data.settings[state.setting].pairs[state.pair].alphas.length - 1;
      if (state.at >= last()) state.at = -1;
      play.textContent = "Pause";
      timer = setInterval(() => {
        choose({ at: state.at + 1 });
        if (state.at >= last()) stop();
      }, 300);
    });
    slider.addEventListener("input", () => { stop(); choose({ at: Number(slider.value) }); });
    for (const name of ["setting", "pair"]) {
      for (const radio of root.querySelectorAll(`[data-choice="${name}"]`)) {
        radio.addEventListener("change", () => choose({ [name]: Number(radio.value) }));
      }
    }
    draw();
  }

  function sentence(setting, pair, at, alpha) {
    const moved = pair.said[at].filter((kind, image) => kind !== pair.said[0][image]).length;
    const percent = (share) => `${(100 * share).toFixed(1)} %`;
    return `${setting.title}, ${pair.title}, ${alpha}: training loss ${pair.loss[at].toFixed(3)} nats, training error ` +
      `${percent(pair.error[at])}, test error ${percent(pair.test_error[at])}. ${percent(pair.changed[at])} of all test ` +
      `images have another label than at the start of the path; of the ${pair.said[at].length} shown, ${moved}.`;
  }

  // Jupyter may run a script a moment before it shows the element that belongs to it
  function startAll(patience) {
    const roots = document.querySelectorAll(".barrier-explorer:not([data-ready])");
    roots.forEach((root) => start(root));
    if (!roots.length && patience > 0) setTimeout(() => startAll(patience - 1), 100);
  }
  startAll(30);
})();
