// The endpoints of the node, all of them.
import { useMemo, useState } from "preact/hooks";
import { html } from "./html.js";
import { age, count } from "./format.js";
import { Area, FilterBox } from "./area.js";
import { Grid, sorted } from "./grid.js";
import { EndpointState, endpointKind } from "./state.js";
import { filter } from "./words.js";
import { shortLabels } from "./names.js";

const ORDER = { bad: 0, wait: 1, busy: 2, quiet: 3, good: 4 };

export function Endpoints({ data, open, onOpen }) {
  const [asked, setAsked] = useState("");
  const [sort, setSort] = useState({ key: "id", down: false });
  const policies = data.kind("policies");
  const version = `${data.version("endpoints")} ${data.version("policies")}`;
  const rows = useMemo(() => {
    const fit = filter([...data.kind("endpoints").values()], asked, (row) => ({
      id: row.id, pod: row.pod, state: row.state, identity: row.identity, labels: row.labels.join(" "),
      addresses: row.addresses.join(" "), container: row.container, interface: row.interface,
    }));
    const isolation = (row) => {
      const one = policies.get(String(row.id));
      return one ? -(one.ingress.length + one.egress.length) : 1;
    };
    return sorted(fit, sort, {
      id: (row) => row.id,
      pod: (row) => row.pod || row.container,
      state: (row) => ORDER[endpointKind(row)],
      identity: (row) => row.identity,
      labels: (row) => row.labels.join(),
      policy: isolation,
      age: (row) => -row.created,
    });
  }, [version, asked, sort]);
  const now = data.now();
  const all = data.kind("endpoints").size;
  const columns = [
    { key: "id", title: "ID", sort: true, numeric: true, cell: (row) => row.id },
    { key: "pod", title: "Pod", sort: true, cell: (row) => html`<span title=${row.container}>${row.pod || row.container}</span>` },
    { key: "state", title: "State", sort: true, cell: (row) => html`<${EndpointState} row=${row} />` },
    { key: "identity", title: "Identity", sort: true, numeric: true, cell: (row) => row.identity },
    { key: "labels", title: "Labels", sort: true, cell: (row) => html`<span title=${row.labels.join("\n")}>${shortLabels(row.labels)}</span>` },
    { key: "addresses", title: "Addresses", cell: (row) => html`<span title=${row.addresses.join("\n")}>${row.addresses.join("  ")}</span>` },
    { key: "policy", title: "Isolated", sort: true, cell: (row) => isolated(policies.get(String(row.id))) },
    { key: "age", title: "Age", sort: true, numeric: true, cell: (row) => age(now - row.created) },
  ];
  const note = asked ? `${count(rows.length)} of ${count(all)}` : "";
  return html`
    <${Area} id="endpoints" title="Endpoints" note=${html`<span role="status">${note}</span>`}
      tools=${html`<${FilterBox} id="endpoints-filter" label="Filter endpoints" value=${asked} onInput=${setAsked} hint="Filter: web state:ready   /" />`}>
      <${Grid} id="endpoints" label="Endpoints" columns=${columns} rows=${rows} keyOf=${(row) => row.id} sort=${sort} onSort=${setSort}
        open=${open} onOpen=${(row) => onOpen(row.id)} rowClass=${(row) => `row-${endpointKind(row)}`}
        empty=${all ? "No endpoint has all of these words." : "There is no endpoint: a pod's ADD makes one."} />
    <//>`;
}

function isolated(one) {
  if (!one) return html`<span class="faint">…</span>`;
  const parts = [one.ingress.length && "in", one.egress.length && "out"].filter(Boolean);
  if (!parts.length) return html`<span class="faint">open</span>`;
  return html`<span title=${[...one.ingress.map((name) => `in: ${name}`), ...one.egress.map((name) => `out: ${name}`)].join("\n")}>${parts.join(" + ")}</span>`;
}
