// The page face of the locality explorer: moves the picture that Python drew to another locality or probe.
const WIDTH = 100;

explorers("locality-explorer", (root, data, controls) => {
  const tiles = [...root.querySelectorAll(".tile")];
  const others = [...root.querySelectorAll(".other")];
  const last = data.settings.length - 1;
  const state = { setting: 0, probe: 0 };

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
    controls.place(state.setting, last, where);
    controls.say(() => setting.words[state.probe]);
  }

  function choose(change) {
    Object.assign(state, change);
    draw();
  }

  controls.slide({ at: () => state.setting, last: () => last, go: (setting) => choose({ setting }) });
  controls.choice("probe", (probe) => choose({ probe }));
  draw();
});
