// The map as numbers: who is a node of it, which edges there are, and where each lies. Pure, and the same for the same data.
//
// Each endpoint is a node, or those of one workload are one: who has more than MOST_SINGLE sees workloads unless they ask
// for pods. What is too much for the room is left to the table, and said.
import { forceCollide, forceLink, forceManyBody, forceSimulation, forceX, forceY } from "d3-force";
import { namespaceOf, outsideOf, workloadOf } from "./names.js";

export const MOST_SINGLE = 24;

export function graphOf(endpoints, edges, { room, single }) {
  const nodes = new Map();
  const node = (id, label, kind) => {
    if (!nodes.has(id)) nodes.set(id, { id, label, kind, count: 0, bytes: 0, dropped: 0, endpoints: [] });
    return nodes.get(id);
  };
  const of = (row) => {
    const pod = row.pod || row.container;
    const workload = single ? "" : workloadOf(row.labels) || namespaceOf(row.labels) || `identity ${row.identity}`;
    return workload ? node(`w:${workload}`, workload, "pods") : node(`e:${row.id}`, pod || `endpoint ${row.id}`, "pods");
  };
  for (const row of endpoints.values()) {
    const group = of(row);
    group.count += 1;
    group.endpoints.push(row.id);
  }
  const nodeOf = (end) => {
    const known = endpoints.get(String(end.endpoint));
    if (known) return of(known);
    const workload = workloadOf(end.labels);
    if (workload) return node(`w:${workload}`, workload, "remote");
    return node(`o:${outsideOf(end)}`, outsideOf(end) || `identity ${end.identity}`, "outside");
  };
  const links = new Map();
  const talks = [];
  for (const [key, edge] of edges) {
    const source = nodeOf(edge.source);
    const target = nodeOf(edge.destination);
    const id = `${source.id}>${target.id}`;
    if (!links.has(id)) links.set(id, { id, source: source.id, target: target.id, bytes: 0, dropped: 0 });
    const link = links.get(id);
    for (const each of new Set([link, source, target])) {
      each.bytes += edge.bytes;
      each.dropped += edge.dropped;
    }
    talks.push({ ...edge, key, link: id, from: source, to: target });
  }
  const all = [...nodes.values()].sort((one, other) => other.dropped - one.dropped || other.bytes - one.bytes || (one.id < other.id ? -1 : 1));
  const shown = new Map(all.slice(0, room).map((one) => [one.id, one]));
  return {
    nodes: [...shown.values()],
    // What is dropped lies over the rest.
    links: [...links.values()].filter((link) => shown.has(link.source) && shown.has(link.target)).sort((one, other) => Boolean(one.dropped) - Boolean(other.dropped)),
    talks: together(talks),
    left: all.length - shown.size,
  };
}

// Rows of the table: what is said between the same two nodes by one port is one.
function together(talks) {
  const rows = new Map();
  for (const talk of talks) {
    const key = `${talk.link} ${talk.protocol} ${talk.port}`;
    const row = rows.get(key);
    if (!row) rows.set(key, { ...talk, key });
    else {
      row.bytes += talk.bytes;
      row.dropped += talk.dropped;
      row.last = Math.max(row.last, talk.last);
      row.reason ||= talk.reason;
    }
  }
  return [...rows.values()];
}

export const radius = (node) => (node.kind === "outside" ? 9 : Math.min(20, 6 + 2.2 * Math.sqrt(node.count)));

