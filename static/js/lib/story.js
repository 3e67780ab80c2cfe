// Convert the log of events to the rows of the page. Pure: `views/rows.js` draws the rows.
//
// The `key` of a row never changes; its `version` increases when it must be drawn again. An action and its result share
// a row. Events may arrive in any order and more than once: each counts once, by `seq`.

const SILENT = new Set(["TokenEvent", "LLMCompletionLogEvent", "StreamingDeltaEvent", "CondensationRequest", "ConversationStateUpdateEvent"]);
const BUSY = new Set(["running"]);

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const object = (value) => (isObject(value) ? value : {});
const string = (value) => (typeof value === "string" ? value : value === undefined || value === null ? "" : JSON.stringify(value));

/** Return the text of the engine's message content, which is a string or a list of parts. Skip parts without text. */
export function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (typeof part === "string" ? part : string(object(part).text))).filter(Boolean).join("\n");
}

/** Return the kind of tool of an action: terminal, file, tasks, think, finish or other. */
export function toolOf(action, toolName) {
  const kind = string(action.kind) || string(toolName);
  if (/terminal|bash/i.test(kind)) return "terminal";
  if (/file.?editor|str_replace/i.test(kind)) return "file";
  if (/task.?tracker/i.test(kind)) return "tasks";
  if (/^think/i.test(kind)) return "think";
  if (/^finish/i.test(kind)) return "finish";
  return "other";
}

/** Return the change of a file step, `{path, before, after, isNew, isView}`: from the result, or else from the action. */
export function fileChange(action, observation) {
  const path = string(observation?.path ?? action.path);
  const command = string(observation?.command ?? action.command);
  if (command === "view") return { path, isView: true, text: observation ? textOf(observation.content) : "" };
  if (observation && typeof observation.new_content === "string") {
    const before = typeof observation.old_content === "string" ? observation.old_content : "";
    return { path, before, after: observation.new_content, isNew: observation.prev_exist === false || (command === "create" && !before) };
  }
  if (command === "create") return { path, before: "", after: string(action.file_text), isNew: true };
  if (command === "insert") return { path, before: "", after: string(action.new_str), isPart: true };
  return { path, before: string(action.old_str), after: string(action.new_str), isPart: true };
}

export class Story {
  constructor() {
    this.events = new Map();
    this.clear();
  }

  clear() {
    this.rows = [];
    this.byKey = new Map();
    this.byCall = new Map();
    this.lastApplied = 0;
    this.execution = null;
    this.runStartedAt = null;
    this.runEndedAt = null;
  }

  /** Delete all events and rows, for example after a `reset` frame. */
  reset() {
    this.events.clear();
    this.clear();
  }

  get firstSeq() {
    return this.events.size ? Math.min(...this.events.keys()) : 0;
  }

  get lastSeq() {
    return this.lastApplied;
  }

  /** Add events in any order, skipping known ones. Return whether all rows were rebuilt. */
  add(events) {
    const fresh = events.filter((event) => Number.isInteger(event.seq) && !this.events.has(event.seq)).sort((a, b) => a.seq - b.seq);
    for (const event of fresh) this.events.set(event.seq, event);
    if (!fresh.length) return false;
    if (fresh[0].seq < this.lastApplied) {
      const versions = new Map([...this.byKey].map(([key, row]) => [key, row.version]));
      this.clear();
      for (const seq of [...this.events.keys()].sort((a, b) => a - b)) this.apply(this.events.get(seq));
      for (const row of this.rows) row.version += (versions.get(row.key) ?? 0) + 1;
      return true;
    }
    for (const event of fresh) this.apply(event);
    return false;
  }

  /** Return the actions without a result, oldest first. An open request for approval is about these. */
  pending() {
    return this.rows.filter((row) => row.type === "tool" && !row.observation && (row.state === "waiting" || row.state === "running"));
  }

  /** Return the net change of each file that the agent wrote, from its first known content to its latest. */
  fileChanges() {
    const found = new Map();
    for (const row of this.rows) {
      if (row.type !== "tool" || row.tool !== "file" || row.state !== "done") continue;
      const change = fileChange(row.action, row.observation);
      if (change.isView || change.isPart || change.after === undefined) continue;
      const known = found.get(change.path);
      if (known) known.after = change.after;
      else found.set(change.path, { ...change });
    }
    return [...found.values()].filter((change) => change.before !== change.after);
  }

