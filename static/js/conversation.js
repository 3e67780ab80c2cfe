// The page of a conversation: fetch the story, follow the live feed, and send messages and commands.

import { call, json } from "./lib/api.js";
import { copy, grow, h, icon, showFieldError, toast } from "./lib/dom.js";
import { clock, count, duration, money } from "./lib/format.js";
import { asksNow, chipOf, commandsOf, phasesOf } from "./lib/state.js";
import { Story, Streaming } from "./lib/story.js";
import { EventStream } from "./lib/stream.js";
import { Changes, Files, drawDetails } from "./views/panel.js";
import { Network } from "./views/network.js";
import { drawRow, drawStart, drawStreaming, inOneLine } from "./views/rows.js";

const start = JSON.parse(document.getElementById("page").textContent);
const may = start.may;
let record = start.record;
const base = `/api/v1/conversations/${record.id}`;
const $ = (selector) => document.querySelector(selector);
const bench = $("[data-bench]");
const scroller = $("[data-scroller]");
const storyBox = $("[data-story]");
const FIRST_PAGE = 300;
const OPEN_AT_FIRST = 12;

const story = new Story();
const streaming = new Streaming();
const drawn = new Map();
const opened = new Map();
const outbox = new Map();
let stream = null;
let linkState = "connecting";
let openFrom = 0;
let storyFrom = 1; // the story contains the log from this seq on, without the events that are never shown

// --- Paths, ratings and expanded cards ------------------------------------------------

let root = null;
function shortPath(path) {
  if (root === null || !path.startsWith(root)) {
    const match = /^(.*?\/(?:workspace|project|sandboxes\/[^/]+\/[^/]+))(?:\/|$)/.exec(path);
    if (match) root = match[1];
  }
  if (root && path.startsWith(`${root}/`)) return path.slice(root.length + 1);
  return path === root ? "workspace" : path;
}

const ratings = new Map();
async function rate(row, rating, button) {
  try {
    await call("PUT", `${base}/events/${row.seq}/feedback`, { body: { rating } });
  } catch (problem) {
    toast(problem.message);
    return;
  }
  ratings.set(row.seq, rating);
  for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
}

const context = {
  shortPath,
  rate,
  ratings,
  isOpen: (key, byDefault) => opened.get(key) ?? byDefault,
  setOpen: (key, open) => opened.set(key, open),
  opensSteps: (row) => row.seq >= openFrom,
  drawHost: (row) => network.drawCard(row),
};

// --- Drawing ------------------------------------------------------------------------

let isDrawQueued = false;
function draw() {
  if (isDrawQueued) return;
  isDrawQueued = true;
  // Browsers stop animation frames on hidden pages, but the story must stay complete.
  const soon = document.hidden ? (run) => setTimeout(run, 50) : requestAnimationFrame;
  soon(() => {
    isDrawQueued = false;
    const wasAtEnd = isAtEnd();
    drawRows();
    drawStreams();
    drawState();
    if (wasAtEnd) toEnd();
    else $("[data-jump]").hidden = isAtEnd();
  });
}

function drawRows() {
  const rows = [...story.rows, ...outbox.values()];
  const keys = new Set(rows.map((row) => row.key));
  for (const [key, seen] of drawn) {
    if (!keys.has(key)) {
      seen.element.remove();
      drawn.delete(key);
    }
  }
  let previous = null;
  for (const row of rows) {
    const seen = drawn.get(row.key);
    let element = seen?.element;
    if (!seen || seen.version !== row.version) {
      const fresh = drawRow(row, context);
      if (element) {
        const focused = element.contains(document.activeElement) ? pathTo(document.activeElement, element) : null;
        element.replaceWith(fresh);
        if (focused) focusAt(fresh, focused);
      } else if (isLoaded) fresh.classList.add("fresh");
      element = fresh;
      drawn.set(row.key, { element, version: row.version });
    }
    const expected = previous ? previous.nextSibling : storyBox.firstChild;
    if (element !== expected) storyBox.insertBefore(element, expected);
    previous = element;
  }
  $("[data-earlier]").hidden = !(story.events.size && storyFrom > 1);
}

function pathTo(element, ancestor) {
  const path = [];
  for (let node = element; node !== ancestor; node = node.parentElement) path.unshift([...node.parentElement.children].indexOf(node));
  return path;
}

function focusAt(element, path) {
  let node = element;
  for (const index of path) node = node?.children[index];
  node?.focus?.({ preventScroll: true });
}

