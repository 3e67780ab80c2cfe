// Draw the OpenAPI document with Swagger UI. The URL of the document contains its version, so browsers cache it.

import { csrfToken } from "./lib/api.js";

/* global SwaggerUIBundle */

const box = document.getElementById("swagger-ui");

/** Run Swagger UI's script, which takes a second, after the browser has painted the list of operations. */
async function loadSwagger() {
  await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
  await new Promise((loaded, failed) => {
    const script = document.createElement("script");
    script.src = box.dataset.bundle;
    script.onload = loaded;
    script.onerror = () => failed(new Error("a script is missing"));
    document.head.append(script);
  });
}

async function draw() {
  await loadSwagger();
  const response = await fetch(box.dataset.document);
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  SwaggerUIBundle({
    spec: await response.json(),
    dom_id: "#swagger-ui",
    presets: [SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    deepLinking: true,
    docExpansion: "none",
    filter: true,
    defaultModelsExpandDepth: -1,
    requestInterceptor(request) {
      if (!["GET", "HEAD", undefined].includes(request.method)) request.headers["X-XSRF-TOKEN"] = csrfToken();
      return request;
    },
  });
}

draw().catch((error) => {
  const line = document.createElement("p");
  line.className = "notice error";
  line.setAttribute("role", "alert");
  line.textContent = `The parameters and responses of the operations could not be loaded (${error.message}). Check your network connection and reload the page.`;
  box.prepend(line);
  box.classList.add("failed");
});
