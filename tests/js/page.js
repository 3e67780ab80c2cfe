// The page in which Chromium draws hostile texts with the scripts of the site. `window.scripts` is its interface.

import { chevron, diffView, prose, rawJson, sourceView, terminalOutput } from "/static/js/views/parts.js";
import { drawRow, drawStreaming } from "/static/js/views/rows.js";
import { parseMarkdown } from "/static/js/lib/markdown.js";
import { renderAnsi } from "/static/js/lib/ansi.js";
import { diffLines, hunks } from "/static/js/lib/diff.js";
import { DIFF, MARKDOWN, TERMINAL } from "/tests/js/shapes.js";

const ELEMENTS = new Set("DIV P H3 H4 HR UL OL LI BLOCKQUOTE PRE CODE STRONG EM DEL A BR TABLE THEAD TBODY TR TH TD SPAN BUTTON svg use DETAILS SUMMARY".split(" "));
const ATTRIBUTES = new Set("class tabindex role aria-label aria-hidden aria-expanded type title start style href target rel colspan".split(" "));

/** What ran: scripts that called one of the usual functions of attacks, and violations of the page's policy. */
const ran = [];
// Not `eval`, with which Playwright itself calls this page.
for (const name of ["alert", "confirm", "prompt", "print", "open"]) {
  Object.defineProperty(window, name, { value: (text) => ran.push(`${name}(${text})`), configurable: true });
}
document.addEventListener("securitypolicyviolation", (event) => ran.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));

/** Return a sentence for each element, attribute or address that must not be below `root`. */
function inspect(root) {
  const found = [];
  for (const element of root.querySelectorAll("*")) {
    if (!ELEMENTS.has(element.tagName)) found.push(`element ${element.tagName}`);
    for (const { name, value } of element.attributes) {
      if (!ATTRIBUTES.has(name)) found.push(`attribute ${name}`);
      if (name === "style" && /url\(|expression|import/i.test(value)) found.push(`style ${value}`);
    }
    if (element.tagName === "A") {
      if (!["http:", "https:", "mailto:"].includes(element.protocol)) found.push(`address ${element.href}`);
      if (element.rel !== "noopener noreferrer nofollow" || element.target !== "_blank") found.push(`link without rel or target ${element.outerHTML}`);
    }
  }
  return found;
}

const stage = document.querySelector("main");
const quiet = { isOpen: true, onOpen: () => {} };

/** Draw a text in every way in which the site draws texts of agents; return what `inspect` found. */
function drawAll(text) {
  const change = diffView("", text).element;
  const parts = [prose(text), terminalOutput(text, quiet).pre, change, sourceView(text), rawJson({ text, [text]: text }), drawStreaming({ text, reasoning: "" })];
  stage.replaceChildren(...parts);
  void stage.offsetHeight;
  return inspect(stage);
}

function drawMarkdown(text) {
  stage.replaceChildren(prose(text));
  void stage.offsetHeight;
}

/** Return the milliseconds of one call. */
function time(act) {
  const began = performance.now();
  act();
  return performance.now() - began;
}

const PIECES = [
  ..."*_`~[]()!<>#-+|\\&\"'=:;/ \n\t".split(""), "\n\n", "**", "__", "~~", "```", "```js\n", "> ", "- ", "1. ", "    ", "---\n", "|a|b|\n|-|-|\n", "|c|d|\n",
  "[a](", "![a](", "](", "[a]: ", "http://a.b/c", "https://", "mailto:a@b.c", "javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "vbscript:x",
  "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<a href=javascript:alert(1)>", "<svg onload=alert(1)>", "<b>", "</div>", "<!--", "-->", "&lt;", "&#106;",
  "&colon;", "&Tab;", "\0", "\u202e", "é", "漢字", "👩‍💻", "\ud800", "word", "some words of text", "snake_case", "2 * 3", "\x1b[31m", "\r\n",
];

/** Return a function from nothing to a number from 0 to 1, equal for equal seeds (mulberry32, public domain). */
function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function randomDocument(next) {
  const parts = [];
  for (let left = 5 + Math.floor(next() ** 3 * 400); left > 0; left--) parts.push(PIECES[Math.floor(next() * PIECES.length)]);
  return parts.join("");
}

/** Draw random documents; return their number of characters, the milliseconds of drawing, the slowest per kB, and problems. */
function drawRandom(seed, count) {
  const next = random(seed);
  const result = { characters: 0, milliseconds: 0, slowest: 0, problems: [] };
  for (let done = 0; done < count; done++) {
    const text = randomDocument(next);
    const taken = time(() => drawMarkdown(text));
    result.characters += text.length;
    result.milliseconds += taken;
    result.slowest = Math.max(result.slowest, taken / Math.max(1, text.length / 1000));
    for (const problem of inspect(stage)) result.problems.push(`${problem} in ${JSON.stringify(text)}`);
  }
  stage.replaceChildren();
  return result;
}

/** Import another module. Playwright's own scripts have no address, so they cannot import one. */
const load = (path) => import(path);

window.scripts = { load, DIFF, MARKDOWN, TERMINAL, chevron, diffLines, drawAll, drawMarkdown, drawRandom, drawRow, hunks, inspect, parseMarkdown, ran, random, randomDocument, renderAnsi, stage, time };
stage.dataset.ready = "yes";
