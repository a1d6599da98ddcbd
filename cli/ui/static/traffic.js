// Who talks to whom: a map, and beside it all that the map shows as a table.
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { bytes, clock, count, many } from "./format.js";
import { Area } from "./area.js";
import { Grid, sorted } from "./grid.js";
import { curve, graphOf, halfName, MOST_SINGLE, place, radius, shorten } from "./graph.js";

export function Traffic({ data, onOpen }) {
  const box = useRef(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [pinned, setPinned] = useState(null);
  const [near, setNear] = useState(null);
  const [sort, setSort] = useState({ key: "dropped", down: true });
  useLayoutEffect(() => {
    const measure = () => setSize({ width: box.current.clientWidth, height: box.current.clientHeight });
    const observer = new ResizeObserver(measure);
    observer.observe(box.current);
    measure();
    return () => observer.disconnect();
  }, []);

  const [by, setBy] = useState("");
  const single = by ? by === "pods" : data.kind("endpoints").size <= MOST_SINGLE;
  const graph = useMemo(
    () => graphOf(data.kind("endpoints"), data.kind("edges"), { room: size.width < 520 ? 18 : 60, single }),
    [data.version("endpoints"), data.version("edges"), size.width < 520, single],
  );
  const held = graph.nodes.some((node) => node.id === pinned) || graph.links.some((link) => link.id === pinned) ? pinned : null;
  const lit = near ?? held;
  const rows = useMemo(() => {
    const of = held ? graph.talks.filter((talk) => talk.link === held || talk.from.id === held || talk.to.id === held) : graph.talks;
    const by = { from: (row) => row.from.label, to: (row) => row.to.label, port: (row) => row.port, bytes: (row) => row.bytes, dropped: (row) => row.dropped * 1e15 + row.bytes };
    return sorted(of, sort, by);
  }, [graph, sort, held]);
  const columns = [
    { key: "from", title: "From", sort: true, cell: (row) => html`<span title=${row.from.label}>${row.from.label}</span>` },
    { key: "to", title: "To", sort: true, cell: (row) => html`<span title=${row.to.label}>${row.to.label}</span>` },
    { key: "port", title: "Port", sort: true, cell: (row) => `${row.protocol}${row.port ? ` ${row.port}` : ""}` },
    { key: "bytes", title: "Passed", sort: true, down: true, numeric: true, cell: (row) => (row.bytes ? bytes(row.bytes) : html`<span class="faint">–</span>`) },
    { key: "dropped", title: "Dropped", sort: true, down: true, numeric: true, cell: (row) => (row.dropped ? html`<span class="much" title=${row.reason}>${count(row.dropped)}</span>` : html`<span class="faint">–</span>`) },
  ];
  const traffic = data.kind("node").get("traffic");
  const note = [
    traffic?.since && `since ${clock(traffic.since).slice(0, 8)}`,
    graph.left > 0 && `${many(graph.left, "quieter node")} in the table only`,
  ].filter(Boolean).join(", ");
  const tools = html`
    ${held && html`<button type="button" class="quiet" onClick=${() => setPinned(null)}>Show all</button>`}
    <label class="choice"><span class="unseen">A node of the map is</span>
      <select value=${single ? "pods" : "workloads"} onChange=${(event) => setBy(event.target.value)}>
        <option value="workloads">by workload</option>
        <option value="pods">by pod</option>
      </select></label>`;
  return html`
    <${Area} id="traffic" title="Who talks to whom" note=${note} tools=${tools}>
      <div class="pair pair-traffic">
        <div class="map" ref=${box}>
          ${size.width > 0 && html`<${Map_} graph=${graph} size=${size} lit=${lit} held=${held} onNear=${setNear}
            onHold=${(id) => setPinned(id === held ? null : id)} onOpen=${onOpen} />`}
          ${graph.nodes.length === 0 && html`<p class="map-empty">Nobody is here yet.</p>`}
        </div>
        <div class="talks" onMouseLeave=${() => setNear(null)}>
          <${Grid} id="talks" label="Who talks to whom, as a table" columns=${columns} rows=${rows} keyOf=${(row) => row.key} sort=${sort} onSort=${setSort}
            onActive=${(row) => setNear(row.link)} onOpen=${(row) => setPinned(row.link === held ? null : row.link)} rowClass=${(row) => (row.dropped ? "row-bad" : "")}
            empty="Nothing has been said yet, or flows aren't counted (flow-accounting)." />
        </div>
      </div>
    <//>`;
}

// In a thicket lines are thin.
const thick = (link, links) => (1.2 + Math.min(5, Math.log2(1 + link.bytes / 4096) * 0.28)) * (links > 60 ? 0.5 : 1);

function Map_({ graph, size, lit, held, onNear, onHold }) {
  const known = useRef({ width: 0, places: new Map() });
  const shape = `${size.width} ${graph.nodes.map((node) => node.id).join("\n")}`;
  const places = useMemo(() => {
    const before = known.current.width === size.width ? known.current.places : new Map();
    const found = place(graph, size.width, size.height, before);
    known.current = { width: size.width, places: found };
    return found;
  }, [shape]);
  const sizes = new Map(graph.nodes.map((node) => [node.id, radius(node)]));
  const names = new Map(graph.nodes.map((node) => [node.id, halfName(node)]));
  const [stop, setStop] = useState(null);
  const current = places.has(stop) ? stop : graph.nodes[0]?.id;
  const svg = useRef(null);

  const touched = new Set();
  if (lit) {
    touched.add(lit);
    for (const link of graph.links) {
      if (link.id === lit || link.source === lit || link.target === lit) for (const id of [link.id, link.source, link.target]) touched.add(id);
    }
  }
  const dim = (id) => (lit && !touched.has(id) ? "dim" : "");
  const walk = (event) => {
    const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.key === "Enter" || event.key === " ") onHold(current);
    else if (event.key in ways) {
      const next = neighbour(places, current, ways[event.key]);
      if (next) {
        setStop(next);
        svg.current.querySelector(`[data-id="${CSS.escape(next)}"]`)?.focus();
      }
    } else return;
    event.preventDefault();
  };
  const taken = [];
  const links = graph.links.map((link) => ({ link, way: curve(link, places, sizes, names, taken) })).filter((one) => one.way);
  return html`
    <svg ref=${svg} viewBox="0 0 ${size.width} ${size.height}" width=${size.width} height=${size.height} role="group" aria-label="Map: ${many(graph.nodes.length, "node")}, ${many(graph.links.length, "edge")}; the table has the same" onKeyDown=${walk}>
      <defs>
        ${["passed", "dropped"].map((kind) => html`
          <marker key=${kind} id="tip-${kind}" class="tip tip-${kind}" viewBox="0 0 8 8" refX="5.5" refY="4" markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0.8 7 4 0 7.2Z" /></marker>`)}
      </defs>
      <g aria-hidden="true">
        ${links.map(({ link, way }) => html`
          <path key=${link.id} class="edge ${link.dropped ? "edge-dropped" : ""} ${dim(link.id)} ${link.id === held ? "held" : ""}" d=${way.path} stroke-width=${thick(link, links.length)}
            marker-end="url(#tip-${link.dropped ? "dropped" : "passed"})" onMouseEnter=${() => onNear(link.id)} onMouseLeave=${() => onNear(null)} onClick=${() => onHold(link.id)} />`)}
      </g>
      ${graph.nodes.map((node) => {
        const at = places.get(node.id);
        const r = sizes.get(node.id);
        return at && html`
          <g key=${node.id} data-id=${node.id} class="node node-${node.kind} ${node.dropped ? "node-dropped" : ""} ${dim(node.id)} ${node.id === held ? "held" : ""}" role="button" tabindex=${node.id === current ? 0 : -1}
            aria-pressed=${node.id === held} aria-label=${spoken(node)} transform="translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})"
            onFocus=${() => { setStop(node.id); onNear(node.id); }} onBlur=${() => onNear(null)} onMouseEnter=${() => onNear(node.id)} onMouseLeave=${() => onNear(null)} onClick=${() => onHold(node.id)}>
            ${node.kind === "outside"
              ? html`<rect x=${-r} y=${-r} width=${2 * r} height=${2 * r} rx="4" />`
              : html`<circle r=${r} />`}
            <text class="name" y=${r + 14}>${shorten(node.label)}</text>
            ${" "}${node.count > 1 && html`<text class="inside" dy="0.35em">${node.count}</text>`}
          </g>`;
      })}
      <g aria-hidden="true">
        ${links.filter(({ link }) => link.dropped).map(({ link, way }) => html`
          <g key=${link.id} class="badge ${dim(link.id)}" transform="translate(${way.x.toFixed(1)} ${way.y.toFixed(1)})">
            <rect x=${-4 - 3.4 * count(link.dropped).length} y="-8" width=${8 + 6.8 * count(link.dropped).length} height="16" rx="8" /><text dy="0.35em">${count(link.dropped)}</text>
          </g>`)}
      </g>
    </svg>`;
}

function spoken(node) {
  const parts = [node.count > 1 ? `${node.label} ${many(node.count, "endpoint")}` : node.label];
  if (node.bytes) parts.push(`${bytes(node.bytes)} passed`);
  if (node.dropped) parts.push(`${many(node.dropped, "packet")} dropped`);
  return parts.join(", ");
}

// The nearest place that lies that way, rather than beside it.
function neighbour(places, from, [x, y]) {
  const here = places.get(from);
  let best = null;
  let least = Infinity;
  for (const [id, there] of places) {
    const along = (there.x - here.x) * x + (there.y - here.y) * y;
    const aside = Math.abs((there.x - here.x) * y) + Math.abs((there.y - here.y) * x);
    if (id === from || along <= 4) continue;
    const cost = along + 2.5 * aside;
    if (cost < least) [best, least] = [id, cost];
  }
  return best;
}