// The whole text is parsed and drawn again when a part of it arrives. To leave the page usable while a long text is
// written, this takes at most a quarter of the time.
let nextStreams = 0;
let streamsTimer = null;
function drawStreams() {
  const items = streaming.current();
  const wait = items.length ? nextStreams - performance.now() : 0;
  if (wait > 0) {
    streamsTimer ??= setTimeout(() => { streamsTimer = null; draw(); }, wait);
    return;
  }
  const began = performance.now();
  $("[data-stream]").replaceChildren(...items.map(drawStreaming));
  nextStreams = performance.now() + 3 * (performance.now() - began);
}

function drawState() {
  const chip = chipOf(record);
  const chipElement = $("[data-chip]");
  const words = chip.label === "Starting" && chip.detail ? chip.detail : chip.label;
  if (chipElement.textContent !== words) chipElement.textContent = words;
  chipElement.className = `chip ${chip.tone}`;
  chipElement.title = chip.detail ?? "";

  const total = record.tokens.prompt + record.tokens.completion;
  $("[data-usage]").textContent = [total ? `${count(total)} tokens` : "", money(record.cost_micros)].filter(Boolean).join(" · ");
  $("[data-model] span").textContent = record.model;
  document.title = `${chip.tone === "attention" ? "● " : ""}${record.title} · Agent Server`;
  if (!$("[data-title] input") && $("[data-title]")) $("[data-title]").textContent = record.title;

  if (may.steer) {
    const { canStop, resume } = commandsOf(record);
    $("[data-stop]").hidden = !canStop;
    $("[data-resume]").hidden = !resume;
    if (resume) $("[data-resume-word]").textContent = resume;
    if (!canStop) $("[data-stop] button").removeAttribute("aria-busy");
    if (!resume) $("[data-resume] button").removeAttribute("aria-busy");
  }
  drawStartBox();
  drawApproval();
  drawHint();
  drawWorking();
  if (paneShown() === "details") drawDetails($("#pane-details"), record, linkState);
}

let waitedFor = "";
function drawStartBox() {
  const box = $("[data-start]");
  const task = record.start_task;
  const waits = record.status === "starting" && task?.detail ? "The agent engine is being installed. The agent starts by itself when it is ready." : "";
  if (waits !== waitedFor) announce(waits || "The agent engine is ready.");
  waitedFor = waits;
  const isStarting = record.status === "starting";
  const failed = record.status === "failed";
  if (!isStarting && !failed) return box.replaceChildren();
  const phases = phasesOf(task);
  if (failed && !task?.error) return box.replaceChildren(failedBox());
  const place = task?.queue_position;
  const word = failed ? "The start failed" : place ? `Waiting for a free sandbox, position ${place} in the queue` : task?.detail && !failed ? "Waiting for the agent engine" : story.rows.length > 2 ? "Starting the sandbox again" : "Starting";
  box.replaceChildren(drawStart(phases, failed ? task : null, word), ...(failed ? [failedBox()] : []));
}

function failedBox() {
  return h("div", { class: "item" }, h("div", { class: "trouble", role: "alert" }, h("p", { class: "trouble-head" }, icon("alert"), "This conversation cannot continue"), record.status_detail ? h("p", { class: "trouble-text" }, record.status_detail) : null, may.steer ? h("p", { class: "trouble-hint" }, "Press “Try again” to start its sandbox again. The history is kept.") : null));
}

let approvalFor = null;
function drawApproval() {
  const box = $("[data-approval]");
  const asks = may.steer && asksNow(record);
  const pending = asks ? story.pending() : [];
  const signature = asks ? `${record.asked_seq}:${pending.map((row) => `${row.key}${row.risk}`).join()}` : null;
  if (signature === approvalFor) return;
  approvalFor = signature;
  if (!asks) return box.replaceChildren();
  const reason = h("input", { name: "reason", maxlength: "2000", placeholder: "Reason for a rejection (optional)", "aria-label": "Reason for a rejection", autocomplete: "off" });
  const answer = async (accept) => {
    for (const button of box.querySelectorAll("button")) button.disabled = true;
    try {
      const body = { accept, reason: accept ? "" : reason.value.trim() };
      if (record.asked_seq) body.asked_seq = record.asked_seq;
      await json("POST", `${base}/confirmation`, { body });
      announce(accept ? "Approved" : "Rejected");
      $("#text").focus();
    } catch (problem) {
      if ([400, 422].includes(problem.status)) showFieldError(reason, problem.message);
      else toast(problem.message);
      for (const button of box.querySelectorAll("button")) button.disabled = false;
      if (problem.status === 409) refreshRecord();
    }
  };
  box.replaceChildren(
    h(
      "section",
      { class: "approval", "aria-label": "The agent asks for approval" },
      h("h2", {}, icon("shield"), pending.length > 1 ? `Allow these ${pending.length} actions?` : "Allow this action?"),
      h("ul", {}, pending.map((row) => h("li", {}, h("code", {}, inOneLine(row, context)), row.risk ? h("span", { class: `risk ${row.risk}` }, riskWord(row.risk)) : null))),
      h("div", { class: "buttons" }, h("button", { type: "button", class: "button primary", onclick: () => answer(true) }, icon("check"), "Approve"), h("button", { type: "button", class: "button", onclick: () => answer(false) }, icon("x"), "Reject"), reason),
    ),
  );
  announce("The agent is waiting for your approval.");
}