  apply(event) {
    this.lastApplied = event.seq;
    const payload = object(event.payload);
    const handler = HANDLERS[event.kind];
    if (handler) handler(this, event, payload);
    else if (!SILENT.has(event.kind)) this.push({ type: "unknown", event, payload: event.payload });
  }

  push(row) {
    const { event, ...rest } = row;
    const whole = { key: event.event_id || `seq-${event.seq}`, seq: event.seq, at: event.received_at, version: 1, ...rest };
    if (this.byKey.has(whole.key)) whole.key = `seq-${event.seq}`;
    this.rows.push(whole);
    this.byKey.set(whole.key, whole);
    return whole;
  }

  touch(row, changes) {
    Object.assign(row, changes);
    row.version++;
  }

  findAction(payload) {
    return this.byKey.get(payload.action_id) ?? this.byCall.get(payload.tool_call_id) ?? null;
  }

  setExecution(status, at) {
    this.execution = status;
    if (BUSY.has(status)) {
      if (this.runStartedAt === null || this.runEndedAt !== null) this.runStartedAt = at;
      this.runEndedAt = null;
    } else if (status !== "waiting_for_confirmation" && this.runStartedAt !== null && this.runEndedAt === null) {
      this.runEndedAt = at;
    }
    const state = { waiting_for_confirmation: "waiting", running: "running" }[status] ?? "stopped";
    for (let i = this.rows.length - 1; i >= 0 && this.rows[i].type !== "user"; i--) {
      const row = this.rows[i];
      if (row.type === "tool" && !row.observation && row.state !== "done" && row.state !== state) this.touch(row, { state });
    }
  }
}

