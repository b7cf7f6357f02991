// What the page faces of all explorers share; `page_html` puts it before an explorer's own script, in one function.

// Starts every explorer of a class that is on the page: start(root, data, controls).
function explorers(kind, start) {
  function begin(root) {
    root.dataset.ready = "";
    const number = [...document.querySelectorAll(`.${kind}`)].indexOf(root);  // each has a script of its own
    for (const radio of root.querySelectorAll('input[type="radio"]')) radio.name = `${radio.dataset.choice}-${kind}-${number}`;
    start(root, JSON.parse(root.querySelector('script[type="application/json"]').textContent), controlsOf(root));
  }
  // Jupyter may run a script a moment before it shows the element that belongs to it
  function beginAll(patience) {
    const roots = document.querySelectorAll(`.${kind}:not([data-ready])`);
    roots.forEach(begin);
    if (!roots.length && patience > 0) setTimeout(() => beginAll(patience - 1), 100);
  }
  beginAll(30);
}

function controlsOf(root) {
  const slider = root.querySelector('input[type="range"]');
  const output = root.querySelector("output");
  const reading = root.querySelector(".reading");
  const play = root.querySelector(".play");
  let timer = 0, speech = 0;

  function stop() {
    clearInterval(timer);
    timer = 0;
    if (play) play.textContent = "Play";
  }

  return {
    stop,

    // The slider and, where there is one, the Play button: `at()` and `last()` say where it is and ends, `go(place)`
    // draws another place, `every` is the time between two places of a play in milliseconds.
    slide({ at, last, go, every = 300 }) {
      slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
      if (play) play.addEventListener("click", () => {
        if (timer) return stop();
        let next = at() >= last() ? 0 : at() + 1;  // a play from the end begins anew
        play.textContent = "Pause";
        timer = setInterval(() => {
          go(next);
          next = at() + 1;
          if (at() >= last()) stop();
        }, every);
      });
    },

    // Puts the slider where the state is and says in words where that is.
    place(at, last, words, shown = words) {
      slider.max = last;
      slider.value = at;
      slider.setAttribute("aria-valuetext", words);
      output.textContent = shown;
    },

    // The sentence below the picture, which screen readers read out: a moving slider is not read out at each stop.
    say(sentence) {
      clearTimeout(speech);
      speech = setTimeout(() => { reading.textContent = sentence(); }, 150);
    },

    // A row of radio buttons.
    choice(name, change) {
      for (const radio of root.querySelectorAll(`[data-choice="${name}"]`)) {
        radio.addEventListener("change", () => change(Number(radio.value)));
      }
    },
  };
}