function riskWord(risk) {
  return { LOW: "Low risk", MEDIUM: "Medium risk", HIGH: "High risk" }[risk] ?? "Risk unknown";
}

const hintHtml = $("[data-hint]").cloneNode(true).childNodes;
let hintShown = "";
function drawHint() {
  if (!may.steer) return;
  let text = "";
  if (linkState === "gone" || linkState === "signed-out") text = linkState === "gone" ? "This conversation was deleted, or you no longer have access to it." : "You are signed out. Reload the page to sign in again.";
  else if (record.execution_status === "waiting_for_confirmation") text = asksNow(record) ? "The agent is waiting for your approval. It receives new messages after you approve or reject." : "Your decision was sent. The agent continues in a moment.";
  else if (record.status === "starting" && record.start_task?.detail) text = "The agent starts by itself when its engine is installed. It receives your messages then.";
  else if (record.status === "starting") text = "The agent is starting. It receives your messages when it is ready.";
  else if (["paused", "stopped"].includes(record.status)) text = "The sandbox is stopped. Send a message to start it again.";
  else if (record.status === "failed") text = "The sandbox is not running. The agent receives your messages after you press “Try again”.";
  const ended = ["gone", "signed-out"].includes(linkState);
  $("#text").disabled = ended;
  $(".send").disabled = ended || !$("#text").value.trim();
  if (text === hintShown) return;
  hintShown = text;
  if (text) $("[data-hint]").replaceChildren(text);
  else $("[data-hint]").replaceChildren(...[...hintHtml].map((node) => node.cloneNode(true)));
}

function drawWorking() {
  const running = record.status === "running" && record.execution_status === "running";
  const rows = story.rows;
  const last = rows[rows.length - 1];
  const shows = running && !streaming.current().some((item) => item.text) && !(last?.type === "tool" && last.state === "running");
  $("[data-working]").hidden = !shows;
}

function tick() {
  const element = $("[data-elapsed]");
  const isRunning = record.status === "running" && record.execution_status === "running";
  const started = story.runStartedAt ? Date.parse(story.runStartedAt) : null;
  if (isRunning && started) {
    element.hidden = false;
    element.title = "Duration of this run";
    element.textContent = clock((Date.now() + clockSkew - started) / 1000);
  } else if (started && story.runEndedAt) {
    element.hidden = false;
    element.title = "Duration of the last run";
    element.textContent = duration((Date.parse(story.runEndedAt) - started) / 1000);
  } else element.hidden = true;
  if (record.status === "starting") drawStartBox();
}

// --- Scrolling to the end -------------------------------------------------------------

function isAtEnd() {
  return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
}

function toEnd() {
  scroller.scrollTop = scroller.scrollHeight;
  $("[data-jump]").hidden = true;
}

scroller.addEventListener("scroll", () => {
  if (isAtEnd()) $("[data-jump]").hidden = true;
}, { passive: true });
$("[data-jump]").addEventListener("click", () => {
  toEnd();
  scroller.focus({ preventScroll: true });
});
new ResizeObserver(() => {
  if (followed) toEnd();
}).observe(scroller);
let followed = true;
scroller.addEventListener("scroll", () => (followed = isAtEnd()), { passive: true });

// --- Examples of the demo model -------------------------------------------------------

