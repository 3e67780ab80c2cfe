"use strict";
(() => {
  const steps = [...document.querySelectorAll("#story > article")];
  const find = (id) => document.getElementById(id);
  const place = find("place"), play = find("play"), count = find("count");
  let shown = steps.length, timer = null;
  function show(number, follow) {
    shown = Math.max(0, Math.min(steps.length, number));
    steps.forEach((step, index) => step.classList.toggle("away", index >= shown));
    place.value = shown;
    count.textContent = `${shown} of ${steps.length}`;
    if (follow && shown) steps[shown - 1].scrollIntoView({ block: "nearest" });
  }
  function halt() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  }
  play.addEventListener("click", () => {
    if (timer) return halt();
    if (shown >= steps.length) show(0);
    play.textContent = "Pause";
    timer = setInterval(() => (shown < steps.length ? show(shown + 1, true) : halt()), 900);
  });
  find("back").addEventListener("click", () => { halt(); show(shown - 1, true); });
  find("on").addEventListener("click", () => { halt(); show(shown + 1, true); });
  place.addEventListener("input", () => { halt(); show(Number(place.value), true); });
  place.max = steps.length;
  find("controls").hidden = steps.length < 2;
  show(steps.length);
})();
