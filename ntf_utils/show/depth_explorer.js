// The page face of the depth explorer: another layer, network or image for the picture that Python drew.
explorers("depth-explorer", (root, data, controls) => {
  const last = data.layers.length - 1;
  const state = { layer: 0, network: 0, image: 0 };
  const asked = root.querySelector(".asked .tile");
  const row = root.querySelector(".nearest .row");

  function fill(tile, image, from) {
    const [digit, label, picture] = data.images[image];
    tile.querySelector("img").src = picture;
    tile.querySelector("b").textContent = `label ${label}`;
    tile.classList.toggle("same", from !== undefined && digit === data.images[from][0]);
    tile.classList.toggle("shared", from !== undefined && label === data.images[from][1]);
  }

  function draw() {
    const network = data.networks[state.network];
    const image = data.asked[state.image];
    fill(asked, image);
    [...row.children].forEach((tile, place) => fill(tile, network.near[state.layer][state.image][place], image));
    root.querySelector("polyline.true").setAttribute("points", network.true);
    root.querySelector("polyline.random").setAttribute("points", network.random);
    const here = root.querySelector(".here");
    here.setAttribute("d", here.getAttribute("d").replace(/^M[\d.]+/, `M${data.places[state.layer]}`));
    controls.place(state.layer, last, data.layers[state.layer]);
    controls.say(() => network.words[state.layer][state.image]);
  }

  function choose(change) {
    Object.assign(state, change);
    draw();
  }

  controls.slide({ at: () => state.layer, last: () => last, go: (layer) => choose({ layer }) });
  controls.choice("network", (network) => choose({ network }));
  controls.choice("image", (image) => choose({ image }));
  draw();
});
