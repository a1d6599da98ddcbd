// The filter boxes: words that all have to be in a row's text, `-word` must not be; `state:ready` asks for one field. Pure.

const texts = new WeakMap();

// Whether a row fits; `fields(row)` returns its texts by name.
export function filter(rows, asked, fields) {
  const words = asked.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return rows;
  return rows.filter((row) => {
    let known = texts.get(row);
    if (!known) {
      known = Object.fromEntries(Object.entries(fields(row)).map(([name, text]) => [name, String(text).toLowerCase()]));
      known[""] = Object.values(known).join(" ");
      texts.set(row, known);
    }
    return words.every((word) => {
      const not = word.length > 1 && word.startsWith("-");
      const wanted = not ? word.slice(1) : word;
      const colon = wanted.indexOf(":");
      const field = colon > 0 ? wanted.slice(0, colon) : "";
      const has = field && field in known ? known[field].includes(wanted.slice(colon + 1)) : known[""].includes(wanted);
      return has !== not;
    });
  });
}
