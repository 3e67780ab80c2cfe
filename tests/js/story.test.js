import assert from "node:assert/strict";
import { test } from "node:test";
import { Story, Streaming, fileChange, textOf } from "../../static/js/lib/story.js";

let clock = 0;
const event = (seq, kind, payload = {}, source = "agent") => ({ seq, event_id: payload.id ?? `e${seq}`, kind, source, payload, received_at: new Date(1.7e12 + 1000 * (clock = seq)).toISOString() });
const status = (seq, value) => event(seq, "ConversationStateUpdateEvent", { key: "execution_status", value }, "environment");
const action = (seq, id, more = {}) => event(seq, "ActionEvent", { id, tool_name: "terminal", tool_call_id: `call-${id}`, action: { kind: "TerminalAction", command: "ls" }, thought: [{ text: "I look." }], ...more });
const result = (seq, actionId, more = {}) => event(seq, "ObservationEvent", { action_id: actionId, observation: { kind: "TerminalObservation", content: [{ type: "text", text: "a.txt" }], exit_code: 0, is_error: false, ...more } }, "environment");
const summarizeRows = (story) => story.rows.map((row) => [row.type, row.state ?? row.text]);

test("an action and its observation are one row", () => {
  const story = new Story();
  story.add([action(1, "A"), result(2, "A")]);
  assert.equal(story.rows.length, 1);
  const [row] = story.rows;
  assert.deepEqual([row.type, row.tool, row.state, row.thought], ["tool", "terminal", "done", "I look."]);
  assert.equal(row.version, 2);
});

test("an echo marks the earliest undelivered message as delivered and adds no row", () => {
  const story = new Story();
  const echo = (seq, text) => event(seq, "MessageEvent", { llm_message: { role: "user", content: [{ type: "text", text }] } }, "user");
  story.add([event(1, "UserMessage", { text: "go" }, "user"), event(2, "UserMessage", { text: "go" }, "user"), echo(3, "go")]);
  assert.deepEqual(story.rows.map((row) => row.delivered), [true, false]);
  story.add([echo(4, "go")]);
  assert.deepEqual(story.rows.map((row) => row.delivered), [true, true]);
});

test("each event is used once although the log arrives in overlapping pieces", () => {
  const log = [event(1, "UserMessage", { text: "hi" }, "user"), status(2, "running"), action(3, "A"), result(4, "A"), event(5, "MessageEvent", { llm_message: { content: [{ text: "Done" }] } }), status(6, "finished")];
  const whole = new Story();
  whole.add(log);
  const pieces = new Story();
  pieces.add(log.slice(3));
  assert.equal(pieces.rows[0].tool, "terminal");
  assert.equal(pieces.add(log.slice(0, 4)), true);
  assert.equal(pieces.add(log), false);
  assert.deepEqual(summarizeRows(pieces), summarizeRows(whole));
  assert.equal(pieces.lastSeq, 6);
  assert.equal(pieces.firstSeq, 1);
});

test("a confirmation request makes its open actions wait until it is answered", () => {
  const story = new Story();
  story.add([status(1, "running"), action(2, "A"), action(3, "B"), status(4, "waiting_for_confirmation")]);
  assert.deepEqual(story.pending().map((row) => row.key), ["A", "B"]);
  assert.deepEqual(story.rows.map((row) => row.state), ["waiting", "waiting"]);
  story.add([event(5, "UserRejectObservation", { action_id: "A", rejection_reason: "no", rejection_source: "user" }, "environment"), result(6, "B")]);
  assert.deepEqual(story.rows.map((row) => row.state), ["rejected", "done"]);
  assert.deepEqual(story.pending(), []);
});

test("an action without a result is stopped when its run ends", () => {
  const story = new Story();
  story.add([status(1, "running"), action(2, "A"), status(3, "error")]);
  assert.equal(story.rows[0].state, "stopped");
  story.add([event(4, "AgentErrorEvent", { tool_call_id: "call-A", error: "A restart occurred while this tool was in progress" })]);
  assert.deepEqual([story.rows.length, story.rows[0].state], [1, "error"]);
});

test("an interrupted tool is stopped, not failed", () => {
  const story = new Story();
  story.add([action(1, "A"), event(2, "AgentErrorEvent", { tool_call_id: "call-A", error: "Tool call interrupted before completion." })]);
  assert.equal(story.rows[0].state, "stopped");
});