// Places the nodes in a box; those that have a place in `known` stay near it. Returns the places by id.
export function place(graph, width, height, known) {
  const margin = 34;
  const label = (node) => Math.max(radius(node) + 12, halfName(node));
  const nodes = graph.nodes.map((node, index) => {
    const turn = index * 2.399963;
    const far = 0.32 * Math.min(width, height) * Math.sqrt((index + 1) / graph.nodes.length);
    const there = known.get(node.id) ?? { x: width / 2 + 1.5 * far * Math.cos(turn), y: height / 2 + far * Math.sin(turn) };
    return { id: node.id, node, x: there.x, y: there.y };
  });
  const all = graph.nodes.every((node) => known.has(node.id));
  const simulation = forceSimulation(nodes)
    .force("link", forceLink(graph.links.map((link) => ({ ...link }))).id((one) => one.id).distance(90).strength(0.25))
    .force("apart", forceManyBody().strength(-260).distanceMax(420))
    .force("room", forceCollide((one) => label(one.node)).strength(0.9).iterations(2))
    .force("x", forceX(width / 2).strength(0.035))
    .force("y", forceY(height / 2).strength(0.035 * Math.max(1, width / height)))
    .stop();
  const ticks = all ? 0 : known.size ? 80 : 260;
  for (let tick = 0; tick < ticks; tick += 1) {
    simulation.tick();
    for (const one of nodes) {
      const side = Math.min(label(one.node), width / 3);
      one.x = Math.max(side, Math.min(width - side, one.x));
      one.y = Math.max(margin, Math.min(height - margin - 6, one.y));
    }
  }
  const fit = ticks ? spread(nodes, { width, height, margin, label }) : (one) => one;
  return new Map(nodes.map((one) => [one.id, fit(one)]));
}

// Returns how places are drawn apart so that they fill the box, each way as far as that helps.
function spread(nodes, { width, height, margin, label }) {
  const axis = (at, low, high) => {
    const [least, most] = [Math.min(...nodes.map(at)), Math.max(...nodes.map(at))];
    const scale = Math.min(1.7, most > least ? (high - low) / (most - least) : 1);
    const start = (low + high) / 2 - (scale * (least + most)) / 2;
    return (one) => start + scale * at(one);
  };
  const side = Math.min(Math.max(...nodes.map((one) => label(one.node))), width / 3);
  const x = axis((one) => one.x, side, width - side);
  const y = axis((one) => one.y, margin, height - margin - 8);
  return (one) => ({ x: x(one), y: y(one) });
}

export const halfName = (node) => 3.1 * shorten(node.label).length;

export function shorten(label) {
  return label.length > 22 ? `${label.slice(0, 20)}…` : label;
}

// The way of an edge from rim to rim, bent a little, so that question and answer lie side by side. `sizes` are radii, `names`
// half the widths of what is written below, `taken` where numbers are already.
export function curve(link, places, sizes, names, taken) {
  const from = places.get(link.source);
  const to = places.get(link.target);
  if (!from || !to) return null;
  if (link.source === link.target) {
    const r = sizes.get(link.source);
    return { path: `M${from.x - r * 0.6} ${from.y - r * 0.8}C${from.x - 26} ${from.y - r - 34} ${from.x + 26} ${from.y - r - 34} ${from.x + r * 0.6} ${from.y - r * 0.8}`, x: from.x, y: from.y - r - 26 };
  }
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const far = Math.hypot(dx, dy) || 1;
  const bend = Math.min(26, far * 0.12);
  const middle = { x: (from.x + to.x) / 2 - (dy / far) * bend, y: (from.y + to.y) / 2 + (dx / far) * bend };
  const rim = (end, size) => {
    const [x, y] = [middle.x - end.x, middle.y - end.y];
    const length = Math.hypot(x, y) || 1;
    return [end.x + (x / length) * size, end.y + (y / length) * size];
  };
  const [x1, y1] = rim(from, sizes.get(link.source) + 2);
  const [x2, y2] = rim(to, sizes.get(link.target) + 6);
  const n = (value) => value.toFixed(1);
  // Of some points of the way the one that is farthest from any node: there a number can be read.
  let best = { room: -Infinity };
  for (const t of [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74]) {
    const at = (a, b, c) => (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c;
    const [x, y] = [at(x1, middle.x, x2), at(y1, middle.y, y2)];
    let room = 24;
    for (const [id, other] of places) {
      const size = sizes.get(id);
      const name = Math.hypot(Math.max(0, Math.abs(other.x - x) - names.get(id)), other.y + size + 10 - y);
      room = Math.min(room, Math.hypot(other.x - x, other.y - y) - size, name);
    }
    for (const other of taken) room = Math.min(room, Math.hypot((other.x - x) / 2, other.y - y));
    if (room > best.room + 2) best = { room, x, y };
  }
  if (link.dropped) taken.push(best);
  return { path: `M${n(x1)} ${n(y1)}Q${n(middle.x)} ${n(middle.y)} ${n(x2)} ${n(y2)}`, x: best.x, y: best.y };
}
