// Draw the rows of the story: messages of the user and the agent, and the actions of the agent.

import { h, icon } from "../lib/dom.js";
import { clock, duration } from "../lib/format.js";
import { fileChange, textOf } from "../lib/story.js";
import { chevron, diffView, prose, rawJson, sourceView, terminalOutput } from "./parts.js";

const HINTS = {
  settings: "Check the model's address, name and key in the settings.",
  retry: "This kind of error is often temporary. Press Retry.",
};

/** Draw a row. `context`: `{isOpen(key, byDefault), setOpen(key, open), shortPath(path)}`. */
export function drawRow(row, context) {
  const element = DRAW[row.type]?.(row, context) ?? unknown(row, context);
  element.classList.add("item");
  element.dataset.key = row.key;
  element.dataset.seq = row.seq ?? "";
  return element;
}

const DRAW = {
  user(row) {
    const state = row.pending ? "Sending…" : row.failed ? row.failed : row.delivered ? "" : "Waiting for the agent";
    return h(
      "article",
      { class: `said-user${row.pending ? " pending" : ""}${row.failed ? " failed" : ""}`, "aria-label": "You" },
      h("div", { class: `bubble${row.text.length > 1500 ? " long" : ""}`, tabindex: row.text.length > 1500 ? "0" : null }, row.text),
      row.images ? h("p", { class: "under" }, `${row.images} ${row.images === 1 ? "image" : "images"}`) : null,
      state ? h("p", { class: "under" }, state, row.failed ? h("button", { type: "button", class: "button small", onclick: row.retry }, "Try again") : null) : null,
    );
  },

  agent(row, context) {
    return h("article", { class: "said-agent", "aria-label": "Agent" }, reasoning(row, context), row.text ? prose(row.text) : null, thumbs(row, context));
  },

  finish(row, context) {
    return h(
      "article",
      { class: "said-agent", "aria-label": "Agent, finished" },
      reasoning(row, context),
      row.thought && row.thought.trim() !== row.text.trim() ? spaced(prose(row.thought)) : null,
      h("div", { class: "finish" }, h("p", { class: "finish-head" }, icon("flag"), "Finished"), row.text ? prose(row.text) : h("p", { class: "faint" }, "Done.")),
      thumbs(row, context),
    );
  },

  tool(row, context) {
    return h("article", { class: "tool", "aria-label": "Step" }, reasoning(row, context), row.thought ? spaced(prose(row.thought)) : null, card(row, context));
  },

  notice(row) {
    return h("article", { "aria-label": "Server" }, h("div", { class: "server-note" }, icon("info"), h("div", {}, row.text, row.detail ? h("p", { class: "faint small-text" }, row.detail) : null)));
  },

  host(row, context) {
    return context.drawHost(row);
  },

  divider(row, context) {
    const line = h("p", { class: "divider" }, h("span", {}, icon(row.icon), row.text));
    if (!row.detail) return h("div", {}, line);
    return h("div", {}, line, quiet(row, context, "More", h("div", { class: "pad" }, prose(row.detail))));
  },

  trouble(row) {
    const action = row.classification?.user_action;
    const hint = HINTS[action];
    return h(
      "article",
      { "aria-label": "Error" },
      h(
        "div",
        { class: "trouble", role: row.isSmall ? null : "alert" },
        h("p", { class: "trouble-head" }, icon("alert"), title(row)),
        row.detail ? h("p", { class: "trouble-text" }, row.detail) : null,
        hint ? h("p", { class: "trouble-hint" }, hint, action === "settings" ? [" ", h("a", { href: "/settings/model" }, "Open the settings")] : null) : null,
      ),
    );
  },

  system(row, context) {
    return h("div", {}, quiet(row, context, `Instructions${row.tools.length ? `, ${row.tools.length} tools` : ""}`, h("div", {}, row.tools.length ? h("p", { class: "hint" }, `Tools: ${row.tools.join(", ")}`) : null, h("pre", { class: "raw" }, row.text))));
  },
};