// Its links to examples open the home page with the prompt; here the prompt goes into the empty message box.
document.querySelector("[data-story]").addEventListener("click", (event) => {
  const link = event.target.closest(".prose a");
  const field = $("#text");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || field.disabled || field.value.trim()) return;
  const address = new URL(link.href);
  if (address.origin !== location.origin || address.pathname !== "/" || !address.searchParams.has("example")) return;
  event.preventDefault();
  field.value = link.textContent;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
});

// --- Announcements for screen readers -------------------------------------------------

function announce(text) {
  const box = $("[data-announce]");
  box.textContent = box.textContent === text ? `${text} ` : text;
}

function announceEvents(events) {
  if (!isLoaded) return;
  for (const event of events.slice(-3)) {
    const row = story.byKey.get(event.event_id);
    if (row?.type === "agent") announce(`Agent: ${row.text.slice(0, 300)}`);
    else if (row?.type === "finish") announce(`Finished: ${row.text.slice(0, 300)}`);
    else if (row?.type === "trouble") announce(`${row.title}: ${row.detail.slice(0, 200)}`);
    else if (row?.type === "host") announce(`Allow the host ${row.host}? Its connection was refused.`);
    else if (row?.type === "notice") announce(row.text.slice(0, 200));
    else if (row?.type === "tool") announce(`Step: ${inOneLine(row, context).slice(0, 120)}`);
  }
}

// --- The log --------------------------------------------------------------------------

let isLoaded = false;
let clockSkew = 0;

function takeEvents(events) {
  story.add(events);
  for (const event of events) {
    streaming.supersede(event);
    if (event.kind === "UserMessage") outbox.delete(event.event_id);
    if (event.kind === "ConversationStateUpdateEvent" && event.payload?.key === "execution_status") {
      record = { ...record, execution_status: event.payload.value };
    }
    record.last_seq = Math.max(record.last_seq, event.seq);
  }
  if (isLoaded && events.some((event) => ["ObservationEvent", "ConversationStateUpdateEvent"].includes(event.kind))) freshenWorkspace();
  if (isLoaded && events.some(changesNetwork)) network.refresh();
  announceEvents(events);
  draw();
}

function changesNetwork(event) {
  return event.kind === "HostRuleChange" || (event.kind === "SandboxNotice" && event.payload?.code === "egress_refused");
}

function takeRecord(fresh) {
  if (!fresh) return;
  const wasUp = isUp();
  record = fresh;
  if (isUp() !== wasUp) freshenWorkspace();
  draw();
}

async function refreshRecord() {
  try {
    const response = await call("GET", base);
    const skew = Date.parse(response.headers.get("Date")) - Date.now();
    clockSkew = Math.abs(skew) > 3000 ? skew : 0;
    takeRecord(await response.json());
  } catch (problem) {
    if (problem.status === 404) stream?.end("gone");
  }
}

async function fetchEvents(query) {
  return json("GET", `${base}/events?${new URLSearchParams(query)}`);
}

/** Fetch the part of the story before a seq. `build_preloads` on the server knows this URL, so that it is loaded early. */
async function fetchStory(before) {
  return fetchEvents({ before, limit: FIRST_PAGE, shown: true });
}

async function load() {
  const page = await fetchStory(record.last_seq + 1);
  story.reset();
  streaming.clear();
  drawn.clear();
  storyBox.replaceChildren();
  story.add(page.items);
  const lastUser = story.rows.findLast((row) => row.type === "user");
  const steps = story.rows.filter((row) => row.type === "tool" && row.seq > (lastUser?.seq ?? 0));
  openFrom = steps.length ? steps[Math.max(0, steps.length - OPEN_AT_FIRST)].seq : story.lastSeq + 1;
  storyFrom = page.from_seq;
  draw();
  return { after: page.through_seq, epoch: page.epoch };
}

function follow({ after, epoch }) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  stream = new EventStream({
    after,
    epoch,
    openSocket: (seq, current) => new WebSocket(`${scheme}://${location.host}/ws/v1/conversations/${record.id}?after=${seq}&epoch=${current}`),
    fetchEvents: (seq, limit) => fetchEvents({ after: seq, limit }),
    handlers: {
      onEvents: takeEvents,
      onDelta(frame) {
        streaming.add(frame);
        draw();
      },
      onStatus: takeRecord,
      onReset: reload,
      onOpen: () => {
        streaming.clear();
        refreshRecord();
      },
      onPoll: refreshRecord,
      onState(state) {
        linkState = state;
        const element = $("[data-link]");
        const words = { reconnecting: "Reconnecting…", polling: "Updating every 2 seconds", gone: "Not available", "signed-out": "Signed out", bad: "Live updates stopped. Reload the page." };
        element.textContent = words[state] ?? "";
        element.hidden = !words[state];
        if (state === "gone" || state === "signed-out") streaming.clear();
        draw();
      },
    },
  });
  stream.start();
}

