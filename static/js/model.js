// The model settings: fill in the address and model of a known provider, and look for model servers on this machine.

const form = document.querySelector("[data-model-form]");
const presets = form.querySelector("[data-presets]");

presets.hidden = false;
presets.addEventListener("click", (event) => {
  const preset = event.target.closest("button");
  if (!preset) return;
  form.elements.base_url.value = preset.dataset.url;
  form.elements.model.value = preset.dataset.model;
  (preset.dataset.model ? form.elements.api_key : form.elements.model).focus();
});

form.addEventListener("submit", (event) => event.submitter?.setAttribute("aria-busy", "true"));

const section = document.querySelector("[data-servers]");
if (section) showServers(section);

/** Look for model servers after the page is shown, so that the page does not wait for them, and at each "Look again". */
function showServers(section) {
  const found = section.querySelector("[data-servers-found]");

  async function look({ again = false } = {}) {
    const address = new URL(section.dataset.servers, location.href);
    if (again) address.searchParams.set("again", "1");
    const hint = document.createElement("p");
    hint.className = "hint";
    hint.textContent = "Looking for model servers…";
    const before = [...found.childNodes];
    found.replaceChildren(hint);
    try {
      const response = await fetch(address, { credentials: "same-origin", redirect: "error" });
      if (!response.ok) throw new Error(response.statusText);
      const part = new DOMParser().parseFromString(await response.text(), "text/html");
      found.replaceChildren(...part.body.childNodes);
    } catch {
      found.replaceChildren(...before); // with the button that opens the page with the servers
    }
  }

  section.addEventListener("submit", (event) => {
    if (event.target.matches("[data-look]")) {
      event.preventDefault();
      look({ again: true });
      return;
    }
    const isAsked = event.target.dataset.confirm && !event.target.dataset.confirmed; // common.js asks first
    if (!event.target.matches("[data-try]") || isAsked || !event.submitter) return;
    event.submitter.setAttribute("aria-busy", "true");
    event.submitter.textContent = "Testing…";
  });
  if (found.querySelector("[data-look]")) look();
}
