// The model as a tree with costs added up, and what is chosen on the page.

const data = JSON.parse(byId("data").textContent);
const items = data.items;

const METRICS = [
  { key: "time", index: 0, write: seconds },
  { key: "energy", index: 1, write: joules },
  { key: "FLOPs", index: 2, write: flops },
  { key: "bytes", index: 3, write: bytes },
];

items.forEach((item, id) => {
  item.id = id;
  item.children = [];
  item.totals = { before: [0, 0, 0, 0, 0], after: [0, 0, 0, 0, 0] };
  if (item.parent >= 0) {
    items[item.parent].children.push(item);
    item.path ??= items[item.parent].path;
  }
  item.depth = item.parent >= 0 ? items[item.parent].depth + 1 : 0;
  item.label = item.path || (item.kind === "module" ? data.model : `${data.model} ${item.name}`);
  item.words = `${item.path} ${item.name} ${item.type}`.toLowerCase();
});

const sum = (values) => values.reduce((total, value) => total + value, 0);

// What is in a module is spent in it too: children come after their parents.
for (const item of [...items].reverse()) {
  const outer = items[item.parent];
  for (const when of ["before", "after"]) {
    const totals = item.totals[when];
    for (const [phase, amounts] of Object.entries(item[when] || {})) {
      amounts.forEach((value, i) => (totals[i] += value));
      if (!outer) continue;
      const above = ((outer[when] ??= {})[phase] ??= [0, 0, 0, 0, 0]);
      amounts.forEach((value, i) => (above[i] += value));
    }
    if (data.device) continue;
    // Without an estimate there are the FLOPs of products.
    for (const product of item.products || []) totals[2] += sum(Object.values(product[when] || {}));
    if (outer) outer.totals[when][2] += totals[2];
  }
}

const root = items[0];
const metrics = METRICS.filter(({ index }) => root.totals.before[index] > 0);

const state = {
  selected: root.id,
  active: root.id,
  focus: root.id,
  metric: metrics[0] || METRICS[2],
  moment: "before",
  view: "treemap",
  query: "",
  open: new Set([root.id]),
};

const amount = (item, when) => item.totals[when][state.metric.index];

function saving(item) {
  const before = amount(item, "before");
  return before > 0 ? 1 - amount(item, "after") / before : 0;
}

const parts = (item) => item.children.filter((child) => child.kind !== "node");
const parentOf = (item) => (item.parent >= 0 ? items[item.parent] : null);

function above(item) {
  const found = [];
  for (let each = parentOf(item); each; each = parentOf(each)) found.unshift(each);
  return found;
}

const inside = (item, outer) => item === outer || above(item).includes(outer);

// What a search finds, and all that it is in; null where nothing is searched for.
function findMatches() {
  const query = state.query.trim().toLowerCase();
  if (!query) return null;
  const matches = new Set(items.filter((item) => item.id && item.words.includes(query)).map((item) => item.id));
  // A node matches by its own words: its layer's path is in all of them.
  for (const id of [...matches]) {
    const item = items[id];
    if (item.kind === "node" && !`${item.name} ${item.type}`.toLowerCase().includes(query)) matches.delete(id);
  }
  const shown = new Set();
  for (const id of matches) {
    for (let each = items[id]; each && !shown.has(each.id); each = parentOf(each)) shown.add(each.id);
  }
  return { matches, shown };
}

// The rows that are to be seen below an item, in order; of a search, all that it found.
function rowsBelow(top, { nodes, found }) {
  const rows = [];
  const waiting = [top];
  while (waiting.length) {
    const item = waiting.pop();
    if (found && !found.shown.has(item.id)) continue;
    if (!nodes && item.kind === "node") continue;
    rows.push(item);
    const open = found ? item.children.some((child) => found.shown.has(child.id)) : state.open.has(item.id);
    if (open) for (let i = item.children.length - 1; i >= 0; i--) waiting.push(item.children[i]);
  }
  return rows;
}