async function reload() {
  try {
    await refreshRecord();
    const place = await load();
    stream.restart(place.after, place.epoch);
    toast("The history changed on the server, so it was loaded again.");
  } catch {
    setTimeout(reload, 3000);
  }
}

$("[data-earlier] button").addEventListener("click", async (event) => {
  const button = event.currentTarget;
  button.setAttribute("aria-busy", "true");
  try {
    let page;
    do {
      page = await fetchStory(storyFrom);
      storyFrom = page.from_seq;
    } while (!page.items.length && storyFrom > 1);
    const fromEnd = scroller.scrollHeight - scroller.scrollTop;
    story.add(page.items);
    drawRows();
    scroller.scrollTop = scroller.scrollHeight - fromEnd;
  } catch (problem) {
    toast(problem.message);
  }
  button.removeAttribute("aria-busy");
});

addEventListener("online", () => stream?.nudge());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  stream?.nudge();
  draw();
});

// --- Messages -------------------------------------------------------------------------

const composer = $("[data-composer]");
const area = $("#text");
const draftKey = `draft:${record.id}`;
const isTouch = matchMedia("(pointer: coarse)").matches;
const fit = grow(area);
try {
  area.value = area.value || (sessionStorage.getItem(draftKey) ?? "");
  fit();
} catch {
  // Without storage, a draft is lost when the page closes.
}

area.addEventListener("input", () => {
  try {
    sessionStorage.setItem(draftKey, area.value);
  } catch {
    // Without storage, the draft is not saved.
  }
  $(".send").disabled = !area.value.trim();
});
area.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || event.shiftKey) return;
  if (isTouch && !event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  composer.requestSubmit();
});
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = area.value.trim();
  if (!text) return;
  area.value = "";
  area.dispatchEvent(new Event("input"));
  area.focus();
  const id = crypto.randomUUID?.() ?? uuid();
  outbox.set(id, { type: "user", key: id, text, pending: true, version: 1, images: 0, seq: null });
  deliver(id, text);
  draw();
  followed = true;
  requestAnimationFrame(toEnd);
});

/** Return a random UUID. `crypto.randomUUID` exists only in secure contexts, not on plain http in a local network. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** Send a message, with up to four retries. The id makes a repeated request harmless. */
async function deliver(id, text, attempt = 0) {
  try {
    const { seq } = await json("POST", `${base}/messages`, { body: { text, message_id: id } });
    setTimeout(() => fetchMissing(id, seq), 3000);
  } catch (problem) {
    const row = outbox.get(id);
    if (!row) return;
    if ((problem.status === 0 || problem.status >= 500) && attempt < 4) {
      setTimeout(() => deliver(id, text, attempt + 1), 700 * 2 ** attempt);
      return;
    }
    row.pending = false;
    row.failed = `Not sent. ${problem.message}`;
    row.retry = () => {
      Object.assign(row, { pending: true, failed: null, version: row.version + 1 });
      deliver(id, text);
      draw();
    };
    row.version++;
    draw();
  }
}

/** Mark a message as stored if its event has not arrived by the live feed, which may be down. */
function fetchMissing(id, seq) {
  const row = outbox.get(id);
  if (!row) return;
  if (story.events.has(seq)) outbox.delete(id);
  else Object.assign(row, { pending: false, delivered: false, version: row.version + 1 });
  draw();
}

// --- Commands -------------------------------------------------------------------------

function command(form, path, done) {
  form?.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    if (button.getAttribute("aria-busy")) return;
    button.setAttribute("aria-busy", "true");
    try {
      await json("POST", `${base}/${path}`);
      announce(done);
    } catch (problem) {
      toast(problem.message);
    }
    setTimeout(() => button.removeAttribute("aria-busy"), 4000);
  });
}
command($("[data-stop]"), "interrupt", "Stopping");
command($("[data-resume]"), "resume", "Resuming");

$("[data-copy-link]").addEventListener("click", () => {
  copy(location.origin + location.pathname, "Link copied");
  $("[data-strip] details[data-menu]").open = false;
});

$("[data-rename]")?.addEventListener("click", () => editTitle(record.title));

