import assert from "node:assert/strict";
import { test } from "node:test";
import { EventStream, backoff } from "../../static/js/lib/stream.js";

/** A feed with sockets and time that the test plays. */
function play({ log = [], epoch = 1 } = {}) {
  const world = { sockets: [], seen: [], states: [], resets: [], statuses: [], asked: [], clock: 0, timers: new Map(), next: 1, refuse: null };
  const timers = {
    setTimeout: (run, wait) => (world.timers.set(world.next, { run, at: world.clock + wait }), world.next++),
    clearTimeout: (id) => world.timers.delete(id),
    setInterval: () => 0,
    clearInterval: () => {},
  };
  world.stream = new EventStream({
    after: 0, epoch, timers, random: () => 0, now: () => world.clock,
    openSocket(after) {
      const socket = { after, close() { this.closed = true; } };
      world.sockets.push(socket);
      return socket;
    },
    async fetchEvents(after) {
      world.asked.push(after);
      if (world.refuse) throw world.refuse;
      return { items: log.filter((one) => one.seq > after), last_seq: log.length, epoch: world.epoch ?? epoch };
    },
    handlers: {
      onEvents: (events) => world.seen.push(...events.map((one) => one.seq)),
      onState: (state) => world.states.push(state),
      onReset: (frame) => world.resets.push(frame.last_seq),
      onStatus: (record) => world.statuses.push(record),
    },
  });
  world.socket = () => world.sockets[world.sockets.length - 1];
  world.say = (frame) => world.socket().onmessage({ data: JSON.stringify(frame) });
  world.event = (seq) => world.say({ type: "event", seq, event: { seq } });
  world.pass = async (time) => {
    world.clock += time;
    for (const [id, timer] of [...world.timers]) {
      if (timer.at <= world.clock) {
        world.timers.delete(id);
        await timer.run();
      }
    }
    await new Promise((done) => setImmediate(done));
  };
  world.stream.start();
  return world;
}

test("a cut line resumes after the last seq, and nothing is taken twice", async () => {
  const world = play();
  world.socket().onopen();
  world.event(1);
  world.event(2);
  world.socket().onclose({ code: 1006 });
  assert.equal(world.states.at(-1), "reconnecting");
  await world.pass(600);
  assert.equal(world.sockets.length, 2);
  assert.equal(world.socket().after, 2);
  world.socket().onopen();
  world.event(2);
  world.event(3);
  assert.deepEqual(world.seen, [1, 2, 3]);
  assert.equal(world.states.at(-1), "live");
});

test("a hole is not shown: the feed is asked again from before it", async () => {
  const world = play();
  world.socket().onopen();
  world.event(1);
  world.event(3);
  assert.deepEqual(world.seen, [1]);
  await world.pass(600);
  assert.equal(world.socket().after, 1);
});

test("after three sockets that never opened it polls, and goes back when one opens", async () => {
  const world = play({ log: [{ seq: 1 }, { seq: 2 }] });
  for (let i = 0; i < 3; i++) {
    world.socket().onclose({ code: 1006 });
    await world.pass(11_000);
  }
  assert.deepEqual(world.seen, [1, 2]);
  assert.equal(world.states.at(-1), "polling");
  await world.pass(2_000);
  assert.equal(world.asked.at(-1), 2);
  const before = world.sockets.length;
  await world.pass(31_000);
  assert.equal(world.sockets.length, before + 1);
  world.socket().onopen();
  assert.equal(world.states.at(-1), "live");
  world.event(3);
  assert.deepEqual(world.seen, [1, 2, 3]);
});

test("polling notices a restored log", async () => {
  const world = play({ log: [{ seq: 1 }] });
  for (let i = 0; i < 3; i++) {
    world.socket().onclose({ code: 1006 });
    await world.pass(11_000);
  }
  world.epoch = 2;
  await world.pass(2_000);
  assert.deepEqual(world.resets, [1]);
});

test("reset and status are passed on, pings and nonsense are not", () => {
  const world = play();
  world.socket().onopen();
  world.say({ type: "status", conversation: { id: "x" } });
  world.say({ type: "reset", last_seq: 4, epoch: 2 });
  world.say({ type: "ping" });
  world.socket().onmessage({ data: "not json" });
  assert.deepEqual([world.statuses.length, world.resets], [1, [4]]);
});

test("who may not watch any more is told, and does not knock again", async () => {
  for (const [code, state] of [[4401, "signed-out"], [4403, "gone"], [4404, "gone"]]) {
    const world = play();
    world.socket().onopen();
    world.socket().onclose({ code });
    assert.equal(world.states.at(-1), state);
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1);
  }
});

test("a dead line that nobody closed is given up", async () => {
  const world = play();
  world.socket().onopen();
  world.clock = 61_000;
  world.stream.checkSilence();
  assert.equal(world.sockets[0].closed, true);
  assert.equal(world.states.at(-1), "reconnecting");
});

test("waiting doubles up to ten seconds, with chance in it", () => {
  assert.deepEqual([0, 1, 2, 5, 50].map((attempt) => backoff(attempt, () => 1)), [500, 1000, 2000, 10_000, 10_000]);
  assert.equal(backoff(5, () => 0), 5000);
});
