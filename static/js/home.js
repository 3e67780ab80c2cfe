// The home page: send by keyboard, fill in examples, refresh the lists, and load more rows in place.

import { humanise } from "./common.js";

const form = document.querySelector("[data-prompt]");
const lists = document.querySelector("[data-lists]");

if (form) ready();

lists.addEventListener("click", async (event) => {
  const more = event.target.closest("[data-more]");
  if (!more || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  more.setAttribute("aria-busy", "true");
  const address = new URL(more.href);
  address.searchParams.set("part", "lists");
  try {
    const response = await fetch(address, { credentials: "same-origin" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const rows = [...page.querySelectorAll("[data-recent] > li")];
    lists.querySelector("[data-recent]").append(...rows);
    hasMore = true;
    const next = page.querySelector("[data-more]");
    if (next) more.replaceWith(next);
    else more.closest(".more").remove();
    humanise(lists);
    rows[0]?.querySelector("a").focus({ preventScroll: true });
  } catch {
    location.assign(more.href);
  }
});

/** Set up the form that starts a conversation. Pages of search results have no such form. */
function ready() {
  const area = form.querySelector("textarea");
  const send = form.querySelector("[data-send]");
  if (/Mac|iPhone|iPad/.test(navigator.platform)) form.querySelector("[data-mod]").textContent = "⌘";
  area.setSelectionRange(area.value.length, area.value.length);

  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });

  // The hidden idempotency key makes a second click harmless, so the button only shows that work is in progress.
  form.addEventListener("submit", () => {
    send.setAttribute("aria-busy", "true");
    send.firstChild.textContent = "Starting…";
  });
  addEventListener("pageshow", () => {
    send.removeAttribute("aria-busy");
    send.firstChild.textContent = "Start";
  });

  for (const example of document.querySelectorAll("[data-example]")) {
    example.addEventListener("click", (event) => {
      event.preventDefault();
      area.value = example.dataset.example;
      area.dispatchEvent(new Event("input"));
      area.focus();
    });
  }
}

const engine = document.querySelector("[data-engine]");
if (engine?.firstElementChild) followEngine();

/** Show the progress of the engine's installation until it ends. Only its end is announced to screen readers. */
async function followEngine() {
  const installing = engine.querySelector("[data-engine-installing]");
  try {
    const response = document.hidden ? null : await fetch(engine.dataset.url, { credentials: "same-origin", redirect: "error" });
    if (response?.ok) {
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      const fresh = page.querySelector("[data-engine-installing]");
      if (!page.body.firstElementChild) return engineReady(installing);
      if (fresh && installing) {
        installing.querySelector("[data-engine-words]").textContent = fresh.querySelector("[data-engine-words]").textContent;
        installing.querySelector("progress").replaceWith(fresh.querySelector("progress"));
      } else if (engine.textContent.trim() !== page.body.textContent.trim()) {
        engine.replaceChildren(...page.body.childNodes);
      }
    }
  } catch {
    // The next request tries again.
  }
  setTimeout(followEngine, 2000);
}

function engineReady(installing) {
  if (!installing) return engine.replaceChildren();
  installing.querySelector("[data-engine-status]").textContent = "The agent engine is ready.";
  installing.querySelector(".engine-progress").remove();
  setTimeout(() => engine.replaceChildren(), 8000);
}

let hasMore = new URLSearchParams(location.search).has("before");
let latest = lists.innerHTML;

/** Fetch the lists again. Skip this after older rows were loaded, because a new first page would remove them. */
async function refresh() {
  if (document.hidden || hasMore) return;
  try {
    const response = await fetch(lists.dataset.url, { credentials: "same-origin", redirect: "error" });
    if (!response.ok) return;
    const text = await response.text();
    if (text === latest || hasMore) return;
    latest = text;
    const focused = lists.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const page = new DOMParser().parseFromString(text, "text/html");
    lists.replaceChildren(...page.body.childNodes);
    humanise(lists);
    if (focused) lists.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  } catch {
    // The next refresh tries again.
  }
}

setInterval(refresh, 4000);
document.addEventListener("visibilitychange", refresh);