/** Replace the title by a field with a text. If the server rejects the new title, the field opens again with `error`. */
function editTitle(text, error = "") {
  const title = $("[data-title]");
  const input = h("input", { value: text, maxlength: "200", "aria-label": "Title" });
  let isDone = false;
  const finish = async (save) => {
    if (isDone) return;
    isDone = true;
    const newTitle = input.value.trim();
    title.textContent = record.title;
    $("[data-rename]").hidden = false;
    if (save && newTitle && newTitle !== record.title) {
      title.textContent = newTitle;
      try {
        takeRecord({ ...record, ...(await json("PATCH", base, { body: { title: newTitle } })) });
      } catch (problem) {
        title.textContent = record.title;
        editTitle(newTitle, problem.message);
      }
    }
  };
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault(); // otherwise this key press also activates the button that gets the focus
    finish(event.key === "Enter");
    $("[data-rename]").focus();
  });
  input.addEventListener("blur", () => finish(true));
  title.replaceChildren(input);
  $("[data-rename]").hidden = true;
  input.select();
  if (error) showFieldError(input, error);
}

// --- Workspace ------------------------------------------------------------------------

const changes = new Changes($("#pane-changes"), $("[data-change-count]"), { base, story, shortPath });
const network = new Network($("#pane-network"), $("[data-network-count]"), {
  base,
  isShown: () => paneShown() === "network",
  onChange() {
    for (const row of story.rows) if (row.type === "host") row.version++;
    draw();
  },
});
const files = new Files($("#pane-files"), { base, may });
let freshenTimer = null;

function isUp() {
  return record.status === "running";
}

function paneShown() {
  return ["changes", "files", "details", "network"].find((name) => !$(`#pane-${name}`).hidden) ?? "changes";
}

function freshenWorkspace() {
  clearTimeout(freshenTimer);
  freshenTimer = setTimeout(() => {
    if (document.hidden) return;
    changes.refresh(isUp() && may.files);
    if (paneShown() === "files") files.refresh(isUp());
  }, 1200);
}

function show(tab) {
  bench.dataset.tab = tab;
  for (const button of document.querySelectorAll(".foot-tabs button")) button.setAttribute("aria-current", String(button.dataset.tabTo === tab));
  if (tab === "story") {
    if (followed) toEnd();
    return;
  }
  for (const button of document.querySelectorAll(".panel-tabs button")) {
    const isSelected = button.dataset.tabTo === tab;
    button.setAttribute("aria-selected", String(isSelected));
    button.tabIndex = isSelected ? 0 : -1;
    $(`#${button.getAttribute("aria-controls")}`).hidden = !isSelected;
  }
  if (tab === "files") files.refresh(isUp());
  if (tab === "changes") changes.refresh(isUp() && may.files);
  if (tab === "details") drawDetails($("#pane-details"), record, linkState);
  network.watch(tab === "network");
}

for (const button of document.querySelectorAll("[data-tab-to]")) button.addEventListener("click", () => show(button.dataset.tabTo));
$(".panel-tabs").addEventListener("keydown", (event) => {
  const tabs = [...event.currentTarget.querySelectorAll("button")];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  next.focus();
  show(next.dataset.tabTo);
});
$("[data-panel-toggle]").addEventListener("click", (event) => {
  const isClosed = bench.dataset.panel === "closed";
  bench.dataset.panel = isClosed ? "open" : "closed";
  event.currentTarget.setAttribute("aria-expanded", String(isClosed));
});

// --- Start ----------------------------------------------------------------------------

async function begin() {
  drawState();
  try {
    const [feedback, place] = await Promise.all([json("GET", `${base}/feedback`), load()]);
    for (const item of feedback.items) {
      ratings.set(item.seq, item.rating);
      const row = story.rows.find((row) => row.seq === item.seq);
      if (row) row.version++;
    }
    draw();
    follow(place);
    changes.refresh(isUp() && may.files);
    if (story.rows.some((row) => row.type === "host")) network.refresh();
    requestAnimationFrame(() => {
      toEnd();
      isLoaded = true;
      bench.dataset.ready = "yes";
    });
  } catch (problem) {
    $("[data-link]").hidden = false;
    $("[data-link]").textContent = "The conversation cannot be loaded. Trying again…";
    if (problem.status === 401) location.assign(`/sign-in?next=${encodeURIComponent(location.pathname)}`);
    else setTimeout(begin, 3000);
  }
}

setInterval(tick, 1000);
begin();
