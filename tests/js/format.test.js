import assert from "node:assert/strict";
import { test } from "node:test";
import { ago, bytes, clock, count, duration, money, used } from "../../static/js/lib/format.js";
import { asksNow, chipOf, commandsOf, phasesOf } from "../../static/js/lib/state.js";

const record = (more) => ({ status: "running", execution_status: "idle", status_detail: "", asked_seq: null, start_task: null, ...more });

test("amounts, counts and sizes are formatted", () => {
  assert.deepEqual([0, 40, 4602, 99_900, 1_200_000, 1_234_567_890].map(money), ["", "<$0.0001", "$0.0046", "$0.0999", "$1.20", "$1,234.57"]);
  assert.deepEqual([0, 999, 1000, 12_345, 999_949, 999_950, 4_100_000].map(count), ["0", "999", "1k", "12.3k", "1000k", "1M", "4.1M"]);
  assert.deepEqual([312, 4100, 2e6].map(bytes), ["312 B", "4.1 kB", "2.0 MB"]);
});

test("a usage is shown with its limit", () => {
  assert.equal(used(245_374_976, 4_096_000_000, "MB"), "245 of 4,096 MB");
  assert.equal(used(12, 512), "12 of 512");
  assert.equal(used(null, 512), "At most 512");
  assert.equal(used(undefined, 4_096_000_000, "MB"), "At most 4,096 MB");
  assert.equal(used(12, null), "12, no limit");
  assert.equal(used(0, null, "MB"), "0 MB, no limit");
  assert.equal(used(null, null, "MB"), "No limit");
});

test("durations and times are formatted", () => {
  assert.deepEqual([0.44, 12, 59.6, 185, 7440].map(duration), ["0.4 s", "12 s", "1 min 00 s", "3 min 05 s", "2 h 04 min"]);
  assert.deepEqual([7, 750, 3723, -3].map(clock), ["0:07", "12:30", "1:02:03", "0:00"]);
  const now = new Date("2026-03-10T12:00:00Z");
  const before = (seconds) => ago(new Date(now - seconds * 1000), now);
  assert.deepEqual([10, 300, 7200, 172_800].map(before), ["just now", "5 min ago", "2 h ago", "2 d ago"]);
});

test("the chip shows the state that matters most", () => {
  const label = (more) => chipOf(record(more)).label;
  assert.equal(label({ status: "starting", start_task: { queue_position: 3 } }), "Waiting, number 3");
  assert.equal(label({ status: "failed", execution_status: "running" }), "Failed");
  assert.equal(label({ status: "stopped", execution_status: "finished" }), "Finished");
  assert.equal(label({ status: "stopped" }), "Asleep");
  assert.equal(label({ execution_status: "waiting_for_confirmation" }), "Waiting for you");
});

test("commands depend on the state", () => {
  assert.deepEqual(commandsOf(record({ execution_status: "running" })), { canStop: true, resume: null });
  assert.deepEqual(commandsOf(record({ execution_status: "paused" })), { canStop: false, resume: "Resume" });
  assert.deepEqual(commandsOf(record({ execution_status: "error" })), { canStop: false, resume: "Retry" });
  assert.deepEqual(commandsOf(record({ status: "starting", execution_status: "error" })), { canStop: false, resume: null });
  assert.deepEqual(commandsOf(record({ status: "stopped", execution_status: "finished" })), { canStop: false, resume: "Wake" });
  assert.equal(asksNow(record({ execution_status: "waiting_for_confirmation", asked_seq: 4 })), true);
  assert.equal(asksNow(record({ execution_status: "waiting_for_confirmation" })), false);
});

test("phases have their states and seconds", () => {
  const at = (second) => new Date(second * 1000).toISOString();
  const task = { phase: "WAITING_FOR_SANDBOX", finished_at: null, phases: [{ phase: "WORKING", started_at: at(0), finished_at: at(2), detail: "" }, { phase: "WAITING_FOR_SANDBOX", started_at: at(2), finished_at: null, detail: "" }] };
  assert.deepEqual(phasesOf(task, 9000).map(({ state, seconds }) => [state, seconds]), [["done", 2], ["now", 7]]);
  assert.equal(phasesOf({ ...task, phase: "ERROR", finished_at: at(5) })[1].state, "failed");
  const waiting = { ...task, phases: [task.phases[0], { ...task.phases[1], finished_at: at(3), detail: "The engine is being installed." }] };
  assert.deepEqual(phasesOf(waiting, 9000).map(({ state, seconds }) => [state, seconds]), [["done", 2], ["now", 7]]);
});
