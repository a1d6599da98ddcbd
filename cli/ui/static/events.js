// What happens, the newest first. Who scrolls or presses `p` holds it, so that nothing moves under their eyes.
import { useMemo, useRef, useState } from "preact/hooks";
import { html } from "./html.js";
import { clock, count, many } from "./format.js";
import { Area, FilterBox } from "./area.js";
import { Grid } from "./grid.js";
import { Mark } from "./state.js";
import { filter } from "./words.js";

const KINDS = ["drop", "verdict", "connection", "trace", "endpoint", "controller"];

export function Events({ data, onOpen }) {
  const [asked, setAsked] = useState("");
  const [kind, setKind] = useState("");
  const [held, setHeld] = useState(null);
  const byHand = useRef(false);
  const live = useMemo(
    () => [...data.kind("events")].map(([key, value]) => ({ key: Number(key), ...value })).sort((one, other) => other.key - one.key),
    [data.version("events")],
  );
  const shown = held ?? live;
  const rows = useMemo(() => {
    const fit = kind ? shown.filter((row) => row.kind === kind || row.kind === "lost") : shown;
    return filter(fit, asked, (row) => ({ kind: row.kind, what: row.what, text: row.text, from: row.source ?? "", to: row.destination ?? "", port: row.port ?? "", reason: row.reason ?? "" }));
  }, [shown, kind, asked]);
  const behind = held && live.length ? live[0].key - (held[0]?.key ?? -1) : 0;
  const lost = data.kind("node").get("traffic")?.lost ?? 0;

  const hold = (on) => setHeld(on ? live : null);
  const toggle = () => {
    byHand.current = !held;
    hold(!held);
    if (held) document.getElementById("events").scrollTop = 0;
  };
  const scrolled = (top) => {
    if (top > 0 && !held) hold(true);
    else if (top === 0 && held && !byHand.current) hold(false);
  };
  const columns = [
    { key: "time", title: "Time", cell: (row) => html`<time>${clock(row.time)}</time>` },
    { key: "what", title: "What", cell: (row) => html`<span class="state ${row.bad ? "state-bad" : ""}"><${Mark} kind=${row.bad ? "bad" : "quiet"} />${row.what ?? row.kind}</span>` },
    { key: "who", title: "Who", cell: (row) => html`<span title=${row.text}>${row.source ? `${row.source} → ${row.destination || "?"}` : (row.subject ?? row.text)}</span>` },
    { key: "port", title: "Port", cell: (row) => (row.protocol ? `${row.protocol}${row.port ? ` ${row.port}` : ""}` : "") },
    { key: "why", title: "Why", cell: (row) => html`<span title=${row.text}>${why(row)}</span>` },
  ];
  const tools = html`
    <label class="choice"><span class="unseen">Kind of event</span>
      <select value=${kind} onChange=${(event) => setKind(event.target.value)}>
        <option value="">all kinds</option>
        ${KINDS.map((one) => html`<option key=${one} value=${one}>${one}</option>`)}
      </select></label>
    <${FilterBox} id="events-filter" label="Filter events" value=${asked} onInput=${setAsked} hint="Filter: web port:5432" />
    <button type="button" id="events-pause" class="quiet hold" aria-pressed=${Boolean(held)} onClick=${toggle} aria-keyshortcuts="p">${held ? `Go on${behind > 0 ? ` (${count(behind)})` : ""}` : "Hold"} <kbd>p</kbd></button>`;
  return html`
    <${Area} id="events" title="Events" note=${lost ? html`<span class="warn">${many(lost, "event")} lost</span>` : "none lost"} tools=${tools}>
      <${Grid} id="events" label="Events, the newest first" columns=${columns} rows=${rows} keyOf=${(row) => row.key} onScroll=${scrolled}
        onOpen=${(row) => row.endpoint && data.kind("endpoints").has(String(row.endpoint)) && onOpen(row.endpoint)} rowClass=${(row) => (row.bad ? "row-bad" : "")}
        empty=${live.length ? "No event fits." : "Nothing has happened yet. Drops are told of always; traces and verdicts where their switches are on."} />
    <//>`;
}

function why(row) {
  const parts = [row.reason];
  if (row.isolated_by?.length) parts.push(`isolated by ${row.isolated_by.join(", ")}`);
  else if (row.rules?.length) parts.push(row.rules.join(", "));
  return parts.filter(Boolean).join("; ");
}
