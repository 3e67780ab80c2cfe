// The isolation, limits and usage of a conversation's sandbox, read again whenever the box is opened.

import { json } from "./lib/api.js";
import { h, icon } from "./lib/dom.js";
import { used } from "./lib/format.js";

const box = document.querySelector("[data-isolation]");
const part = (name) => box.querySelector(`[data-isolation-${name}]`);

function drawWall(wall) {
  const mark = wall.in_force ? icon("check", "In force") : icon("x", "Not in force");
  return h("li", { class: wall.in_force ? null : "missing" }, mark, h("span", {}, h("strong", {}, wall.name), ` ${wall.detail}`));
}

async function refresh() {
  let sandbox;
  try {
    sandbox = await json("GET", box.dataset.isolation);
  } catch {
    return; // The words that the page came with stay.
  }
  const { isolation, limits, usage } = sandbox;
  part("word").textContent = isolation.word;
  part("meaning").textContent = isolation.meaning;
  box.querySelector("summary").className = `chip ${isolation.is_isolated ? "good" : "attention"}`;
  const resources = [
    ["Memory", used(usage?.memory_bytes, limits.memory_bytes, "MB")],
    ["Processes", used(usage?.processes, limits.processes)],
    ["Disk", used(usage?.disk_bytes, limits.disk_bytes, "MB")],
  ];
  part("resources").replaceChildren(...resources.map(([name, words]) => h("div", {}, h("dt", {}, name), h("dd", {}, words))));
  part("walls").replaceChildren(...isolation.walls.map(drawWall));
}

box?.addEventListener("toggle", () => {
  if (box.open) refresh();
});
