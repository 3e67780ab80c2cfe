// The panel beside the story: changes, files and details.

import { call, json } from "../lib/api.js";
import { h, icon, toast } from "../lib/dom.js";
import { bytes, count, duration, money } from "../lib/format.js";
import { phasesOf } from "../lib/state.js";
import { chevron, diffView, sourceView } from "./parts.js";

const IMAGES = { png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp", svg: "image/svg+xml" };
const VIEWED_BYTES = 1_000_000;
const LETTERS = { ADDED: "A", UPDATED: "M", DELETED: "D", MOVED: "R" };
const WORDS = { ADDED: "Added", UPDATED: "Changed", DELETED: "Deleted", MOVED: "Moved" };

function empty(...text) {
  return h("p", { class: "pane-empty" }, ...text);
}

function splitPath(path) {
  const at = path.lastIndexOf("/") + 1;
  return [at ? h("span", {}, path.slice(0, at)) : null, path.slice(at)];
}

/** The changes in the workspace's repository, or the changes that the agent reported if the sandbox is not running. */
export class Changes {
  constructor(pane, counter, { base, story, shortPath }) {
    Object.assign(this, { pane, counter, base, story, shortPath });
    this.open = new Set();
    this.signature = null;
  }

  async refresh(isUp) {
    let items = null;
    if (isUp) {
      try {
        const found = await json("GET", `${this.base}/git/changes`);
        items = found.items;
        this.total = found.total;
      } catch (problem) {
        if (problem.status === 404) items = null;
      }
    }
    if (items?.length) this.draw(items.map((item) => ({ ...item, load: () => this.load(item) })), null);
    else {
      const reported = this.story.fileChanges().map((change) => ({ path: this.shortPath(change.path), status: change.isNew ? "ADDED" : "UPDATED", load: async () => diffView(change.before, change.after).element, mark: `${change.after.length}` }));
      this.draw(reported, reported.length ? "as reported by the agent" : null);
    }
  }

  async load(item) {
    const diff = await json("GET", `${this.base}/git/diff?path=${encodeURIComponent(item.path)}`);
    const notes = [];
    if (diff.encoding === "binary" || diff.original_encoding === "binary") {
      const sizes = [diff.original_size, diff.modified_size].filter((size) => size !== null).map(bytes);
      return h("p", { class: "diff-note" }, `This file is not a text file (${sizes.join(" → ")}).`);
    }
    if (diff.original_encoding && diff.encoding !== diff.original_encoding) notes.push(`The encoding changed from ${diff.original_encoding} to ${diff.encoding}.`);
    else if (diff.encoding && diff.encoding !== "utf-8") notes.push(`The file's encoding is ${diff.encoding}.`);
    return h("div", {}, diffView(diff.original ?? "", diff.modified ?? "").element, notes.map((note) => h("p", { class: "diff-note" }, note)));
  }

  draw(items, note) {
    this.counter.hidden = !items.length;
    const total = note ? items.length : Math.max(items.length, this.total ?? 0);
    this.counter.textContent = String(total);
    if (total > items.length) note = `the first ${items.length} are shown`;
    const open = [...this.pane.querySelectorAll("details[open]")].map((details) => details.dataset.path);
    this.pane.replaceChildren(
      items.length ? h("div", { class: "pane-bar" }, h("span", { class: "grow" }, `${total} ${total === 1 ? "file" : "files"}`, note ? h("span", { class: "faint" }, ` · ${note}`) : null)) : empty("No files have changed yet."),
      ...items.map((item) => this.row(item, open.includes(item.path) || items.length === 1)),
    );
  }

  row(item, isOpen) {
    const body = h("div", { class: "change-body" });
    const load = async () => {
      if (body.dataset.loaded) return;
      body.dataset.loaded = "yes";
      try {
        body.replaceChildren(await item.load());
      } catch (problem) {
        delete body.dataset.loaded;
        body.replaceChildren(h("p", { class: "diff-note" }, problem.message));
      }
    };
    const details = h(
      "details",
      { class: "change", open: isOpen, dataset: { path: item.path }, ontoggle: (event) => event.target.open && load() },
      h("summary", {}, h("span", { class: `letter ${item.status}`, title: WORDS[item.status] ?? item.status, "aria-label": WORDS[item.status] ?? item.status, role: "img" }, LETTERS[item.status] ?? "?"), h("span", { class: "change-path" }, splitPath(item.path)), chevron()),
      body,
    );
    if (isOpen) load();
    return details;
  }
}

/** Return lists of files whose names some disks take for equal. */
function groupByName(files) {
  const groups = new Map();
  for (const file of files) {
    const name = file.name.normalize("NFC").toLowerCase();
    groups.set(name, [...(groups.get(name) ?? []), file]);
  }
  return [...groups.values()];
}

/** The tree of files in the workspace. Folders load when they are opened. */
export class Files {
  constructor(pane, { base, may }) {
    Object.assign(this, { pane, base, may });
    this.openFolders = new Set([""]);
    this.viewed = null;
    pane.addEventListener("dragover", (event) => {
      if (!may.edit_files || !event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      pane.classList.add("drop");
    });
    pane.addEventListener("dragleave", () => pane.classList.remove("drop"));
    pane.addEventListener("drop", (event) => {
      pane.classList.remove("drop");
      if (!may.edit_files || !event.dataTransfer.files.length) return;
      event.preventDefault();
      this.upload(event.dataTransfer.files);
    });
  }

  async refresh(isUp) {
    if (this.viewed) return;
    if (!isUp) {
      this.pane.replaceChildren(empty("The sandbox is not running, so its files cannot be shown. Send a message to the agent to start it."));
      return;
    }
    const tree = h("ul", { class: "tree", role: "list" });
    try {
      await this.fill(tree, "", 0);
    } catch (problem) {
      if (!this.viewed) this.pane.replaceChildren(empty(problem.message));
      return;
    }
    if (this.viewed) return; // a file was opened meanwhile
    const input = h("input", { type: "file", multiple: true, class: "hidden", tabindex: "-1", "aria-hidden": "true", onchange: () => this.upload(input.files) });
    this.pane.replaceChildren(
      h(
        "div",
        { class: "pane-bar" },
        h("span", { class: "grow" }, "Workspace"),
        h("button", { type: "button", class: "icon-button", "aria-label": "Refresh", title: "Refresh", onclick: () => this.refresh(true) }, icon("retry")),
        this.may.edit_files ? h("button", { type: "button", class: "icon-button", "aria-label": "Upload files", title: "Upload files", onclick: () => input.click() }, icon("upload")) : null,
        // Without the attribute "download": if the archive is too large, the browser shows the sentence.
        h("a", { class: "icon-button", href: `${this.base}/archive?format=zip`, "aria-label": "Download all as zip", title: "Download all as zip" }, icon("download")),
        input,
      ),
      tree.childElementCount ? tree : empty("The workspace is empty."),
    );
  }

  async fill(list, path, depth, cursor = "") {
    const { entries, total, next } = await json("GET", `${this.base}/files?path=${encodeURIComponent(path)}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    for (const entry of entries) {
      if (depth === 0 && entry.name === ".git") continue;
      const item = h("li");
      list.append(item);
      if (entry.type === "directory") await this.folder(item, entry, depth);
      else item.append(h("button", { type: "button", style: { "--depth": depth }, onclick: () => this.view(entry) }, icon("file"), h("span", { class: "name" }, entry.name), h("span", { class: "size" }, entry.type === "link" ? "link" : bytes(entry.size))));
    }
    if (!next) return;
    const more = h("li", {}, h("button", { type: "button", style: { "--depth": depth }, onclick: async () => {
      try {
        await this.fill(list, path, depth, next);
        more.remove();
      } catch (problem) {
        toast(problem.message);
      }
    } }, h("span", { class: "name" }, `Show more of the ${total} entries`)));
    list.append(more);
  }

  async folder(item, entry, depth) {
    const inner = h("ul", { class: "tree", role: "list", hidden: true });
    const button = h("button", { type: "button", "aria-expanded": "false", style: { "--depth": depth }, onclick: () => toggle() }, chevron(), icon("folder"), h("span", { class: "name" }, entry.name));
    const toggle = async () => {
      const open = button.getAttribute("aria-expanded") !== "true";
      if (open && !inner.childElementCount) {
        try {
          await this.fill(inner, entry.path, depth + 1);
          if (!inner.childElementCount) inner.append(h("li", { class: "leaf faint small-text", style: { "--depth": depth + 1 } }, "empty"));
        } catch (problem) {
          toast(problem.message);
          return;
        }
      }
      button.setAttribute("aria-expanded", String(open));
      inner.hidden = !open;
      this.openFolders[open ? "add" : "delete"](entry.path);
    };
    item.append(button, inner);
    if (this.openFolders.has(entry.path)) await toggle();
  }

  async view(entry) {
    const address = `${this.base}/files/content?path=${encodeURIComponent(entry.path)}`;
    const content = h("div", {}, empty("Loading…"));
    const back = () => {
      this.viewed = null;
      this.refresh(true);
    };
    this.viewed = entry.path;
    this.pane.replaceChildren(
      h(
        "div",
        { class: "pane-bar" },
        h("button", { type: "button", class: "button quiet small", onclick: back }, "Back"),
        h("span", { class: "grow mono", title: entry.path }, entry.path),
        h("a", { class: "icon-button", href: address, download: entry.name, "aria-label": "Download", title: "Download" }, icon("download")),
      ),
      content,
    );
    this.pane.querySelector("button").focus();
    const type = IMAGES[entry.name.split(".").pop().toLowerCase()];
    if (!type && entry.size > VIEWED_BYTES) {
      content.replaceChildren(empty(`This file is too large to show (${bytes(entry.size)}). Download it instead.`));
      return;
    }
    try {
      const raw = await (await call("GET", address)).arrayBuffer();
      if (type) {
        const source = URL.createObjectURL(new Blob([raw], { type }));
        content.replaceChildren(h("img", { class: "file-image", src: source, alt: entry.name, onload: () => URL.revokeObjectURL(source) }));
        return;
      }
      const isBinary = new Uint8Array(raw, 0, Math.min(raw.byteLength, 8000)).includes(0);
      content.replaceChildren(isBinary ? empty("This file is not a text file. Download it instead.") : sourceView(new TextDecoder().decode(raw), { capped: false }));
    } catch (problem) {
      content.replaceChildren(empty(problem.message));
    }
  }

  async upload(files) {
    // Files with equal names, from several folders, go into one request, in which the server keeps them all.
    for (const group of groupByName([...files])) {
      const body = new FormData();
      for (const file of group) body.append("file", file);
      try {
        const written = await json("POST", `${this.base}/files/upload`, { body });
        toast(`${written.files.map((file) => file.path).join(", ")} ${written.files.length === 1 ? "was" : "were"} uploaded to the workspace.`);
      } catch (problem) {
        toast(`${group[0].name} was not uploaded. ${problem.message}`);
      }
    }
    this.viewed = null;
    this.refresh(true);
  }
}

/** Draw the details of a conversation and the phases of its last start. */
export function drawDetails(pane, record, link) {
  const fact = (name, ...value) => (value.some(Boolean) ? h("div", {}, h("dt", {}, name), h("dd", {}, ...value)) : null);
  const time = (text) => (text ? new Date(text).toLocaleString() : "");
  const tokens = record.tokens;
  const phases = phasesOf(record.start_task);
  const policy = { never: "Never", always: "Before every action", risky: "Before risky actions" }[record.confirmation_policy];
  const started = record.start_task;
  const total = started?.finished_at ? (Date.parse(started.finished_at) - Date.parse(started.created_at)) / 1000 : null;
  pane.replaceChildren(
    h(
      "div",
      { class: "details" },
      h("section", {}, h("h2", {}, "Run"), h("dl", { class: "facts" },
        fact("Model", record.model),
        fact("Tokens", `${count(tokens.prompt)} in, ${count(tokens.completion)} out${tokens.cached ? `, ${count(tokens.cached)} cached` : ""}`),
        fact("Cost", money(record.cost_micros) || "none"),
        fact("Asks for approval", policy),
        fact("Repository", record.repository?.full_name, record.repository?.branch ? ` at ${record.repository.branch}` : ""),
        fact("State", record.status_detail),
      )),
      phases.length ? h("section", {}, h("h2", {}, "Last start"), h("ol", { class: "phases" }, phases.map((phase) => h("li", { class: phase.state }, h("span", { class: `step-state${phase.state === "failed" ? " bad" : ""}` }, phase.state === "now" ? h("span", { class: "spinner" }) : icon(phase.state === "failed" ? "x" : "check")), h("span", {}, phase.label), h("span", { class: "secs" }, duration(phase.seconds)), phase.detail ? h("small", {}, phase.detail) : null))), total === null ? null : h("p", { class: "hint" }, `${duration(total)} in total`)) : null,
      h("section", {}, h("h2", {}, "Log"), h("dl", { class: "facts" },
        fact("Id", h("code", {}, record.id)),
        fact("Events", String(record.last_seq)),
        fact("Live feed", { live: "Connected", polling: "Polling", reconnecting: "Reconnecting" }[link] ?? link),
        fact("Started", time(record.created_at)),
        fact("Last change", time(record.updated_at)),
      )),
    ),
  );
}
