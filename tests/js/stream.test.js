import assert from "node:assert/strict";
import { test } from "node:test";
import { EventStream, backoff } from "../../static/js/lib/stream.js";

/** Create an event stream with sockets, timers and a clock that the test controls. */
function createWorld({ log = [], epoch = 1 } = {}) {
  const world = { sockets: [], seen: [], states: [], resets: [], statuses: [], requests: [], clock: 0, timers: new Map(), next: 1, refuse: null };
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
      world.requests.push(after);
      if (world.refuse) throw world.refuse;
      return { items: log.filter((event) => event.seq > after), last_seq: log.length, epoch: world.epoch ?? epoch };
    },
    handlers: {
      onEvents: (events) => world.seen.push(...events.map((event) => event.seq)),
      onState: (state) => world.states.push(state),
      onReset: (frame) => world.resets.push(frame.last_seq),
      onStatus: (record) => world.statuses.push(record),
    },
  });
  world.socket = () => world.sockets[world.sockets.length - 1];
  world.receive = (frame) => world.socket().onmessage({ data: JSON.stringify(frame) });
  world.event = (seq) => world.receive({ type: "event", seq, event: { seq } });
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

test("a reconnected socket continues after the last seq, and no event is used twice", async () => {
  const world = createWorld();
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

test("after a gap the stream reconnects from the last event before the gap", async () => {
  const world = createWorld();
  world.socket().onopen();
  world.event(1);
  world.event(3);
  assert.deepEqual(world.seen, [1]);
  await world.pass(600);
  assert.equal(world.socket().after, 1);
});

test("the stream polls after three failed sockets and returns to a socket that opens", async () => {
  const world = createWorld({ log: [{ seq: 1 }, { seq: 2 }] });
  for (let i = 0; i < 3; i++) {
    world.socket().onclose({ code: 1006 });
    await world.pass(11_000);
  }
  assert.deepEqual(world.seen, [1, 2]);
  assert.equal(world.states.at(-1), "polling");
  await world.pass(2_000);
  assert.equal(world.requests.at(-1), 2);
  const before = world.sockets.length;
  await world.pass(31_000);
  assert.equal(world.sockets.length, before + 1);
  world.socket().onopen();
  assert.equal(world.states.at(-1), "live");
  world.event(3);
  assert.deepEqual(world.seen, [1, 2, 3]);
});

test("polling resets the stream when the epoch changes", async () => {
  const world = createWorld({ log: [{ seq: 1 }] });
  for (let i = 0; i < 3; i++) {
    world.socket().onclose({ code: 1006 });
    await world.pass(11_000);
  }
  world.epoch = 2;
  await world.pass(2_000);
  assert.deepEqual(world.resets, [1]);
});

test("reset and status frames are passed on; pings and invalid frames are ignored", () => {
  const world = createWorld();
  world.socket().onopen();
  world.receive({ type: "status", conversation: { id: "x" } });
  world.receive({ type: "reset", last_seq: 4, epoch: 2 });
  world.receive({ type: "ping" });
  world.socket().onmessage({ data: "not json" });
  assert.deepEqual([world.statuses.length, world.resets], [1, [4]]);
});

test("a stream whose access ended changes its state and does not reconnect", async () => {
  for (const [code, state] of [[4401, "signed-out"], [4403, "gone"], [4404, "gone"]]) {
    const world = createWorld();
    world.socket().onopen();
    world.socket().onclose({ code });
    assert.equal(world.states.at(-1), state);
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1);
  }
});

test("a silent socket is closed and replaced", async () => {
  const world = createWorld();
  world.socket().onopen();
  world.clock = 61_000;
  world.stream.checkSilence();
  assert.equal(world.sockets[0].closed, true);
  assert.equal(world.states.at(-1), "reconnecting");
});

test("the back-off doubles up to ten seconds, with jitter", () => {
  assert.deepEqual([0, 1, 2, 5, 50].map((attempt) => backoff(attempt, () => 1)), [500, 1000, 2000, 10_000, 10_000]);
  assert.equal(backoff(5, () => 0), 5000);
});
