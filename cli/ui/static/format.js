// Numbers and times as people read them; the units are those of `podlane`'s tables. Pure.

export function age(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)}${unit}`;
  }
  return `${Math.max(0, Math.floor(seconds))}s`;
}

export function micros(us) {
  if (us >= 1e6) return `${(us / 1e6).toPrecision(3)} s`;
  if (us >= 1e3) return `${(us / 1e3).toPrecision(3)} ms`;
  return `${Math.round(us)} µs`;
}

export function bytes(size) {
  let left = size;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (left < 1000 || unit === "TiB") return `${unit === "B" || left >= 100 ? Math.round(left) : left.toFixed(1)} ${unit}`;
    left /= 1024;
  }
  return "";
}

const grouped = new Intl.NumberFormat("en");

export function count(number) {
  return grouped.format(number);
}

export function clock(seconds) {
  const moment = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(moment.getHours())}:${two(moment.getMinutes())}:${two(moment.getSeconds())}.${String(moment.getMilliseconds()).padStart(3, "0")}`;
}

export function many(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