function thumbs(row, context) {
  if (!row.seq || !context.rate) return null;
  const current = context.ratings.get(row.seq);
  const thumb = (rating, sign, label) => h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, "aria-pressed": String(current === rating), onclick: (event) => context.rate(row, rating, event.currentTarget) }, sign);
  return h("div", { class: "thumbs" }, thumb(5, icon("thumb-up"), "Good answer"), thumb(1, icon("thumb-down"), "Bad answer"));
}

function unknown(row) {
  const name = row.event?.kind ?? row.kind ?? "Event";
  return h("div", {}, rawJson(row.payload, name.replace(/Event$/, "").replace(/([a-z])([A-Z])/g, "$1 $2")));
}

function title(row) {
  const names = {
    LLMAuthenticationError: "The model server rejected the API key",
    LLMRateLimitError: "The rate limit of the model server was reached",
    LLMServiceUnavailableError: "The model server is not available",
    LLMBadRequestError: "The model server rejected the request",
    LLMContextWindowExceedError: "The conversation is too long for the model",
    MaxIterationsReached: "The agent reached its maximum number of steps",
    NotFoundError: "The model server has no such address or model",
  };
  return names[row.code] ?? (row.code ? `${row.title}: ${row.code}` : row.title);
}

function spaced(element) {
  element.style.marginBottom = "0.75rem";
  return element;
}

function reasoning(row, context) {
  if (!row.reasoning) return null;
  const key = `${row.key}:reasoning`;
  return h("details", { class: "reasoning", open: context.isOpen(key, false), ontoggle: (event) => context.setOpen(key, event.target.open) }, h("summary", {}, chevron(), "Reasoning"), h("div", {}, row.reasoning));
}

function quiet(row, context, label, body) {
  const key = `${row.key}:quiet`;
  return h("details", { class: "quiet-row", open: context.isOpen(key, false), ontoggle: (event) => context.setOpen(key, event.target.open) }, h("summary", {}, chevron(), label), body);
}

// --- Steps ------------------------------------------------------------------------

const TOOLS = { terminal: terminalStep, file: fileStep, tasks: tasksStep, think: thinkStep, other: otherStep };

function card(row, context) {
  const { icon: name, title: heading, note, body, openByDefault, failed = false } = TOOLS[row.tool](row, context);
  const isOpen = context.isOpen(row.key, openByDefault && context.opensSteps(row));
  const refused = row.state === "rejected" ? h("p", { class: "pad" }, h("strong", {}, row.byPerson ? "You rejected this action." : "A hook rejected this action."), row.reason ? ` ${row.reason}` : "") : null;
  const error = row.error ? h("p", { class: "pad trouble-text" }, row.error) : null;
  return h(
    "details",
    { class: "step", dataset: { state: row.state, tool: row.tool }, open: isOpen, ontoggle: (event) => context.setOpen(row.key, event.target.open) },
    h(
      "summary",
      {},
      h("span", { class: "step-icon" }, icon(name)),
      h("span", { class: "step-title" }, heading),
      ["HIGH", "MEDIUM"].includes(row.risk) ? h("span", { class: `risk ${row.risk}` }, `${row.risk === "HIGH" ? "High" : "Medium"} risk`) : null,
      note ? h("span", { class: "step-note" }, note) : null,
      stateMark(failed && row.state === "done" ? "error" : row.state, failed ? "Ended with an error" : null),
      chevron(),
    ),
    h("div", { class: "step-body" }, body, refused, error),
  );
}

function stateMark(state, description = null) {
  const marks = { done: ["check", "Done", ""], error: ["x", "Failed", " bad"], rejected: ["x", "Rejected", " quiet"], waiting: ["clock", "Waiting for you", " attention"], stopped: ["stop", "Stopped", " quiet"] };
  if (state === "running") return h("span", { class: "step-state", role: "img", "aria-label": "Running" }, h("span", { class: "spinner" }));
  const [name, label, tone] = marks[state] ?? marks.done;
  return h("span", { class: `step-state${tone}` }, icon(name, description ?? label));
}

