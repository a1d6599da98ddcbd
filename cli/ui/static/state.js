// States as a mark and a word: the mark's shape and colour say how it is, the word says what.
import { html } from "./html.js";

const MARKS = {
  good: { path: "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 0 0 0-11Z" },
  busy: { path: "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 0 0 0-11Zm0 2v7a3.5 3.5 0 0 1 0-7Z" },
  wait: { path: "M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 0 0 0-11Zm0 2a3.5 3.5 0 1 1 0 7a3.5 3.5 0 0 1 0-7Z" },
  bad: { path: "M8 1.8 14.6 13.4H1.4Z" },
  quiet: { path: "M3 7h10v2H3Z" },
};

export function Mark({ kind }) {
  return html`<svg class="mark mark-${kind}" viewBox="0 0 16 16" width="10" height="10" aria-hidden="true"><path fill-rule="evenodd" d=${MARKS[kind].path} /></svg>`;
}

const ENDPOINTS = {
  ready: "good",
  regenerating: "busy",
  restoring: "busy",
  "waiting-to-regenerate": "wait",
  "waiting-for-identity": "wait",
  disconnecting: "quiet",
  disconnected: "quiet",
  invalid: "bad",
};

// How an endpoint is: its state, and then its health.
export function endpointKind(row) {
  const kind = ENDPOINTS[row.state] ?? "quiet";
  if (kind === "good" && (row.health === "failure" || row.failed || row.policy_error)) return "bad";
  if (kind === "good" && row.health === "warning") return "wait";
  return kind;
}

export function EndpointState({ row }) {
  const kind = endpointKind(row);
  const also = row.state === "ready" && kind !== "good" ? (kind === "bad" ? ", failing" : ", warning") : "";
  return html`<span class="state state-${kind}"><${Mark} kind=${kind} />${row.state}${also}</span>`;
}

const CONTROLLERS = { ok: "good", running: "busy", failing: "bad", hanging: "bad" };

export function ControllerState({ row }) {
  const kind = CONTROLLERS[row.state] ?? "quiet";
  return html`<span class="state state-${kind}"><${Mark} kind=${kind} />${row.state}</span>`;
}