test("the time of a run includes its confirmation requests", () => {
  const story = new Story();
  story.add([status(1, "running"), status(5, "waiting_for_confirmation"), status(8, "running"), status(11, "finished")]);
  assert.equal(Date.parse(story.runEndedAt) - Date.parse(story.runStartedAt), 10_000);
  story.add([status(20, "running")]);
  assert.equal(story.runEndedAt, null);
  assert.equal(Date.parse(story.runStartedAt), 1.7e12 + 20_000);
});

test("the analyzer's risk is shown at its action", () => {
  const story = new Story();
  story.add([action(1, "A"), event(2, "SecurityAnalysisEvent", { risks: { A: "HIGH" } })]);
  assert.equal(story.rows[0].risk, "HIGH");
});

test("a refused host becomes a card, and a changed rule a divider", () => {
  const story = new Story();
  story.add([
    { ...event(1, "SandboxNotice", { code: "egress_refused", message: "refused", host: "a.example", port: 443 }), source: "server" },
    { ...event(2, "SandboxNotice", { code: "egress_more_refused", message: "more" }), source: "server" },
    { ...event(3, "HostRuleChange", { host: "a.example", allowed: true, message: "a.example was allowed." }), source: "server" },
  ]);
  assert.deepEqual(story.rows.map((row) => [row.type, row.host ?? row.text]), [["host", "a.example"], ["notice", "more"], ["divider", "a.example was allowed."]]);
  assert.equal(story.rows[0].port, "443");
});

test("unknown kinds are shown, and broken payloads raise no error", () => {
  const story = new Story();
  const broken = [null, 7, "text", [], { action: null, observation: [], llm_message: 3, risks: "x", tools: {} }];
  const kinds = ["MessageEvent", "ActionEvent", "ObservationEvent", "UserRejectObservation", "AgentErrorEvent", "ConversationErrorEvent", "SandboxNotice", "HostRuleChange", "SystemPromptEvent", "SecurityAnalysisEvent", "ConversationStateUpdateEvent", "UserMessage", "Condensation", "Brand new"];
  let seq = 0;
  for (const payload of broken) for (const kind of kinds) story.add([{ ...event(++seq, kind), payload }]);
  assert.equal(story.lastSeq, broken.length * kinds.length);
  assert.equal(story.rows.filter((row) => row.type === "unknown").length, broken.length);
});

test("a file change uses the reported content, or else the requested edit", () => {
  assert.deepEqual(fileChange({ command: "create", path: "/a", file_text: "x" }, null), { path: "/a", before: "", after: "x", isNew: true });
  assert.deepEqual(fileChange({ command: "str_replace", path: "/a", old_str: "x", new_str: "y" }, null), { path: "/a", before: "x", after: "y", isPart: true });
  assert.deepEqual(fileChange({ command: "str_replace", path: "/a" }, { path: "/a", old_content: "1x", new_content: "1y", prev_exist: true }), { path: "/a", before: "1x", after: "1y", isNew: false });
  assert.equal(fileChange({ command: "view", path: "/a" }, { content: [{ text: "1 x" }] }).text, "1 x");
});

test("the changes of a file are combined from its first content to its last", () => {
  const story = new Story();
  const edit = (seq, id, before, after) => [action(seq, id, { tool_name: "file_editor", action: { kind: "FileEditorAction", command: "str_replace", path: "/w/a" } }), result(seq + 1, id, { kind: "FileEditorObservation", path: "/w/a", old_content: before, new_content: after, prev_exist: before !== null })];
  story.add([...edit(1, "A", null, "1"), ...edit(3, "B", "1", "2")]);
  assert.deepEqual(story.fileChanges().map(({ path, before, after }) => [path, before, after]), [["/w/a", "", "2"]]);
});

test("the text parts of a content are joined", () => {
  assert.equal(textOf([{ type: "text", text: "a" }, { type: "image" }, { text: "b" }]), "a\nb");
  assert.equal(textOf(undefined), "");
});

test("deltas are joined and replaced by the durable event", () => {
  const streaming = new Streaming();
  streaming.add({ item_id: "i", kind: "text", content: "Hel", order: 0 });
  streaming.add({ item_id: "i", kind: "text", content: "lo", order: 1 });
  streaming.add({ item_id: "i", kind: "text", content: "lo", order: 1 });
  assert.equal(streaming.current()[0].text, "Hello");
  streaming.add({ item_id: "i", kind: "text", content: "Again", order: 0 });
  assert.equal(streaming.current()[0].text, "Again");
  assert.equal(streaming.supersede(status(1, "running")), false);
  assert.equal(streaming.supersede(event(2, "MessageEvent")), true);
  assert.deepEqual(streaming.current(), []);
});