function seconds(row) {
  if (!row.endedAt) return null;
  const length = (Date.parse(row.endedAt) - Date.parse(row.at)) / 1000;
  return length >= 1 ? duration(length) : null;
}

function terminalStep(row, context) {
  const command = typeof row.action.command === "string" ? row.action.command : (row.observation?.command ?? "");
  const seen = row.observation && row.state !== "rejected" && !row.error ? row.observation : null;
  const output = seen ? textOf(seen.content) : "";
  const exitCode = seen?.exit_code ?? seen?.metadata?.exit_code ?? null;
  const body = h("div", { class: "terminal" }, h("div", { class: "terminal-line" }, h("span", { class: "dollar", "aria-hidden": "true" }, row.action.is_input ? "›" : "$"), h("code", {}, command || (row.action.reset ? "(new shell)" : "(reads the output)"))));
  const foot = h("div", { class: "terminal-foot" });
  if (seen) {
    if (output.trim()) {
      const key = `${row.key}:output`;
      const { pre, button } = terminalOutput(output, { isOpen: context.isOpen(key, false), onOpen: (open) => context.setOpen(key, open) });
      body.append(pre);
      foot.append(exitWord(exitCode, seen), folder(seen, context));
      if (button) foot.append(button);
    } else {
      body.append(h("p", { class: "no-output" }, "No output"));
      foot.append(exitWord(exitCode, seen), folder(seen, context));
    }
    body.append(foot);
  }
  const failed = Number.isInteger(exitCode) && exitCode > 0;
  return {
    icon: "terminal",
    title: [h("code", {}, command.split("\n")[0] || "terminal")],
    note: [failed ? `exit ${exitCode}` : null, seconds(row)].filter(Boolean).join(" · "),
    body,
    failed,
    openByDefault: true,
  };
}

function exitWord(code, seen) {
  if (seen.timeout || code === -1) return h("span", {}, "Still running in the shell");
  if (code === null || code === undefined) return h("span", {});
  return h("span", { class: code === 0 ? "good" : "bad" }, `exit ${code}`);
}

function folder(seen, context) {
  const path = seen.metadata?.working_dir;
  return h("span", {}, path ? context.shortPath(path) : "");
}

function fileStep(row, context) {
  const seen = row.observation && !row.error && row.state !== "rejected" ? row.observation : null;
  const change = fileChange(row.action, seen);
  const path = h("code", {}, context.shortPath(change.path) || "file");
  if (row.state === "error" && seen) {
    return { icon: "pencil", title: [h("b", {}, change.isView ? "Read " : change.isNew ? "New file " : "Edit "), path], body: h("p", { class: "pad trouble-text" }, textOf(seen.content)), openByDefault: true };
  }
  if (change.isView) {
    return { icon: "file", title: [h("b", {}, "Read "), path], note: seconds(row), body: change.text ? h("pre", { class: "raw" }, change.text) : h("p", { class: "pad faint" }, "Reading…"), openByDefault: false };
  }
  if (change.isNew) {
    const lines = change.after ? change.after.replace(/\n$/, "").split("\n").length : 0;
    return { icon: "file-plus", title: [h("b", {}, "New file "), path], note: [h("span", { class: "plus" }, `+${lines}`)], body: sourceView(change.after), openByDefault: true };
  }
  const { element, added, removed } = diffView(change.before, change.after);
  const note = added === null ? null : [h("span", { class: "plus" }, `+${added}`), " ", h("span", { class: "minus" }, `−${removed}`)];
  const partial = change.isPart && !seen ? h("p", { class: "diff-note" }, "Line numbers start at the changed part.") : null;
  return { icon: "pencil", title: [h("b", {}, "Edit "), path], note, body: h("div", {}, element, partial), openByDefault: true };
}

