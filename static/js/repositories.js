// The repository field of the home page offers what the connected Git host has; without one it stays a plain field.

const field = document.querySelector("input[name=repository]");
const list = document.createElement("datalist");
list.id = "repositories";

let asked = null;
let timer;

/** Fill the list with repositories, recently pushed ones or those that the typed words find. */
async function offer(words) {
  if (words === asked) return;
  asked = words;
  const query = new URLSearchParams(words ? { q: words, limit: 10 } : { limit: 30 });
  try {
    const response = await fetch(`/api/v1/integrations/github/repositories?${query}`, { credentials: "same-origin" });
    if (!response.ok || asked !== words) return;
    const { items } = await response.json();
    list.replaceChildren(...items.map(({ full_name }) => Object.assign(document.createElement("option"), { value: full_name })));
  } catch {
    // A Git host that is away leaves the field as it is.
  }
}

if (field) {
  field.after(list);
  field.setAttribute("list", list.id);
  field.addEventListener("focus", () => offer(field.value.trim()), { once: true });
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => offer(field.value.trim().split("@")[0]), 300);
  });
}
