// The page face of the basin explorer: moves the picture that Python drew to another sweep or setting.

explorers("basin-explorer", (root, data, controls) => {
  const tiles = [...root.querySelectorAll(".tile")];
  const state = { sweep: 0, at: 0 };
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
    controls.place(state.at, last(), stop.title);
    controls.say(() => stop.reading);
  }

  function choose(change) {
    Object.assign(state, change);
    state.at = Math.min(state.at, last());
    draw();
  }

  controls.slide({ at: () => state.at, last, go: (at) => choose({ at }), every: 900 });
  controls.choice("sweep", (sweep) => { controls.stop(); choose({ sweep, at: 0 }); });
  draw();
});
