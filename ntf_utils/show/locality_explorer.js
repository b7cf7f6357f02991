// The page face of the locality explorer: moves the picture that Python drew to another locality or probe.
(() => {
  "use strict";
  const WIDTH = 100;

  function start(root) {
    root.dataset.ready = "";
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const slider = root.querySelector('input[type="range"]');
    const output = root.querySelector("output");
    const reading = root.querySelector(".reading");
    const tiles = [...root.querySelectorAll(".tile")];
    const others = [...root.querySelectorAll(".other")];
    const state = { setting: 0, probe: 0 };
    let speech = 0;

    const number = [...document.querySelectorAll(".locality-explorer")].indexOf(root);  // each has a script of its own
    for (const radio of root.querySelectorAll('input[type="radio"]')) radio.name = `${radio.dataset.choice}-${number}`;

    function draw() {
      const setting = data.settings[state.setting];
      const probe = data.probes[state.probe];
      root.querySelector(".chosen").setAttribute("points", setting.curves[state.probe]);
      others.forEach((line, place) => line.setAttribute("points", data.settings[place].curves[state.probe]));
      for (const name of ["teacher", "pixels"]) {
        root.querySelector(`path.${name}`).setAttribute("d", `M0 ${probe.levels[name]}H${WIDTH}`);
      }
      root.querySelector(".axis").textContent = probe.axis;
      for (const tile of tiles) {
        const image = Number(tile.dataset.image);
        tile.querySelector("b").textContent = data.classes[setting.said[image]];
        tile.classList.toggle("wrong", setting.said[image] !== data.truth[image]);
        tile.classList.toggle("changed", setting.said[image] !== data.taught[image]);
      }
      const where = `locality ${setting.name}`;
      slider.value = state.setting;
      slider.setAttribute("aria-valuetext", where);
      output.textContent = where;
      clearTimeout(speech); // a moving slider is not read out at each stop
      speech = setTimeout(() => { reading.textContent = setting.words[state.probe]; }, 150);
    }

    function choose(change) {
      Object.assign(state, change);
      draw();
    }

    slider.addEventListener("input", () => choose({ setting: Number(slider.value) }));
    for (const radio of root.querySelectorAll('[data-choice="probe"]')) {
      radio.addEventListener("change", () => choose({ probe: Number(radio.value) }));
    }
    draw();
  }

  // Jupyter may run a script a moment before it shows the element that belongs to it
  function startAll(patience) {
    const roots = document.querySelectorAll(".locality-explorer:not([data-ready])");
    roots.forEach((root) => start(root));
    if (!roots.length && patience > 0) setTimeout(() => startAll(patience - 1), 100);
  }
  startAll(30);
})();
