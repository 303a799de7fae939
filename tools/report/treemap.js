// Where the time, energy, FLOPs or bytes go: a squarified treemap of the module in focus.

const HEAD = 19; // pixels above what is in a group, for its name
const LEAST = 4; // pixels; what is smaller is not drawn

function drawTreemap() {
  const map = byId("treemap");
  const top = items[state.focus];
  const [width, height] = [map.clientWidth, map.clientHeight];
  const most = Math.max(amount(top, "before"), amount(top, "after"));
  if (!most) {
    map.replaceChildren(make("p", { class: "muted empty" }, data.device ? "Nothing is spent here." : "Costs are unknown without example inputs: give --input, such as --input 8x3x32x32"));
    return;
  }
  // Before and after have the same scale, so that what is saved is seen as empty space.
  const share = Math.sqrt(amount(top, state.moment) / most);
  const cells = [];
  place(top, { x: 0, y: 0, w: width * share, h: height * share }, cells, true);
  map.replaceChildren(...cells);
}

function place(item, box, cells, top = false) {
  if (box.w < LEAST || box.h < LEAST) return;
  const children = parts(item).filter((child) => amount(child, state.moment) > 0);
  const group = children.length > 0 && (top || (box.w > 70 && box.h > 46));
  cells.push(cell(item, box, group));
  if (!group) return;
  const within = { x: box.x + 2, y: box.y + HEAD, w: box.w - 4, h: box.h - HEAD - 2 };
  for (const [child, part] of squarify(children, within)) place(child, part, cells);
}

function cell(item, box, group) {
  const saved = saving(item);
  const value = state.metric.write(amount(item, state.moment));
  const name = item.parent < 0 ? data.model : group || item.kind === "module" ? item.name : `${item.name}`;
  const label = `${item.label}, ${item.type}: ${value}, ${savingText(saved)}`;
  const room = box.w > 34 && box.h > 16;
  return make(
    "button",
    {
      type: "button",
      class: `cell ${group ? "group" : `leaf ${tone(saved)}`} ${item.id === state.selected ? "selected" : ""}`,
      tabindex: -1,
      "data-item": item.id,
      "aria-label": label,
      title: label,
      style: { left: `${box.x}px`, top: `${box.y}px`, width: `${Math.max(1, box.w - 1)}px`, height: `${Math.max(1, box.h - 1)}px` },
      onclick: () => select(item),
      ondblclick: () => focusOn(item),
    },
    room ? make("span", { class: "label" }, name) : "",
    room && (group ? box.w > 150 : box.h > 32) ? make("span", { class: "value" }, box.w > 100 && saved ? `${value} ${savingText(saved)}` : value) : "",
  );
}

// Bruls, Huizing and van Wijk, "Squarified treemaps" (2000): rows along the shorter side, as square as can be.
function squarify(children, box) {
  const ordered = [...children].sort((a, b) => amount(b, state.moment) - amount(a, state.moment));
  let left = sum(ordered.map((item) => amount(item, state.moment)));
  const found = [];
  let { x, y, w, h } = box;
  let start = 0;
  while (start < ordered.length && w > 0 && h > 0 && left > 0) {
    const side = Math.min(w, h);
    const unit = (w * h) / left;
    let end = start;
    let total = 0;
    let worst = Infinity;
    while (end < ordered.length) {
      const next = total + amount(ordered[end], state.moment) * unit;
      const largest = amount(ordered[start], state.moment) * unit;
      const smallest = amount(ordered[end], state.moment) * unit;
      const ratio = Math.max((side * side * largest) / (next * next), (next * next) / (side * side * smallest));
      if (ratio > worst) break;
      [worst, total, end] = [ratio, next, end + 1];
    }
    const depth = total / side;
    let at = 0;
    for (const item of ordered.slice(start, end)) {
      const length = (amount(item, state.moment) * unit) / depth;
      found.push([item, w >= h ? { x, y: y + at, w: depth, h: length } : { x: x + at, y, w: length, h: depth }]);
      at += length;
      left -= amount(item, state.moment);
    }
    if (w >= h) [x, w] = [x + depth, w - depth];
    else [y, h] = [y + depth, h - depth];
    start = end;
  }
  return found;
}
