// Call this server's API with the session of the page. Errors become `ApiProblem`, whose message is a sentence for users.

export class ApiProblem extends Error {
  constructor(status, code, sentence) {
    super(sentence);
    this.status = status;
    this.code = code;
  }
}

/** Return the CSRF token, which the API requires of requests that change something. */
export function csrfToken() {
  const cookie = document.cookie.split("; ").find((part) => part.startsWith("XSRF-TOKEN="));
  return cookie ? decodeURIComponent(cookie.slice("XSRF-TOKEN=".length)) : (document.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "");
}

/** Send a request and return the response. Throw `ApiProblem` for an error status, or with status 0 without a response. */
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
    throw new ApiProblem(0, "unreachable", "The server cannot be reached. Check your network connection and try again.");
  }
  if (response.ok) return response;
  let details = {};
  try {
    details = await response.json();
  } catch {
    // The body may be the HTML page of a proxy. The status is then all we know.
  }
  throw new ApiProblem(response.status, details.code ?? "", details.error ?? details.detail ?? `The server responded with an error (HTTP ${response.status}). Try again later.`);
}

/** Send a request and return the JSON of the response, or null if its body is empty. */
export async function json(method, path, options) {
  const response = await call(method, path, options);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}
