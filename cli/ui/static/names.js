// Labels and ends as people say them. Pure.

const NAMESPACE = "k8s:io.kubernetes.pod.namespace=";
const OF_NAMESPACE = "k8s:io.cilium.k8s.namespace.labels.";

// What tells pods apart at a glance: without the namespace, which is in the pod's name, and without sources.
export function shortLabels(labels) {
  return labels
    .filter((label) => !label.startsWith(NAMESPACE) && !label.startsWith(OF_NAMESPACE))
    .map((label) => label.replace(/^(k8s|reserved):/, ""))
    .join("  ");
}

export function namespaceOf(labels) {
  return labels.find((label) => label.startsWith(NAMESPACE))?.slice(NAMESPACE.length) ?? "";
}

const APPS = ["k8s:app=", "k8s:app.kubernetes.io/name=", "k8s:k8s-app=", "k8s:run=", "k8s:name="];

// The workload that an end is of, as far as its labels tell; empty: they don't.
export function workloadOf(labels) {
  for (const app of APPS) {
    const found = labels.find((label) => label.startsWith(app));
    if (found) return [namespaceOf(labels), found.slice(app.length)].filter(Boolean).join("/");
  }
  return "";
}

// Ends that are no pod: `reserved:world`, `203.0.113.7 (world)`.
export function outsideOf(end) {
  const reserved = end.labels.find((label) => label.startsWith("reserved:"));
  if (reserved) return reserved.slice("reserved:".length);
  return end.name.match(/\(([^)]+)\)$/)?.[1] ?? end.name;
}
