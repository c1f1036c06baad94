// Where the value of a JSON pointer stands in a JSON text.

/** Start and end of the value at `pointer`, or of the nearest thing around it; null if the text cannot be read so far. */
export function located(text, pointer) {
  let at = 0;
  const wanted = pointer.split("/").slice(1).map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  let found = null;

  function space() {
    while (/\s/.test(text[at] ?? "")) at += 1;
  }

  function word() {
    const match = /"(?:[^"\\]|\\.)*"|[^\s,:{}[\]]+/y;
    match.lastIndex = at;
    const read = match.exec(text);
    if (!read) throw new SyntaxError("a word is missing");
    at = match.lastIndex;
    return read[0];
  }

  /** Reads a value. `depth` is how much of the pointer leads to it, or -1 if it leads elsewhere. */
  function value(depth) {
    space();
    const start = at;
    const open = text[at];
    if (open === "{" || open === "[") {
      const close = open === "{" ? "}" : "]";
      at += 1;
      for (let index = 0; ; index += 1) {
        space();
        if (text[at] === close) break;
        if (at >= text.length) throw new SyntaxError("it breaks off");
        const keyed = at;
        let name = String(index);
        if (open === "{") {
          name = JSON.parse(word());
          space();
          at += 1; // the colon
        }
        const inside = depth >= 0 && wanted[depth] === name;
        if (inside && open === "{") found = [keyed, at];
        value(inside ? depth + 1 : -1);
        space();
        if (text[at] === ",") at += 1;
      }
      at += 1;
    } else {
      word();
    }
    if (depth === wanted.length) found = [start, at];
  }

  try {
    value(0);
  } catch {
    // what was found until there counts
  }
  return found;
}
