import assert from "node:assert/strict";
import { test } from "node:test";
import { parseInline, parseMarkdown, safeLink } from "../../static/js/lib/markdown.js";

const text = (value) => ({ type: "text", text: value });

test("paragraphs, headings, rules and code are blocks", () => {
  const blocks = parseMarkdown("# Title\n\nOne\ntwo\n\n---\n\n```python\nprint('*a*')\n```\nafter");
  assert.deepEqual(blocks.map((block) => block.type), ["heading", "paragraph", "rule", "code", "paragraph"]);
  assert.deepEqual(blocks[3], { type: "code", language: "python", text: "print('*a*')" });
});

test("an unclosed fence is code to the end", () => {
  assert.deepEqual(parseMarkdown("```\na\nb"), [{ type: "code", language: "", text: "a\nb" }]);
});

test("lists may be nested and numbered", () => {
  const [list] = parseMarkdown("- one\n  - inner\n- two\n");
  assert.equal(list.ordered, false);
  assert.equal(list.items.length, 2);
  assert.equal(list.items[0][1].type, "list");
  const [numbered] = parseMarkdown("3. three\n4. four");
  assert.deepEqual([numbered.ordered, numbered.start, numbered.items.length], [true, 3, 2]);
});

test("inline code takes precedence over other markup", () => {
  assert.deepEqual(parseInline("a `**b**` **c** *d* ~~e~~"), [
    text("a "), { type: "code", text: "**b**" }, text(" "),
    { type: "strong", children: [text("c")] }, text(" "),
    { type: "em", children: [text("d")] }, text(" "),
    { type: "del", children: [text("e")] },
  ]);
  assert.deepEqual(parseInline("snake_case_name and 2 * 3 * 4"), [text("snake_case_name and 2 * 3 * 4")]);
});

test("only http and https links are links", () => {
  assert.deepEqual(parseInline("[a](https://example.com/x)"), [{ type: "link", href: "https://example.com/x", children: [text("a")] }]);
  for (const hostile of ["[a](javascript:alert(1))", "[a](data:text/html,x)", "[a](//evil.example)", "[a](JaVaScRiPt:1)"]) {
    assert.ok(!JSON.stringify(parseInline(hostile)).includes('"link"'), hostile);
  }
  assert.equal(safeLink("javascript:alert(1)"), null);
  assert.equal(safeLink("not a link"), null);
  const bare = parseInline("see https://example.com/a.");
  assert.deepEqual(bare[1], { type: "link", href: "https://example.com/a", children: [text("https://example.com/a")] });
  assert.deepEqual(bare[2], text("."));
});

test("HTML in a message stays text", () => {
  assert.deepEqual(parseMarkdown("<img src=x onerror=alert(1)>"), [{ type: "paragraph", children: [text("<img src=x onerror=alert(1)>")] }]);
});

test("hostile input is parsed within seconds", () => {
  const began = performance.now();
  for (const piece of ["*", "**a", "`", "[", "> ", "- ", "_a", "~~a", "1. ", "[a](https://"]) parseMarkdown(piece.repeat(5000));
  parseMarkdown(Array.from({ length: 300 }, (_, i) => `${" ".repeat(i)}- a`).join("\n"));
  assert.ok(performance.now() - began < 5000, String(performance.now() - began));
});
