// Suggest repositories of the connected Git host in the repository field of the home page.

const field = document.querySelector("input[name=repository]");
const list = document.createElement("datalist");
list.id = "repositories";

let lastQuery = null;
let timer;

/** Fill the list with the repositories that match the text, or with recently pushed ones for an empty text. */
async function offer(words) {
  if (words === lastQuery) return;
  lastQuery = words;
  const query = new URLSearchParams(words ? { q: words, limit: 10 } : { limit: 30 });
  try {
    const response = await fetch(`/api/v1/integrations/github/repositories?${query}`, { credentials: "same-origin" });
    if (!response.ok || lastQuery !== words) return;
    const { items } = await response.json();
    list.replaceChildren(...items.map(({ full_name }) => Object.assign(document.createElement("option"), { value: full_name })));
  } catch {
    // Without suggestions, the field still accepts any text.
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