const HANDLERS = {
  UserMessage(story, event, payload) {
    const images = Array.isArray(payload.images) ? payload.images.length : 0;
    story.push({ type: "user", event, text: string(payload.text), images, delivered: false });
  },

  MessageEvent(story, event, payload) {
    const message = object(payload.llm_message);
    const text = textOf(message.content);
    if (event.source === "user") {
      const sent = story.rows.find((row) => row.type === "user" && !row.delivered && row.text.trim() === text.trim());
      if (sent) story.touch(sent, { delivered: true });
      return;
    }
    const reasoning = string(message.reasoning_content ?? payload.reasoning_content);
    if (text || reasoning) story.push({ type: "agent", event, text, reasoning });
  },

  ActionEvent(story, event, payload) {
    const action = object(payload.action);
    const tool = toolOf(action, payload.tool_name);
    const said = { thought: textOf(payload.thought), reasoning: string(payload.reasoning_content) };
    if (tool === "finish") {
      story.push({ type: "finish", event, text: string(action.message), ...said, action });
    } else {
      story.push({
        type: "tool", event, tool, action, ...said,
        toolName: string(payload.tool_name), summary: string(payload.summary), risk: string(payload.security_risk),
        state: story.execution === "waiting_for_confirmation" ? "waiting" : "running", observation: null, endedAt: null,
      });
    }
    const row = story.rows[story.rows.length - 1];
    if (payload.tool_call_id) story.byCall.set(payload.tool_call_id, row);
  },

  ObservationEvent(story, event, payload) {
    const observation = object(payload.observation);
    const row = story.findAction(payload);
    if (row?.type === "finish") return;
    const state = observation.is_error === true ? "error" : "done";
    if (row) story.touch(row, { observation, state, endedAt: event.received_at });
    else {
      const tool = toolOf(observation, payload.tool_name);
      story.push({ type: "tool", event, tool: tool === "finish" ? "other" : tool, action: {}, thought: "", reasoning: "", toolName: string(payload.tool_name), summary: "", risk: "", state, observation, endedAt: event.received_at });
    }
  },

  UserRejectObservation(story, event, payload) {
    const row = story.findAction(payload);
    const reason = string(payload.rejection_reason);
    const byPerson = payload.rejection_source !== "hook";
    if (row) story.touch(row, { state: "rejected", reason, byPerson, observation: payload, endedAt: event.received_at });
    else story.push({ type: "divider", event, icon: "x", text: "An action was rejected", detail: reason });
  },

  AgentErrorEvent(story, event, payload) {
    const row = story.findAction(payload);
    const error = string(payload.error);
    const state = /interrupted before completion/i.test(error) ? "stopped" : "error";
    if (row && row.type === "tool" && !row.observation) story.touch(row, { state, error, observation: payload, endedAt: event.received_at });
    else story.push({ type: "trouble", event, title: "A step failed", detail: error, classification: object(payload.classification), isSmall: true });
  },

  ConversationErrorEvent(story, event, payload) {
    story.push({ type: "trouble", event, title: "The agent stopped with an error", code: string(payload.code), detail: string(payload.detail), classification: object(payload.classification) });
  },

  SandboxNotice(story, event, payload) {
    if (payload.code === "egress_refused" && payload.host) {
      story.push({ type: "host", event, host: string(payload.host), port: string(payload.port), text: string(payload.message) });
      return;
    }
    story.push({ type: "notice", event, code: string(payload.code), text: string(payload.message), detail: string(payload.detail) });
  },

  HostRuleChange(story, event, payload) {
    const name = { true: "check", false: "x" }[payload.allowed] ?? "retry";
    story.push({ type: "divider", event, icon: name, text: string(payload.message), detail: "" });
  },

  UserConfirmation(story, event, payload) {
    const text = payload.accept ? "You approved" : "You rejected";
    story.push({ type: "divider", event, icon: payload.accept ? "check" : "x", text, detail: "" });
  },

  SystemPromptEvent(story, event, payload) {
    const tools = Array.isArray(payload.tools) ? payload.tools.map((tool) => string(object(tool).title ?? object(tool).name)) : [];
    story.push({ type: "system", event, text: string(object(payload.system_prompt).text ?? payload.system_prompt), tools: tools.filter(Boolean) });
  },

  PauseEvent(story, event) {
    story.push({ type: "divider", event, icon: "stop", text: "Paused" });
  },

  InterruptEvent(story, event) {
    story.push({ type: "divider", event, icon: "stop", text: "Stopped" });
  },

  Condensation(story, event, payload) {
    story.push({ type: "divider", event, icon: "book", text: "Earlier steps were summarized to shorten the history", detail: string(payload.summary) });
  },

  CondensationSummaryEvent(story, event, payload) {
    HANDLERS.Condensation(story, event, payload);
  },

  SecurityAnalysisEvent(story, event, payload) {
    for (const [id, risk] of Object.entries(object(payload.risks))) {
      const row = story.byKey.get(id);
      if (row?.type === "tool" && risk !== row.risk) story.touch(row, { risk: string(risk) });
    }
  },

  ConversationStateUpdateEvent(story, event, payload) {
    if (payload.key === "execution_status") story.setExecution(string(payload.value), event.received_at);
  },
};

/** The text that the agent is writing now, joined from deltas. A stored event replaces it. */
export class Streaming {
  constructor() {
    this.items = new Map();
  }

  /** Add a delta. A repeated `order` of 0 means that the agent started the text again. */
  add({ item_id: id, kind, content, order }) {
    let item = this.items.get(id);
    if (!item || (Number.isInteger(order) && order <= item.order && order === 0)) {
      item = { id, text: "", reasoning: "", order: -1 };
      this.items.set(id, item);
    }
    if (Number.isInteger(order)) {
      if (order <= item.order) return;
      item.order = order;
    }
    if (kind === "text") item.text += content ?? "";
    else if (kind === "reasoning") item.reasoning += content ?? "";
  }

  /** Drop the text that a stored event replaces. Return whether any text was dropped. */
  supersede(event) {
    const speaks = event.source === "agent" && ["MessageEvent", "ActionEvent", "AgentErrorEvent"].includes(event.kind);
    const ends = event.kind === "ConversationErrorEvent" || event.kind === "InterruptEvent" || event.kind === "PauseEvent";
    if (!this.items.size || !(speaks || ends)) return false;
    this.items.clear();
    return true;
  }

  clear() {
    this.items.clear();
  }

  current() {
    return [...this.items.values()].filter((item) => item.text || item.reasoning);
  }
}
