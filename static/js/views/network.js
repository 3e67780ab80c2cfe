// The network of a conversation's sandbox: the panel with its profile, rules and connections, and the card that asks
// about a refused host.

import { json } from "../lib/api.js";
import { h, icon, showFieldError, toast } from "../lib/dom.js";

const PROFILES = {
  public: ["Any public host", "The agent can reach every host on the public internet, but no private, local or reserved addresses."],
  list: ["Only listed hosts", "The agent can reach only the hosts that are listed or allowed here. If another host is refused, this conversation asks whether to allow it."],
  none: ["No hosts", "The agent can reach only this server: the model and the API."],
};
const REASONS = {
  gateway: "this server",
  public: "public host",
  listed: "listed host",
  "private-named": "named by an administrator",
  "not-listed": "not listed",
  denied: "refused by a rule",
  "private-address": "private address",
  "profile-none": "the profile allows no hosts",
  unresolvable: "no such host",
  unreachable: "not reachable",
  malformed: "malformed request",
};
const PAGE = 30;
const WATCH_MS = 3000;
const LISTED_AT_FIRST = 12;

function matches(pattern, host) {
  return pattern === host || (pattern.startsWith("*.") && host.endsWith(pattern.slice(1)));
}

function moment(text) {
  return h("time", { datetime: text, title: new Date(text).toLocaleString() }, new Date(text).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" }));
}

export class Network {
  constructor(pane, counter, { base, isShown, onChange }) {
    Object.assign(this, { pane, counter, base, isShown, onChange });
    this.state = null;
    this.items = [];
    this.next = null;
    this.timer = null;
    this.problem = "";
    this.busy = new Set();
    this.draft = "";
    this.showsAllHosts = false;
  }

  /** Read the connections again every few seconds while the panel is shown. */
  watch(isShown) {
    clearInterval(this.timer);
    this.timer = null;
    if (!isShown) return;
    this.draw();
    this.refresh();
    this.timer = setInterval(() => {
      if (!document.hidden && this.items.length <= PAGE) this.refresh();
    }, WATCH_MS);
  }

  async refresh() {
    try {
      const before = JSON.stringify(this.state);
      this.state = await json("GET", `${this.base}/egress`);
      this.problem = "";
      if (this.isShown()) {
        const page = await json("GET", `${this.base}/egress/decisions?limit=${PAGE}`);
        this.items = page.items;
        this.next = page.next;
      }
      if (before !== JSON.stringify(this.state)) this.onChange();
    } catch (problem) {
      this.problem = problem.message;
    }
    const open = this.state?.undecided.length ?? 0;
    this.counter.hidden = !open;
    this.counter.textContent = String(open);
    this.draw();
  }

  async more(button) {
    button.setAttribute("aria-busy", "true");
    try {
      const page = await json("GET", `${this.base}/egress/decisions?limit=${PAGE}&cursor=${encodeURIComponent(this.next)}`);
      this.items = [...this.items, ...page.items];
      this.next = page.next;
    } catch (problem) {
      toast(problem.message);
    }
    this.draw();
  }

  async decide(host, allowed, onProblem) {
    return this.change(host, () => json("POST", `${this.base}/egress/rules`, { body: { host, allowed } }), onProblem);
  }

  async remove(host) {
    return this.change(host, () => json("DELETE", `${this.base}/egress/rules/${encodeURIComponent(host)}`));
  }

  /** Send a change and show its result. Return whether it succeeded. */
  async change(host, send, onProblem = (problem) => toast(problem.message)) {
    this.busy.add(host);
    this.onChange();
    this.draw();
    let isDone = true;
    try {
      await send();
    } catch (problem) {
      isDone = false;
      onProblem(problem);
    }
    this.busy.delete(host);
    await this.refresh();
    this.onChange();
    return isDone;
  }

  // --- The card in the story ---

  /** Draw the card that asks about a refused host, with the decision if somebody has decided. */
  drawCard(row) {
    const { host } = row;
    const rule = this.state?.rules.find((one) => one.host === host) ?? this.state?.rules.find((one) => matches(one.host, host));
    const isOpen = !this.state || this.state.undecided.some((item) => item.host === host);
    const name = h("code", {}, `${host}:${row.port}`);
    if (rule) return this.decidedCard(rule, name, host);
    if (this.state && !isOpen) {
      return h("article", { class: "host-card quiet", "aria-label": `Network: ${host}` }, h("p", { class: "host-head" }, icon("globe"), "A host was refused"), h("p", { class: "host-name" }, name), h("p", { class: "hint" }, "The network profile or the list of hosts has changed since, so there is nothing to decide here."));
    }
    return h(
      "article",
      { class: "host-card", "aria-label": `Allow the host ${host}?` },
      h("p", { class: "host-head" }, icon("globe"), "Allow this host?"),
      h("p", { class: "host-name" }, name),
      h("p", { class: "hint" }, "The agent’s sandbox tried to reach it. The network profile allows only listed hosts, so the connection was refused."),
      this.state?.may_decide ? this.buttons(host) : this.state ? h("p", { class: "hint" }, "An owner or admin of the organization can allow this host.") : null,
    );
  }

  decidedCard(rule, name, host) {
    const who = rule.decided_by?.name ?? "A user who was deleted";
    const words = rule.allowed ? ` allowed ${rule.host === host ? "this host" : rule.host} for this conversation on ` : ` kept ${rule.host === host ? "this host" : rule.host} refused for this conversation on `;
    return h(
      "article",
      { class: `host-card ${rule.allowed ? "allowed" : "refused"}`, "aria-label": `Network: ${host}` },
      h("p", { class: "host-head" }, icon(rule.allowed ? "check" : "x"), rule.allowed ? "Host allowed" : "Host stays refused"),
      h("p", { class: "host-name" }, name),
      h("p", { class: "hint" }, h("strong", {}, who), words, h("time", { datetime: rule.decided_at }, new Date(rule.decided_at).toLocaleString()), rule.allowed ? ". The agent can try again." : "."),
      this.state.may_decide ? h("div", { class: "buttons" }, h("button", { type: "button", class: "button small", disabled: this.busy.has(rule.host), onclick: () => this.remove(rule.host) }, "Undo")) : null,
    );
  }

  buttons(host) {
    const disabled = this.busy.has(host);
    return h(
      "div",
      { class: "buttons" },
      h("button", { type: "button", class: "button primary", disabled, onclick: () => this.decide(host, true) }, icon("check"), "Allow for this conversation"),
      h("button", { type: "button", class: "button", disabled, onclick: () => this.decide(host, false) }, icon("x"), "Keep refused"),
    );
  }

  // --- The panel ---

  draw() {
    if (!this.isShown()) return;
    if (!this.state) {
      this.pane.replaceChildren(h("p", { class: "pane-empty" }, this.problem || "Loading…"));
      return;
    }
    const focused = this.pane.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const range = focused === "host" ? [document.activeElement.selectionStart, document.activeElement.selectionEnd] : null;
    this.pane.replaceChildren(h("div", { class: "details network" }, this.drawProfile(), this.drawUndecided(), this.drawRules(), this.drawHosts(), this.drawDecisions()));
    const target = focused ? this.pane.querySelector(`[data-focus="${CSS.escape(focused)}"]`) : null;
    target?.focus({ preventScroll: true });
    if (range) target?.setSelectionRange(...range);
  }

  drawProfile() {
    const [name, meaning] = PROFILES[this.state.profile];
    return h(
      "section",
      {},
      h("h2", {}, "Network profile"),
      h("p", {}, h("strong", {}, name)),
      h("p", { class: "hint" }, meaning, this.state.set_by === "organization" ? " Chosen by the organization." : " Chosen for this server."),
      this.state.is_enforced ? null : h("p", { class: "notice warning" }, icon("alert"), "This sandbox does not follow the profile, because it runs as a plain process of this server. Its agent can reach every host that the server can reach."),
    );
  }

  drawUndecided() {
    if (!this.state.undecided.length) return null;
    return h(
      "section",
      {},
      h("h2", {}, "Refused hosts"),
      h("ul", { class: "hosts" }, this.state.undecided.map((item) => h(
        "li",
        {},
        h("div", { class: "host-line" }, h("code", {}, item.host), h("span", { class: "faint small-text" }, `port ${item.port}, ${item.count} ${item.count === 1 ? "time" : "times"}`)),
        this.state.may_decide
          ? h("div", { class: "buttons" },
              h("button", { type: "button", class: "button small primary", disabled: this.busy.has(item.host), "aria-label": `Allow ${item.host} for this conversation`, dataset: { focus: `allow ${item.host}` }, onclick: () => this.decide(item.host, true) }, "Allow"),
              h("button", { type: "button", class: "button small", disabled: this.busy.has(item.host), "aria-label": `Keep ${item.host} refused`, dataset: { focus: `refuse ${item.host}` }, onclick: () => this.decide(item.host, false) }, "Keep refused"))
          : null,
      ))),
      this.state.may_decide ? null : h("p", { class: "hint" }, "An owner or admin of the organization can allow these hosts."),
    );
  }

  drawRules() {
    const { rules, may_decide: mayDecide } = this.state;
    if (!rules.length && !mayDecide) return null;
    return h(
      "section",
      {},
      h("h2", {}, "Rules of this conversation"),
      rules.length
        ? h("ul", { class: "hosts" }, rules.map((rule) => h(
            "li",
            {},
            h("div", { class: "host-line" }, h("code", {}, rule.host), h("span", { class: `chip ${rule.allowed ? "good" : "bad"}` }, rule.allowed ? "allowed" : "refused"), h("span", { class: "faint small-text", title: new Date(rule.decided_at).toLocaleString() }, rule.decided_by ? `by ${rule.decided_by.name}` : "")),
            mayDecide ? h("button", { type: "button", class: "icon-button", disabled: this.busy.has(rule.host), "aria-label": `Remove the rule for ${rule.host}`, title: "Remove", dataset: { focus: `remove ${rule.host}` }, onclick: () => this.remove(rule.host) }, icon("trash")) : null,
          )))
        : h("p", { class: "hint" }, "There are no rules yet."),
      mayDecide ? this.drawForm() : null,
    );
  }

  drawForm() {
    const input = h("input", { class: "mono", value: this.draft, maxlength: "255", required: true, placeholder: "pypi.org or *.example.com", "aria-label": "Host or pattern", autocomplete: "off", autocapitalize: "none", spellcheck: "false", dataset: { focus: "host" }, oninput: (event) => { this.draft = event.target.value; this.hostError = ""; } });
    const form = h(
      "form",
      {
        class: "host-form",
        onsubmit: async (event) => {
          event.preventDefault();
          const host = this.draft.trim();
          if (!host) return;
          const isDone = await this.decide(host, event.submitter?.value !== "refuse", (problem) => (this.hostError = problem.message));
          if (isDone) this.draft = this.hostError = "";
          this.draw();
          if (!isDone) this.pane.querySelector("[data-focus=host]").focus();
        },
      },
      input,
      h("button", { class: "button small", value: "allow", dataset: { focus: "form allow" } }, "Allow"),
      h("button", { class: "button small", value: "refuse", dataset: { focus: "form refuse" } }, "Refuse"),
    );
    if (this.hostError) showFieldError(input, this.hostError);
    return form;
  }

  drawHosts() {
    const { hosts, profile } = this.state;
    if (profile !== "list") return null;
    const shown = this.showsAllHosts ? hosts : hosts.slice(0, LISTED_AT_FIRST);
    return h(
      "section",
      {},
      h("h2", {}, "Listed hosts"),
      hosts.length ? h("p", { class: "host-list" }, shown.map((host) => [h("code", {}, host), " "])) : h("p", { class: "hint" }, "The organization and this server list no hosts."),
      shown.length < hosts.length ? h("button", { type: "button", class: "button small", dataset: { focus: "hosts" }, onclick: () => { this.showsAllHosts = true; this.draw(); } }, `Show all ${hosts.length}`) : null,
    );
  }

  drawDecisions() {
    return h(
      "section",
      {},
      h("h2", {}, "Newest connections"),
      this.items.length
        ? h("ul", { class: "connections" }, this.items.map((item) => h(
            "li",
            { class: item.allowed ? "" : "refused" },
            icon(item.allowed ? "check" : "x", item.allowed ? "Allowed" : "Refused"),
            h("div", {}, h("code", {}, `${item.host}:${item.port}`), item.count > 1 ? h("span", { class: "faint" }, ` × ${item.count}`) : null, h("span", { class: "why" }, REASONS[item.reason] ?? item.reason)),
            moment(item.at),
          )))
        : h("p", { class: "hint" }, "No connections were recorded yet."),
      this.next ? h("button", { type: "button", class: "button small", dataset: { focus: "more" }, onclick: (event) => this.more(event.currentTarget) }, "Show older") : null,
    );
  }
}
