// Code for every page: theme, menus, relative times, copy buttons, and confirmation before destructive actions.

import { ask, copy, grow } from "./lib/dom.js";
import { ago, count, money } from "./lib/format.js";

function theme() {
  try {
    const chosen = localStorage.getItem("theme");
    return ["light", "dark"].includes(chosen) ? chosen : "system"; // the admin site stores "auto"
  } catch {
    return "system";
  }
}

function showTheme() {
  for (const button of document.querySelectorAll("[data-theme-to]")) {
    button.setAttribute("aria-pressed", String(button.dataset.themeTo === theme()));
  }
}

/** Replace times with relative times in the browser's time zone, and format costs and token counts. */
export function humanise(root = document) {
  for (const time of root.querySelectorAll("time[data-ago]")) {
    const date = new Date(time.dateTime);
    time.textContent = ago(date);
    time.title = date.toLocaleString();
  }
  for (const cell of root.querySelectorAll("[data-micros]")) cell.textContent = money(Number(cell.dataset.micros));
  for (const cell of root.querySelectorAll("[data-tokens]")) {
    const tokens = Number(cell.dataset.tokens);
    cell.textContent = tokens ? `${count(tokens)} tokens` : "";
  }
}

for (const box of document.querySelectorAll("[data-theme-switch]")) box.hidden = false;
for (const button of document.querySelectorAll("[data-copy]")) button.hidden = false;
for (const area of document.querySelectorAll("textarea[data-grow]")) grow(area);
for (const element of document.querySelectorAll("[data-focus]")) element.focus();
showTheme();
humanise();
setInterval(() => humanise(), 30_000);

document.addEventListener("click", (event) => {
  const to = event.target.closest("[data-theme-to]")?.dataset.themeTo;
  if (to) {
    try {
      if (to === "system") localStorage.removeItem("theme");
      else localStorage.setItem("theme", to);
    } catch {
      // Without storage, the choice is lost when the page closes.
    }
    if (to === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = to;
    showTheme();
  }
  const copyFrom = event.target.closest("[data-copy]")?.dataset.copy;
  if (copyFrom) copy(document.querySelector(copyFrom).textContent.trim());
  for (const menu of document.querySelectorAll("details[data-menu][open], details.options[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details[data-menu][open], details.options[open]")) {
    menu.open = false;
    if (menu.contains(event.target) || event.target === document.body) menu.querySelector("summary").focus();
  }
});

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.dataset.confirm || form.dataset.confirmed) return;
  event.preventDefault();
  const word = form.dataset.confirmWord ?? event.submitter?.textContent.trim() ?? "Continue";
  if (!(await ask(form.dataset.confirm, word))) return;
  form.dataset.confirmed = "yes";
  form.requestSubmit(event.submitter);
});
