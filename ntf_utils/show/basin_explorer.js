// The page face of the basin explorer: moves the picture that Python drew to another sweep or setting.
(() => {
  "use strict";

  function start(root) {
    root.dataset.ready = "";
    const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
    const slider = root.querySelector('input[type="range"]');
    const output = root.querySelector("output");
    const reading = root.querySelector(".reading");
    const play = root.querySelector(".play");
    const tiles = [...root.querySelectorAll(".tile")];
    const state = { sweep: 0, at: 0 };
    let timer = 0, speech = 0;

    const number = [...document.querySelectorAll(".basin-explorer")].indexOf(root);  // each has a script of its own
    for (const radio of root.querySelectorAll('input[type="radio"]')) radio.name = `${radio.dataset.choice}-basin-${number}`;

    const last = () => data.sweeps[state.sweep].length - 1;

    function draw() {
      const stop = data.sweeps[state.sweep][state.at];
      root.querySelector("polyline.own").setAttribute("points", stop.curve);
      for (const tile of tiles) {
        const [text, split, wrong] = stop.tiles[Number(tile.dataset.image)];
        tile.querySelector("b").textContent = text;
        tile.classList.toggle("split", split);
        tile.classList.toggle("wrong", wrong);
      }
      slider.max = last();
      slider.value = state.at;
      slider.setAttribute("aria-valuetext", stop.title);
      output.textContent = stop.title;
      clearTimeout(speech); // a moving slider is not read out at each stop
      speech = setTimeout(() => { reading.textContent = stop.reading; }, 150);
    }

    function choose(change) {
      Object.assign(state, change);
      state.at = Math.min(state.at, last());
      draw();
    }

    function stopPlaying() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    }

    play.addEventListener("click", () => {
      if (timer) return stopPlaying();
      if (state.at >= last()) state.at = -1;
      play.textContent = "Pause";
      timer = setInterval(() => {
        choose({ at: state.at + 1 });
        if (state.at >= last()) stopPlaying();
      }, 900);
    });
    slider.addEventListener("input", () => { stopPlaying(); choose({ at: Number(slider.value) }); });
    for (const radio of root.querySelectorAll('[data-choice="sweep"]')) {
      radio.addEventListener("change", () => { stopPlaying(); choose({ sweep: Number(radio.value), at: 0 }); });
    }
    draw();
  }

  // Jupyter may run a script a moment before it shows the element that belongs to it
  function startAll(patience) {
    const roots = document.querySelectorAll(".basin-explorer:not([data-ready])");
    roots.forEach((root) => start(root));
    if (!roots.length && patience > 0) setTimeout(() => startAll(patience - 1), 100);
  }
  startAll(30);
})();
