// The setup checklist on the home page: fetch it again once the server has run its checks.

const slot = document.querySelector("[data-setup][data-checking]");
const status = document.querySelector("[data-setup-status]");

/** Return what identifies an element of the card again after the card was replaced, or null. */
function place(element) {
  if (!slot.contains(element)) return null;
  const step = element.closest("[data-step]")?.dataset.step;
  const tag = element.localName;
  return step ? `[data-step="${step}"] ${tag}` : `.setup-head ${tag}`;
}

async function complete() {
  try {
    const response = await fetch(slot.dataset.url, { credentials: "same-origin", redirect: "error" });
    if (!response.ok) throw new Error(response.statusText);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const focused = place(document.activeElement);
    const open = [...slot.querySelectorAll("details[open]")].map((element) => place(element));
    slot.replaceChildren(...page.body.childNodes);
    for (const button of slot.querySelectorAll("[data-copy]")) button.hidden = false;
    for (const selector of open) slot.querySelector(selector)?.setAttribute("open", "");
    if (focused) slot.querySelector(focused)?.focus({ preventScroll: true });
    const title = slot.querySelector('[data-step="doctor"] .step-title')?.textContent;
    status.textContent = title ? `Set up this server: ${title}.` : "";
  } catch {
    const hint = slot.querySelector('[data-step="doctor"] .hint');
    if (hint) hint.textContent = "The checks did not answer. Reload the page to try again.";
  }
}

if (slot) complete();
