// Elements that rows and panels share: Markdown, terminal output, diffs, file contents.

import { renderAnsi, styleToCss } from "../lib/ansi.js";
import { diffLines, hunks, linesOf, tally } from "../lib/diff.js";
import { copy, h, icon } from "../lib/dom.js";
import { MARKDOWN_LENGTH, parseMarkdown } from "../lib/markdown.js";

const DIFF_LINES = 20_000;
const SHOWN_LINES = 1200;

// --- Markdown -------------------------------------------------------------------

export function prose(text) {
  return h("div", { class: "prose" }, parseMarkdown(text).map(block));
}

function block(node) {
  switch (node.type) {
    case "paragraph": return node.isTight ? inline(node.children) : h("p", {}, inline(node.children));
    case "heading": return h(node.level <= 2 ? "h3" : "h4", {}, inline(node.children));
    case "rule": return h("hr");
    case "quote": return h("blockquote", {}, node.children.map(block));
    case "code": return codeBlock(node.text, node.language);
    case "list": {
      const start = node.isOrdered && node.start !== 1 ? String(node.start) : null;
      return h(node.isOrdered ? "ol" : "ul", { start }, node.children.map((item) => h("li", {}, item.children.map(block))));
    }
    case "table": return h("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Table" }, h("table", {}, node.children.map(tablePart)));
    case "plain": return [
      h("p", { class: "diff-note" }, `This text has more than ${MARKDOWN_LENGTH.toLocaleString("en-US")} characters, so it is shown without formatting.`),
      h("div", { class: "unformatted" }, node.text),
    ];
    default: return inline(node.children ?? []);
  }
}

function tablePart(part) {
  return h(part.type === "head" ? "thead" : "tbody", {}, part.children.map((row) => h("tr", {}, row.children.map(cell))));
}

function cell(node) {
  return h(node.isHead ? "th" : "td", { style: node.align ? { textAlign: node.align } : null }, inline(node.children));
}

