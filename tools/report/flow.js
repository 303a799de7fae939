// The graph: what runs, from top to bottom; regions are boxes that open, arrows are tensors that flow between them.

const STEP = 34; // pixels from block to block
const BLOCK = 26;
let flowRows = [];
let flowEdges = [];
let flowMost = 0; // of what a closed block costs

function drawFlow() {
  const top = items[state.focus];
  flowRows = rowsBelow(top, { nodes: false, found: null });
  if (flowRows.length === 1) flowRows = [top, ...parts(top)];
  flowRows = flowRows.filter((item) => item.type !== "optimizer"); // no data flows through it
  const placeOf = new Map(flowRows.map((item, place) => [item.id, place]));
  const ends = new Map();
  const end = (id) => {
    if (!ends.has(id)) {
      let item = items[id];
      while (item && !placeOf.has(item.id)) item = parentOf(item);
      ends.set(id, item && item !== top ? placeOf.get(item.id) : null);
    }
    return ends.get(id);
  };
  const seen = new Map();
  for (const [source, target] of data.edges) {
    const [from, to] = [end(source), end(target)];
    if (from === null || to === null || from === to) continue;
    const key = from * flowRows.length + to;
    if (!seen.has(key)) seen.set(key, { from, to });
  }
  flowEdges = [...seen.values()];
  flowMost = Math.max(...flowRows.map((item, row) => (isFrame(row) ? 0 : amount(item, state.moment))));
  drawFlowRows();
}

const isFrame = (place) => place + 1 < flowRows.length && flowRows[place + 1].parent === flowRows[place].id;

// Whether nothing but the heads of boxes is between two rows.
function adjacent(from, to) {
  if (to <= from) return false;
  for (let place = from + 1; place < to; place++) if (!isFrame(place)) return false;
  return true;
}

function drawFlowRows() {
  const flow = byId("flow");
  const first = Math.max(0, Math.floor(flow.scrollTop / STEP) - 4);
  const last = Math.min(flowRows.length, Math.ceil((flow.scrollTop + flow.clientHeight) / STEP) + 4);
  const base = items[state.focus].depth;
  const widest = Math.max(220, Math.min(560, flow.clientWidth - 150));
  const left = (item) => 10 + 16 * (item.depth - base);
  const children = [];
  flowRows.forEach((item, place) => {
    if (!isFrame(place)) return;
    let lastRow = place;
    while (lastRow + 1 < flowRows.length && flowRows[lastRow + 1].depth > item.depth) lastRow++;
    if (lastRow < first || place > last) return;
    const box = { left: `${left(item)}px`, top: `${place * STEP + 4}px`, width: `${widest - 2 * left(item) + 20}px`, height: `${(lastRow - place + 1) * STEP - 6}px` };
    children.push(make("div", { class: "frame", "aria-hidden": "true", style: box }));
  });
  for (let place = first; place < last; place++) children.push(block(flowRows[place], place, left(flowRows[place]), widest));
  const height = flowRows.length * STEP + 20;
  children.push(arrows(first, last, left, widest, flow.clientWidth, height));
  flow.replaceChildren(make("div", { class: "canvas", style: { height: `${height}px` } }, children));
}

function block(item, place, left, widest) {
  const frame = isFrame(place);
  const saved = saving(item);
  const label = `${item.label}, ${item.type}: ${state.metric.write(amount(item, state.moment))}, ${savingText(saved)}`;
  const opens = parts(item).length > 0 && item.id !== state.focus;
  return make(
    "button",
    {
      type: "button",
      class: `block ${frame ? "head" : tone(saved)} ${item.id === state.selected ? "selected" : ""}`,
      "data-item": item.id,
      "aria-label": label,
      "aria-expanded": opens ? String(frame) : null,
      title: opens ? `${label} (double click to ${frame ? "close" : "open"})` : label,
      style: { left: `${left + 4}px`, top: `${place * STEP + 6}px`, width: `${widest - 2 * left + 12}px`, height: `${BLOCK}px` },
      onclick: () => select(item),
      ondblclick: () => opens && toggle(item),
    },
    opens
      ? make("span", { class: "twisty", onclick: (event) => { event.stopPropagation(); toggle(item); } }, frame ? "▾" : "▸")
      : "",
    make("span", { class: "label" }, item.parent < 0 ? data.model : item.name),
    make("span", { class: "type" }, item.type),
    frame ? "" : make("span", { class: "size", "aria-hidden": "true" }, make("span", { style: { width: `${flowMost ? (100 * amount(item, state.moment)) / flowMost : 0}%` } })),
    make("span", { class: "value" }, frame ? "" : `${data.inputs.includes(item.id) ? "input → " : ""}${data.device ? state.metric.write(amount(item, state.moment)) : ""} ${saved ? savingText(saved) : ""}${data.outputs.includes(item.id) ? " → output" : ""}`),
  );
}

function arrows(first, last, left, widest, width, height) {
  const svg = make("svg", { class: "arrows", width, height, "aria-hidden": "true" });
  const near = Math.min(18, 90 / Math.max(1, Math.sqrt(flowEdges.length)));
  for (const { from, to } of flowEdges) {
    const [low, high] = [Math.min(from, to), Math.max(from, to)];
    if (high < first || low > last) continue;
    const [a, b] = [flowRows[from], flowRows[to]];
    const chosen = a.id === state.selected || b.id === state.selected;
    const classes = `arrow ${chosen ? "chosen" : ""}`;
    if (adjacent(from, to)) {
      // Down beside the names of the boxes that it enters, then to the block.
      const beside = Math.min(...flowRows.slice(from, to + 1).map(left)) + 8;
      const [x, y1, y2] = [left(a) + 8, from * STEP + 6 + BLOCK, to * STEP + 5];
      const enters = beside < left(b);
      const d = enters ? `M${x} ${y1}v3H${beside}V${y2 + BLOCK / 2}H${left(b)}` : `M${x} ${y1}v3H${beside}V${y2 - 1}`;
      svg.append(make("path", { class: classes, d }), enters ? head(left(b) + 3, y2 + BLOCK / 2, "right", classes) : head(beside, y2, "down", classes));
      continue;
    }
    const [x1, x2] = [widest - left(a) + 16, widest - left(b) + 16];
    const [y1, y2] = [from * STEP + 6 + BLOCK / 2 + 4, to * STEP + 6 + BLOCK / 2 - 4];
    const out = Math.min(width - 8, Math.max(x1, x2) + near + 14 * Math.log2(1 + high - low));
    svg.append(make("path", { class: classes, d: `M${x1} ${y1}C${out} ${y1} ${out} ${y2} ${x2 + 5} ${y2}` }), head(x2, y2, "left", classes));
  }
  return svg;
}

function head(x, y, way, classes) {
  const d = {
    down: `M${x - 3.5} ${y - 5}L${x} ${y}L${x + 3.5} ${y - 5}Z`,
    left: `M${x + 6} ${y - 3.5}L${x} ${y}L${x + 6} ${y + 3.5}Z`,
    right: `M${x - 6} ${y - 3.5}L${x} ${y}L${x - 6} ${y + 3.5}Z`,
  }[way];
  return make("path", { class: `${classes} head`, d });
}
