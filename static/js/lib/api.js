// Calls of our own API with the page's session: JSON in and out, refusals as `ApiProblem` with a sentence.

export class ApiProblem extends Error {
  constructor(status, code, sentence) {
    super(sentence);
    this.status = status;
    this.code = code;
  }
}

function csrfToken() {
  const found = document.cookie.split("; ").find((part) => part.startsWith("XSRF-TOKEN="));
  return found ? decodeURIComponent(found.slice("XSRF-TOKEN=".length)) : (document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "");
}

/** The response of a call; raises `ApiProblem` for a refusal, with status 0 when the server was not reached. */
export async function call(method, path, { body, headers = {}, signal } = {}) {
  const isForm = body instanceof FormData || body instanceof Blob;
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      credentials: "same-origin",
      headers: {
        Accept: "application/json",
        ...(method === "GET" ? {} : { "X-XSRF-TOKEN": csrfToken() }),
        ...(body !== undefined && !isForm ? { "Content-Type": "application/json" } : {}),
        ...headers,
      },
      body: body === undefined ? undefined : isForm ? body : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiProblem(0, "unreachable", "The server cannot be reached. Check the connection.");
  }
  if (response.ok) return response;
  let details = {};
  try {
    details = await response.json();
  } catch {
    // A proxy's own page, say: the status has to do.
  }
  throw new ApiProblem(response.status, details.code ?? "", details.error ?? details.detail ?? `The server answered ${response.status}.`);
}

/** The JSON answer of a call, or null where there is none. */
export async function json(method, path, options) {
  const response = await call(method, path, options);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}