function inline(nodes) {
  return nodes.map((node) => {
    switch (node.type) {
      case "text": return node.text;
      case "break": return h("br");
      case "code": return h("code", {}, node.text);
      case "strong": return h("strong", {}, inline(node.children));
      case "em": return h("em", {}, inline(node.children));
      case "del": return h("del", {}, inline(node.children));
      case "link": return h("a", { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow" }, inline(node.children));
      default: return inline(node.children ?? []);
    }
  });
}

export function codeBlock(text, language = "") {
  return h(
    "div",
    { class: "code" },
    language ? h("div", { class: "lang" }, language) : null,
    h("button", { type: "button", class: "icon-button copy", "aria-label": "Copy", title: "Copy", onclick: () => copy(text) }, icon("copy")),
    h("pre", { tabindex: "0" }, h("code", {}, text)),
  );
}

// --- Terminal -------------------------------------------------------------------

const COLLAPSED_LINES = 16;
const MOST_LINES = 5000;

// A loop, because the expression /\n+$/ takes quadratic time on line breaks inside a text.
function withoutLastBreaks(text) {
  let end = text.length;
  while (text[end - 1] === "\n") end--;
  return text.slice(0, end);
}

/** Draw output as a terminal shows it. Long output is collapsed until the user expands it. */
export function terminalOutput(text, { isOpen, onOpen }) {
  const lines = renderAnsi(withoutLastBreaks(text));
  const pre = h("pre", { tabindex: "0", "aria-label": "Output" });
  const shown = lines.length > MOST_LINES ? lines.slice(-MOST_LINES) : lines;
  if (shown !== lines) pre.append(`… ${lines.length - MOST_LINES} earlier lines are not shown\n`);
  shown.forEach((runs, index) => {
    if (index) pre.append("\n");
    for (const run of runs) {
      const css = styleToCss(run.style);
      pre.append(Object.keys(css).length ? h("span", { style: css }, run.text) : run.text);
    }
  });
  const isLong = lines.length > COLLAPSED_LINES + 4;
  if (isLong && !isOpen) pre.classList.add("collapsed");
  const button = isLong
    ? h("button", { type: "button", "aria-expanded": String(isOpen), onclick: () => {
        const nowOpen = !pre.classList.toggle("collapsed");
        button.textContent = nowOpen ? "Show less" : `Show all ${lines.length} lines`;
        button.setAttribute("aria-expanded", String(nowOpen));
        onOpen(nowOpen);
      } }, isOpen ? "Show less" : `Show all ${lines.length} lines`)
    : null;
  return { pre, button };
}

// --- Diffs and files ------------------------------------------------------------

/** Draw the difference between two texts; return `{element, added, removed}`, with null counts if it is too large. */
export function diffView(before, after) {
  if (linesOf(before).length + linesOf(after).length > DIFF_LINES) {
    return { element: h("p", { class: "diff-note" }, "This file is too large to compare."), added: null, removed: null };
  }
  const edit = diffLines(before, after);
  const { added, removed } = tally(edit);
  const body = h("tbody");
  let shown = 0;
  let previousEnd = 0;
  const parts = hunks(edit);
  for (const hunk of parts) {
    const skipped = hunk.from - previousEnd;
    if (skipped > 0) body.append(gap(skipped));
    for (const line of hunk.lines) {
      if (shown++ >= SHOWN_LINES) break;
      body.append(diffLine(line));
    }
    previousEnd = hunk.from + hunk.lines.length;
  }
  if (parts.length && previousEnd < edit.length) body.append(gap(edit.length - previousEnd));
  const notes = [];
  if (shown > SHOWN_LINES) notes.push(`Only the first ${SHOWN_LINES} lines of the change are shown.`);
  if (!parts.length) notes.push(before === after ? "Nothing changed." : "Only line endings changed.");
  const element = h(
    "div",
    {},
    parts.length ? h("div", { class: "diff capped", tabindex: "0", role: "region", "aria-label": "Change" }, h("table", {}, body)) : null,
    notes.map((note) => h("p", { class: "diff-note" }, note)),
  );
  return { element, added, removed };
}

function gap(lines) {
  return h("tr", { class: "gap" }, h("td", { colspan: "4" }, `${lines} unchanged ${lines === 1 ? "line" : "lines"}`));
}

function diffLine(line) {
  const sign = { add: "+", del: "−", same: "" }[line.type];
  const spoken = { add: "added", del: "removed", same: null }[line.type];
  return h(
    "tr",
    { class: line.type },
    h("td", { class: "num" }, line.old === null ? "" : String(line.old)),
    h("td", { class: "num" }, line.new === null ? "" : String(line.new)),
    h("td", { class: "sign", "aria-label": spoken }, sign),
    h("td", {}, line.text || " "),
  );
}

/** Draw a file's text with line numbers. */
export function sourceView(text, { capped = true } = {}) {
  const lines = linesOf(text);
  const body = h("tbody");
  lines.slice(0, SHOWN_LINES * 2).forEach((line, index) => body.append(h("tr", {}, h("td", { class: "num" }, String(index + 1)), h("td", {}, line || " "))));
  return h(
    "div",
    {},
    h("div", { class: capped ? "source capped" : "source", tabindex: "0", role: "region", "aria-label": "Content" }, h("table", {}, body)),
    lines.length > SHOWN_LINES * 2 ? h("p", { class: "diff-note" }, `Only the first ${SHOWN_LINES * 2} of ${lines.length} lines are shown.`) : null,
    lines.length ? null : h("p", { class: "diff-note" }, "This file is empty."),
  );
}

/** Draw any value as indented JSON, collapsed by default. */
export function rawJson(value, label = "Raw event") {
  let text;
  try {
    text = JSON.stringify(value, null, 2);
  } catch {
    text = String(value);
  }
  return h("details", { class: "quiet-row" }, h("summary", {}, chevron(), label), h("pre", { class: "raw" }, (text ?? "").slice(0, 100_000)));
}

export function chevron() {
  const svg = icon("chevron");
  svg.classList.add("chevron");
  return svg;
}
