// Parse the subset of Markdown that agents write into a tree of plain objects. No HTML is produced: `views/parts.js` sets
// all text as text, so a message cannot inject markup. Links are http(s) only. Pure; no DOM.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const BULLET = /^(\s*)([-*+])\s+(.*)$/;
const NUMBER = /^(\s*)(\d{1,9})[.)]\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:-\s*){3,}|(?:\*\s*){3,}|(?:_\s*){3,})$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const MAX_DEPTH = 6;

/** Parse a text into blocks: paragraph, heading, code, list, quote, rule. Inline content is in `children`. */
export function parseMarkdown(source, depth = 0) {
  const lines = source.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let paragraph = [];
  const flush = () => {
    if (paragraph.length) blocks.push({ type: "paragraph", children: parseInline(paragraph.join("\n").trim()) });
    paragraph = [];
  };
  for (let i = 0; i < lines.length; ) {
    const line = lines[i];
    const fence = FENCE.exec(line);
    if (fence) {
      flush();
      const body = [];
      i++;
      const close = new RegExp(`^ {0,3}\\${fence[1][0]}{${fence[1].length},}\\s*$`);
      while (i < lines.length && !close.test(lines[i])) body.push(lines[i++]);
      i++; // skip the closing fence, which is missing while the text is still streaming
      blocks.push({ type: "code", language: fence[2], text: body.join("\n") });
      continue;
    }
    if (!line.trim()) { flush(); i++; continue; }
    const heading = HEADING.exec(line);
    if (heading) {
      flush();
      blocks.push({ type: "heading", level: heading[1].length, children: parseInline(heading[2]) });
      i++;
      continue;
    }
    if (RULE.test(line)) { flush(); blocks.push({ type: "rule" }); i++; continue; }
    if (QUOTE.test(line) && depth < MAX_DEPTH) {
      flush();
      const body = [];
      while (i < lines.length && QUOTE.test(lines[i])) body.push(QUOTE.exec(lines[i++])[1]);
      blocks.push({ type: "quote", blocks: parseMarkdown(body.join("\n"), depth + 1) });
      continue;
    }
    const item = BULLET.exec(line) ?? NUMBER.exec(line);
    if (item && depth < MAX_DEPTH && !(paragraph.length && NUMBER.test(line) && item[2] !== "1")) {
      flush();
      const [list, next] = parseList(lines, i, depth);
      blocks.push(list);
      i = next;
      continue;
    }
    paragraph.push(line);
    i++;
  }
  flush();
  return blocks;
}

function parseList(lines, start, depth) {
  const first = BULLET.exec(lines[start]) ?? NUMBER.exec(lines[start]);
  const ordered = !BULLET.test(lines[start]);
  const pattern = ordered ? NUMBER : BULLET;
  const indent = first[1].length;
  const items = [];
  let i = start;
  while (i < lines.length) {
    const match = pattern.exec(lines[i]);
    if (match && Math.abs(match[1].length - indent) <= 1) {
      items.push([match[3]]);
      i++;
      continue;
    }
    const isInner = /^\s+\S/.test(lines[i]) && lines[i].search(/\S/) > indent;
    if (isInner) { items[items.length - 1].push(lines[i].slice(Math.min(indent + 2, lines[i].search(/\S/)))); i++; continue; }
    if (!lines[i].trim() && i + 1 < lines.length) {
      const next = lines[i + 1];
      const goesOn = (pattern.test(next) && Math.abs(pattern.exec(next)[1].length - indent) <= 1) || (/^\s+\S/.test(next) && next.search(/\S/) > indent);
      if (goesOn) { items[items.length - 1].push(""); i++; continue; }
    }
    break;
  }
  const number = ordered ? Number(first[2]) : null;
  return [{ type: "list", ordered, start: number, items: items.map((body) => parseMarkdown(body.join("\n"), depth + 1)) }, i];
}

/** Return the address of a link if it is a valid http(s) address, else null. */
export function safeLink(address) {
  try {
    const url = new URL(address);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

// Code comes first, because no other markup counts inside it. Then links, bold, strikethrough and italic.
const INLINE = /(`+)([\s\S]*?[^`])\1(?!`)|\[([^\]\n]{1,1000})\]\((https?:\/\/[^\s()<>]{1,2000}(?:\([^\s()<>]{0,500}\)[^\s()<>]{0,500})?)\)|\*\*(?=\S)([\s\S]{0,5000}?\S)\*\*|~~(?=\S)([\s\S]{0,2000}?\S)~~|(?<![\w*])\*(?=[^\s*])([^*\n]{1,2000}?[^\s*]|[^\s*])\*(?![\w*])|(?<![\w_])_(?=[^\s_])([^_\n]{1,2000}?[^\s_]|[^\s_])_(?![\w_])|(https?:\/\/[^\s<>"'`\])]{1,2000})/g;

/** Parse a line into inline nodes: text, code, strong, em, del, link. */
export function parseInline(text, depth = 0) {
  const nodes = [];
  const push = (value) => {
    if (!value) return;
    const last = nodes[nodes.length - 1];
    if (last?.type === "text") last.text += value;
    else nodes.push({ type: "text", text: value });
  };
  if (depth > 4) return [{ type: "text", text }];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    push(text.slice(from, match.index));
    from = match.index + match[0].length;
    const [whole, , code, label, address, strong, del, star, underscore, bare] = match;
    const inner = (value) => parseInline(value, depth + 1);
    if (code !== undefined) nodes.push({ type: "code", text: code.replace(/^ (.*[^ ].*) $/s, "$1") });
    else if (label !== undefined) {
      const href = safeLink(address);
      if (href) nodes.push({ type: "link", href, children: inner(label) });
      else push(whole);
    } else if (strong !== undefined) nodes.push({ type: "strong", children: inner(strong) });
    else if (del !== undefined) nodes.push({ type: "del", children: inner(del) });
    else if (star !== undefined || underscore !== undefined) nodes.push({ type: "em", children: inner(star ?? underscore) });
    else if (bare !== undefined) {
      const trimmed = bare.replace(/[.,;:!?*_~]+$/, "");
      const href = safeLink(trimmed);
      if (href) { nodes.push({ type: "link", href, children: [{ type: "text", text: trimmed }] }); push(bare.slice(trimmed.length)); }
      else push(bare);
    } else push(whole);
  }
  push(text.slice(from));
  return nodes;
}
