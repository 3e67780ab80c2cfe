// Create elements. Strings are always set as text and never parsed as HTML, so output of agents cannot inject markup.

const sprite = () => document.body.dataset.icons;

/** Create an element. Properties that begin with "on" are listeners; `dataset` and `style` are objects; null is skipped. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "style") {
      for (const [key, style] of Object.entries(value)) key.startsWith("--") ? element.style.setProperty(key, style) : (element.style[key] = style);
    } else if (name === "class") element.className = value;
    else if (value === true) element.setAttribute(name, "");
    else element.setAttribute(name, value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child);
  }
}

/** Create an icon from `static/img/icons.svg`. Without a label, screen readers skip it. */
export function icon(name, label = null) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  if (label) {
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
  } else svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `${sprite()}#${name}`);
  svg.append(use);
  return svg;
}

/** Show a sentence for six seconds. Screen readers announce it. */
export function toast(sentence) {
  const box = document.querySelector("[data-toasts]");
  const note = h("div", { class: "toast" }, sentence);
  box.append(note);
  setTimeout(() => note.remove(), 6000);
}

/** Show a confirmation dialog; resolve to true if the user confirms. */
export function ask(question, word = "Continue") {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { class: "ask", "aria-label": "Please confirm" },
      h("p", {}, question),
      h(
        "form",
        { method: "dialog", class: "buttons" },
        h("button", { class: "button", value: "no" }, "Cancel"),
        h("button", { class: "button danger", value: "yes" }, word),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

let errors = 0;

/**
 * Show the error of a field after it, refer to it from the field, and focus the field. An empty sentence removes it.
 *
 * The API begins some sentences with the name of a field ("host: …"), for which the label stands on pages.
 */
export function showFieldError(field, sentence) {
  document.getElementById(field.getAttribute("aria-describedby"))?.remove();
  field.removeAttribute("aria-describedby");
  field.removeAttribute("aria-invalid");
  if (!sentence) return;
  const id = `field-error-${++errors}`;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", id);
  field.after(h("p", { class: "field-error", id, role: "alert" }, sentence.replace(/^[a-z_]+: /, `${field.getAttribute("aria-label")}: `)));
  field.focus();
}

/** Copy a text to the clipboard and show a message. Return false if the browser does not allow it. */
export async function copy(text, sentence = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { style: { position: "fixed", opacity: "0" } });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) {
      toast("The browser did not allow copying. Select the text and copy it yourself.");
      return false;
    }
  }
  toast(sentence);
  return true;
}

/** Make a text area grow with its text, up to the maximum height of its style. */
export function grow(area) {
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
    area.style.overflowY = area.scrollHeight > area.clientHeight + 4 ? "auto" : "hidden";
  };
  area.addEventListener("input", fit);
  if (area.value) fit();
  return fit;
}
