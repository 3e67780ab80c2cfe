// Parse Markdown (CommonMark with tables, strikethrough and bare links) into a tree of plain objects, with markdown-it.
// No HTML is produced: `views/parts.js` sets all text as text, so a message cannot inject markup. Pure; no DOM.

import MarkdownIt from "../vendor/markdown-it/markdown-it.js";

/** Longer texts, in UTF-16 code units, are shown as plain text. */
export const MARKDOWN_LENGTH = 50_000;

const ADDRESS_LENGTH = 2_000;
const SCHEMES = new Set(["http:", "https:", "mailto:"]);

const parser = new MarkdownIt("default", { html: false, linkify: true, breaks: true, typographer: false });
// Only texts with a scheme become links without brackets: "setup.py" is a file, not a host in Paraguay.
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
parser.validateLink = (address) => safeLink(address) !== null;
parser.normalizeLinkText = (address) => address;

/** Return the address of a link if it is an absolute http, https or mailto address, else null. */
export function safeLink(address) {
  if (address.length > ADDRESS_LENGTH) return null;
  try {
    const url = new URL(address);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/**
 * Parse a text into blocks: paragraph, heading, code, list, quote, rule, table, and plain for a text that is longer than
 * MARKDOWN_LENGTH. Inline content (text, break, code, strong, em, del, link) is in `children`.
 *
 * Nesting is limited to 100 levels. The time grows linearly with the length of the text.
 */
export function parseMarkdown(source) {
  if (source.length > MARKDOWN_LENGTH) return [{ type: "plain", text: source }];
  const root = { children: [] };
  const open = [root];
  const leaf = (node) => open.at(-1).children.push(node);
  for (const token of parser.parse(source, {})) {
    if (token.nesting === 1) {
      const node = container(token);
      leaf(node);
      open.push(node);
    } else if (token.nesting === -1) open.pop();
    else if (token.type === "inline") open.at(-1).children = inlineNodes(token.children);
    else leaf(block(token));
  }
  return root.children;
}

function container(token) {
  const children = [];
  switch (token.type) {
    case "paragraph_open": return { type: "paragraph", isTight: token.hidden, children };
    case "heading_open": return { type: "heading", level: Number(token.tag[1]), children };
    case "blockquote_open": return { type: "quote", children };
    case "bullet_list_open": return { type: "list", isOrdered: false, start: 1, children };
    case "ordered_list_open": return { type: "list", isOrdered: true, start: Number(token.attrGet("start") ?? 1), children };
    case "list_item_open": return { type: "item", children };
    case "table_open": return { type: "table", children };
    case "thead_open": return { type: "head", children };
    case "tbody_open": return { type: "body", children };
    case "tr_open": return { type: "row", children };
    case "th_open":
    case "td_open": return { type: "cell", isHead: token.tag === "th", align: alignment(token), children };
    default: return { type: "unknown", children };
  }
}

function alignment(token) {
  return /^text-align:(left|center|right)$/.exec(token.attrGet("style") ?? "")?.[1] ?? null;
}

function block(token) {
  if (token.type === "hr") return { type: "rule" };
  if (token.type === "fence" || token.type === "code_block") {
    const text = token.content.endsWith("\n") ? token.content.slice(0, -1) : token.content;
    return { type: "code", language: token.info.trim().split(/\s/, 1)[0], text };
  }
  return { type: "plain", text: token.content };
}

const MARKS = { strong_open: "strong", em_open: "em", s_open: "del" };

function inlineNodes(tokens) {
  const root = { children: [] };
  const open = [root];
  const push = (node) => {
    const siblings = open.at(-1).children;
    const last = siblings.at(-1);
    if (node.type === "text" && last?.type === "text") last.text += node.text;
    else if (node.type !== "text" || node.text) siblings.push(node);
  };
  for (const token of tokens) {
    if (token.nesting === 1) {
      const href = token.type === "link_open" ? safeLink(token.attrGet("href") ?? "") : null;
      const node = href ? { type: "link", href, children: [] } : { type: MARKS[token.type] ?? "unknown", children: [] };
      push(node);
      open.push(node);
    } else if (token.nesting === -1) open.pop();
    else if (token.type === "softbreak" || token.type === "hardbreak") push({ type: "break" });
    else if (token.type === "code_inline") push({ type: "code", text: token.content });
    else if (token.type === "image") push(image(token, open.some((node) => node.type === "link")));
    else push({ type: "text", text: token.content });
  }
  return root.children;
}

/** Return a link to an image: the page loads no images of other servers, which would tell them who reads. */
function image(token, isInLink) {
  const href = isInLink ? null : safeLink(token.attrGet("src") ?? "");
  const label = { type: "text", text: token.content || href || "image" };
  return href ? { type: "link", href, children: [label] } : label;
}
