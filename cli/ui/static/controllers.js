// What the services do by themselves: those that fail first.
import { useMemo, useState } from "preact/hooks";
import { html } from "./html.js";
import { age, count, many } from "./format.js";
import { Area } from "./area.js";
import { Grid } from "./grid.js";
import { ControllerState } from "./state.js";
import { controllersOf } from "./header.js";

const ORDER = { hanging: 0, failing: 1, running: 2, ok: 3 };
const NATURAL = new Intl.Collator("en", { numeric: true });
// The services' own before those of endpoints.
const own = (row) => (row.resource.includes("-") ? 1 : 0);
const keyOf = (row) => `${row.service}-${row.resource}-${row.name}`;

export function Controllers({ data }) {
  const [failing, setFailing] = useState(false);
  const version = ["ipam", "loader", "endpoint"].map((service) => data.version(`controllers:${service}`)).join();
  const all = useMemo(
    () => controllersOf(data).sort((one, other) => ORDER[one.state] - ORDER[other.state] || other.in_a_row - one.in_a_row || own(one) - own(other) || NATURAL.compare(keyOf(one), keyOf(other))),
    [version],
  );
  const rows = failing ? all.filter((row) => ORDER[row.state] < 2) : all;
  const now = data.now();
  const columns = [
    { key: "state", title: "State", cell: (row) => html`<${ControllerState} row=${row} />` },
    { key: "name", title: "Controller", cell: (row) => html`<span title=${`podlane-${row.service}`}><span class="faint">${row.resource} </span>${row.name}</span>` },
    { key: "error", title: "Last error", cell: (row) => row.error ? html`<span title=${row.error}>${row.in_a_row > 1 ? `${count(row.in_a_row)}× ` : ""}${row.error}</span>` : html`<span class="faint">–</span>` },
    { key: "next", title: "Next run", numeric: true, cell: (row) => (row.since ? `for ${age(now - row.since)}` : row.next ? `in ${age(row.next - now)}` : "–") },
  ];
  return html`
    <${Area} id="controllers" title="Controllers" note=${many(all.length, "controller")}
      tools=${html`<label class="check"><input type="checkbox" checked=${failing} onChange=${(event) => setFailing(event.target.checked)} /> failing only</label>`}>
      <${Grid} id="controllers" label="Controllers" columns=${columns} rows=${rows} keyOf=${keyOf} rowClass=${(row) => (ORDER[row.state] < 2 ? "row-bad" : "")}
        empty=${failing ? "None fails." : "No service has told of its controllers yet."} />
    <//>`;
}