function tasksStep(row) {
  const list = [row.observation?.task_list, row.action.task_list].find(Array.isArray) ?? [];
  const tasks = list.filter((task) => typeof task === "object" && task !== null);
  const done = tasks.filter((task) => task.status === "done").length;
  const items = tasks.map((task) => {
    const state = ["done", "in_progress"].includes(task.status) ? task.status : "todo";
    const spoken = { done: "Done: ", in_progress: "In progress: ", todo: "To do: " }[state];
    return h("li", { class: state }, h("span", { class: "box", "aria-hidden": "true" }, state === "done" ? icon("check") : null), h("span", {}, h("span", { class: "hidden" }, spoken), h("span", { class: "what" }, String(task.title ?? "")), task.notes ? h("small", {}, String(task.notes)) : null));
  });
  const isView = row.action.command === "view";
  const body = items.length ? h("ul", { class: "plan" }, items) : h("p", { class: "pad faint" }, textOf(row.observation?.content) || "No tasks.");
  return { icon: "tasks", title: [h("b", {}, isView ? "Read the plan" : "Plan")], note: tasks.length ? `${done} of ${tasks.length} done` : null, body, openByDefault: !isView };
}

function thinkStep(row) {
  const thought = typeof row.action.thought === "string" ? row.action.thought : textOf(row.observation?.content);
  return { icon: "bulb", title: [h("b", {}, "Thought "), thought.split("\n")[0]], body: prose(thought), openByDefault: false };
}

function otherStep(row) {
  const name = row.toolName || String(row.action.kind ?? "Step").replace(/Action$/, "");
  const output = row.observation && row.state !== "rejected" && !row.error ? textOf(row.observation.content) : "";
  const args = Object.fromEntries(Object.entries(row.action).filter(([key]) => key !== "kind"));
  return {
    icon: "braces",
    title: [h("b", {}, name.replace(/_/g, " ")), row.summary ? ` ${row.summary}` : ""],
    note: seconds(row),
    body: h("div", {}, Object.keys(args).length ? h("pre", { class: "raw" }, JSON.stringify(args, null, 2)) : null, output ? h("pre", { class: "raw" }, output) : null),
    openByDefault: false,
  };
}

/** Describe an action in one line, for a request for approval. */
export function inOneLine(row, context) {
  if (row.tool === "terminal") return String(row.action.command ?? "");
  if (row.tool === "file") return `${row.action.command ?? "edit"} ${context.shortPath(String(row.action.path ?? ""))}`;
  if (row.tool === "tasks") return row.action.command === "view" ? "Read the plan" : "Update the plan";
  return `${row.toolName || row.action.kind || "step"} ${row.summary ?? ""}`.trim();
}

/** Draw the text that the agent is writing now. */
export function drawStreaming(item) {
  return h("div", { class: "item streaming" }, item.reasoning && !item.text ? h("div", { class: "reasoning" }, h("div", {}, item.reasoning.slice(-600))) : null, item.text ? prose(item.text) : null);
}

/** Draw the phases of a start that is in progress or has failed. */
export function drawStart(phases, task, word) {
  return h(
    "section",
    { class: "start item", "aria-label": "Start" },
    h("h2", {}, word),
    h(
      "ol",
      { class: "phases" },
      phases.map((phase) => {
        const mark = phase.state === "now" ? h("span", { class: "spinner" }) : h("span", { class: `step-state${phase.state === "failed" ? " bad" : ""}` }, icon(phase.state === "failed" ? "x" : "check"));
        const length = phase.state === "now" ? clock(phase.seconds) : duration(phase.seconds);
        return h("li", { class: phase.state }, mark, h("span", {}, phase.label), h("span", { class: "secs" }, length), phase.detail ? h("small", {}, phase.detail) : null, phase.percent === null ? null : h("progress", { max: "100", value: String(phase.percent), "aria-label": "Installation of the agent engine" }));
      }),
    ),
    task?.error ? h("p", { class: "trouble-text" }, task.error) : null,
  );
}
