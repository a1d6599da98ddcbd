// What the server has said, and the way it comes here.
//
//   snapshot ──▶ live ──(cut off)──▶ lost ──▶ live, or by `reset` a snapshot again
//
// Values are kept by kind and key; each kind has a version that grows with its changes, so whoever derives something of a
// kind does it again only then. Readers are told once for each frame. A page that nobody sees lets go of the stream, and
// goes on where it was when it is seen again.
import { useEffect, useState } from "preact/hooks";

const RETRY_MS = 1000;
const MOST_EVENTS = 1000;
const NOTHING = new Map();

class Store {
  constructor() {
    this.link = "connecting";
    this.linkSince = Date.now();
    this.clockOffset = 0;
    this.kinds = new Map();
    this.versions = new Map();
    this.readers = new Set();
    this.epoch = "";
    this.revision = 0;
    this.source = null;
    this.frame = 0;
  }

  kind(name) {
    return this.kinds.get(name) ?? NOTHING;
  }

  version(name) {
    return this.versions.get(name) ?? 0;
  }

  // Seconds since the epoch by the node's clock.
  now() {
    return Date.now() / 1000 + this.clockOffset;
  }

  start() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.letGo();
      else if (!this.source) this.listen();
    });
    this.begin();
  }

  async begin() {
    this.letGo();
    try {
      const answer = await fetch("/api/snapshot");
      if (!answer.ok) throw new Error(await answer.text());
      const snapshot = await answer.json();
      this.kinds.clear();
      this.epoch = snapshot.epoch;
      this.clockOffset = snapshot.now - Date.now() / 1000;
      this.take(snapshot);
      for (const name of this.versions.keys()) this.touch(name);
      if (!document.hidden) this.listen();
    } catch {
      this.turn("lost");
      setTimeout(() => this.begin(), RETRY_MS);
    }
  }

  listen() {
    const source = new EventSource(`/api/stream?since=${this.epoch}-${this.revision}`);
    this.source = source;
    source.onopen = () => this.turn("live");
    source.onmessage = (message) => this.take(JSON.parse(message.data));
    source.addEventListener("reset", () => this.begin());
    source.onerror = () => {
      this.turn("lost");
      // The browser tries again by itself, unless it was told something that is no stream.
      if (source.readyState === EventSource.CLOSED && this.source === source) setTimeout(() => this.begin(), RETRY_MS);
    };
  }

  letGo() {
    this.source?.close();
    this.source = null;
  }

  turn(link) {
    if (this.link === link) return;
    this.link = link;
    this.linkSince = Date.now();
    this.tell();
  }

  take({ revision, put, gone }) {
    this.revision = revision;
    for (const [name, values] of Object.entries(put ?? {})) {
      const known = this.kinds.get(name) ?? new Map();
      this.kinds.set(name, known);
      for (const [key, value] of Object.entries(values)) known.set(key, value);
      this.touch(name);
    }
    for (const [name, keys] of Object.entries(gone ?? {})) {
      for (const key of keys) this.kinds.get(name)?.delete(key);
      this.touch(name);
    }
    const events = this.kinds.get("events");
    if (events && events.size > 2 * MOST_EVENTS) {
      const oldest = [...events.keys()].map(Number).sort((a, b) => a - b);
      for (const key of oldest.slice(0, events.size - MOST_EVENTS)) events.delete(String(key));
    }
    this.tell();
  }

  touch(name) {
    this.versions.set(name, this.version(name) + 1);
  }

  tell() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      for (const reader of this.readers) reader();
    });
  }
}

export const store = new Store();

// Draws the component again whenever something has changed, and every five seconds, because ages grow.
export function useStore() {
  const [, draw] = useState(0);
  useEffect(() => {
    const reader = () => draw((count) => count + 1);
    store.readers.add(reader);
    const tick = setInterval(reader, 5000);
    return () => {
      store.readers.delete(reader);
      clearInterval(tick);
    };
  }, []);
  return store;
}
