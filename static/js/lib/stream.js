// The live feed of a conversation: a socket that resumes after the last received seq, or polling if sockets fail.
//
// Each event is delivered once and in order. Sockets, fetching, time and randomness are arguments of the constructor, so
// that tests can replace them.

const LONGEST_WAIT = 10_000;
const POLL_EVERY = 2_000;
const SILENCE = 60_000; // the server pings every 20 s; after three missed pings we treat the connection as dead
const SOCKET_AGAIN = 30_000;
const PAGE = 500;
const GONE = new Map([[4400, "bad"], [4401, "signed-out"], [4403, "gone"], [4404, "gone"]]);

/** Return the milliseconds to wait before an attempt (from 0): doubling from 0.5 s to 10 s, with jitter. */
export function backoff(attempt, random = Math.random) {
  const full = Math.min(LONGEST_WAIT, 500 * 2 ** Math.min(attempt, 10));
  return full / 2 + (full / 2) * random();
}

export class EventStream {
  /**
   * `openSocket(after, epoch)` returns a WebSocket; `fetchEvents(after, limit)` resolves to `{items, last_seq, epoch}`;
   * `handlers`: onEvents(events), onDelta, onStatus(record), onReset(frame), onState(name), onOpen(), onPoll().
   */
  constructor({ after, epoch, openSocket, fetchEvents, handlers, timers = globalThis, random = Math.random, now = Date.now }) {
    Object.assign(this, { openSocket, fetchEvents, handlers, timers, random, now });
    this.seq = after;
    this.epoch = epoch;
    this.state = "connecting";
    this.failures = 0;
    this.isPolling = false;
    this.isEnded = false;
    this.socket = null;
    this.timer = null;
    this.heardAt = now();
  }

  start() {
    this.connect();
    this.watch = this.timers.setInterval(() => this.checkSilence(), 5_000);
  }

  stop() {
    this.isEnded = true;
    this.timers.clearTimeout(this.timer);
    this.timers.clearInterval(this.watch);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  /** Continue after another seq, when the story was fetched again. */
  restart(after, epoch) {
    this.seq = after;
    this.epoch = epoch;
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    if (!this.isPolling) this.connect();
  }

  /** Connect without waiting, because the network is back or the page is visible again. */
  nudge() {
    if (this.isEnded || this.state === "live" || this.isPolling || this.socket) return;
    this.timers.clearTimeout(this.timer);
    this.connect();
  }

  connect() {
    if (this.isEnded || this.socket) return;
    let socket;
    let wasOpen = false;
    try {
      socket = this.openSocket(this.seq, this.epoch);
    } catch {
      this.dropped(false);
      return;
    }
    this.socket = socket;
    this.heardAt = this.now();
    socket.onopen = () => {
      if (this.socket !== socket) return;
      wasOpen = true;
      this.failures = 0;
      this.heardAt = this.now();
      this.isPolling = false;
      this.timers.clearTimeout(this.timer);
      this.setState("live");
      this.handlers.onOpen?.();
    };
    socket.onmessage = (message) => {
      if (this.socket !== socket) return;
      this.heardAt = this.now();
      let frame;
      try {
        frame = JSON.parse(message.data);
      } catch {
        return;
      }
      this.take(frame);
    };
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.socket = null;
      const reason = GONE.get(event.code);
      if (reason) this.end(reason);
      else this.dropped(wasOpen);
    };
    socket.onerror = () => {};
  }

  take(frame) {
    if (frame.type === "event") this.takeEvent(frame.event ?? {}, frame.seq);
    else if (frame.type === "delta") this.handlers.onDelta?.(frame);
    else if (frame.type === "status") this.handlers.onStatus?.(frame.conversation);
    else if (frame.type === "reset") this.handlers.onReset?.(frame);
  }

  takeEvent(event, seq) {
    if (seq <= this.seq) return;
    if (seq > this.seq + 1) {
      // The server promises no gaps. If one occurs, reconnect after the last seq instead of showing an incomplete story.
      const socket = this.socket;
      this.socket = null;
      socket?.close();
      this.dropped(true);
      return;
    }
    this.seq = seq;
    this.handlers.onEvents?.([event]);
  }

  dropped(wasOpen) {
    if (this.isEnded) return;
    this.failures = wasOpen ? 0 : this.failures + 1;
    if (this.isPolling) {
      this.socketAgainAt = this.now() + SOCKET_AGAIN;
      return;
    }
    this.setState("reconnecting");
    if (this.failures >= 3) {
      this.isPolling = true;
      this.socketAgainAt = this.now() + SOCKET_AGAIN;
      this.poll();
      return;
    }
    this.timers.clearTimeout(this.timer);
    this.timer = this.timers.setTimeout(() => this.connect(), backoff(this.failures, this.random));
  }

  async poll() {
    if (this.isEnded || !this.isPolling) return;
    try {
      const page = await this.fetchEvents(this.seq, PAGE);
      if (this.isEnded || !this.isPolling) return;
      if (page.epoch !== this.epoch || page.last_seq < this.seq) {
        this.handlers.onReset?.({ last_seq: page.last_seq, epoch: page.epoch });
      } else {
        const news = page.items.filter((event) => event.seq > this.seq).sort((a, b) => a.seq - b.seq);
        if (news.length) {
          this.seq = news[news.length - 1].seq;
          this.handlers.onEvents?.(news);
        }
      }
      this.setState("polling");
      this.handlers.onPoll?.();
    } catch (problem) {
      if (problem?.status === 401) return this.end("signed-out");
      if (problem?.status === 404) return this.end("gone");
      this.setState("reconnecting");
    }
    if (!this.socket && this.now() >= this.socketAgainAt) this.connect();
    this.timer = this.timers.setTimeout(() => this.poll(), POLL_EVERY);
  }

  checkSilence() {
    if (!this.socket || this.now() - this.heardAt < SILENCE) return;
    const socket = this.socket;
    this.socket = null;
    socket.close();
    this.dropped(this.state === "live");
  }

  end(reason) {
    this.setState(reason);
    this.stop();
  }

  setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.handlers.onState?.(state);
  }
}
