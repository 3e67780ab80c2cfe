// The model settings: fill in the address and model of a known provider.

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
