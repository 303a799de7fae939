// The layers as a tree. Only the rows that are on the screen are in the document, so thousands cost nothing.

const ROW = 26;
let treeRows = [];
let treeFound = null;

function drawTree() {
  treeFound = findMatches();
  treeRows = rowsBelow(root, { nodes: true, found: treeFound });
  byId("tree-rows").style.height = `${treeRows.length * ROW}px`;
  const count = treeFound ? treeFound.matches.size : 0;
  byId("found").textContent = treeFound ? (count ? `${count} found` : "nothing found: try part of a name") : "";
  drawTreeRows();
}

function drawTreeRows() {
  const tree = byId("tree");
  const first = Math.max(0, Math.floor(tree.scrollTop / ROW) - 4);
  const last = Math.min(treeRows.length, Math.ceil((tree.scrollTop + tree.clientHeight) / ROW) + 4);
  byId("tree-rows").replaceChildren(...treeRows.slice(first, last).map((item, i) => treeRow(item, first + i)));
  const active = byId(`row-${state.active}`);
  if (active) tree.setAttribute("aria-activedescendant", active.id);
  else tree.removeAttribute("aria-activedescendant");
}

const isOpen = (item) =>
  treeFound ? item.children.some((child) => treeFound.shown.has(child.id)) : state.open.has(item.id);

function treeRow(item, place) {
  const siblings = item.parent >= 0 ? items[item.parent].children : [item];
  const open = isOpen(item);
  const classes = ["row", item.kind];
  if (item.id === state.selected) classes.push("selected");
  if (item.id === state.active) classes.push("active");
  if (treeFound && treeFound.matches.has(item.id)) classes.push("match");
  return make(
    "div",
    {
      id: `row-${item.id}`,
      class: classes.join(" "),
      role: "treeitem",
      "aria-level": item.depth + 1,
      "aria-posinset": siblings.indexOf(item) + 1,
      "aria-setsize": siblings.length,
      "aria-selected": String(item.id === state.selected),
      "aria-expanded": item.children.length ? String(open) : null,
      title: `${item.label} (${item.type})`,
      style: { top: `${place * ROW}px`, paddingLeft: `${6 + item.depth * 14}px` },
      onclick: () => select(item),
      ondblclick: () => toggle(item),
    },
    make(
      "span",
      {
        class: "twisty",
        "aria-hidden": "true",
        onclick: (event) => {
          event.stopPropagation();
          toggle(item);
        },
      },
      item.children.length ? (open ? "▾" : "▸") : "",
    ),
    make("span", { class: "name" }, item.name),
    make("span", { class: "type" }, item.kind === "node" ? nodeMark(item) : item.type),
    item.kind === "node" ? "" : costBar(item),
  );
}

function nodeMark(item) {
  if (item.added && item.removed) return `± ${item.added}, ${item.removed}`;
  if (item.added) return `+ ${item.added}`;
  return item.removed ? `− ${item.removed}` : item.type;
}

// As long as its share of the model before; filled as far as it goes after.
function costBar(item) {
  const whole = amount(root, "before");
  if (!whole) return "";
  const [before, after] = [amount(item, "before") / whole, amount(item, "after") / whole];
  const width = (share) => `${Math.min(100, 100 * share)}%`;
  return make(
    "span",
    { class: "cost", "aria-label": `${percent(before)} of ${state.metric.key} before, ${percent(after)} after` },
    make("span", { class: "track", "aria-hidden": "true" }, make("span", { class: "was", style: { width: width(before) } }), make("span", { class: `now ${tone(saving(item))}`, style: { width: width(after) } })),
    make("span", { class: "share" }, percent(state.moment === "before" ? before : after)),
  );
}

function toggle(item) {
  if (!item.children.length) return;
  if (!state.open.delete(item.id)) state.open.add(item.id);
  draw();
}

function showRow(item) {
  const place = treeRows.indexOf(item);
  const tree = byId("tree");
  if (place < 0) return;
  if (place * ROW < tree.scrollTop) tree.scrollTop = place * ROW;
  else if ((place + 1) * ROW > tree.scrollTop + tree.clientHeight) tree.scrollTop = (place + 1) * ROW - tree.clientHeight;
  drawTreeRows();
}

function activate(item) {
  if (!item) return;
  state.active = item.id;
  showRow(item);
}

function treeKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const place = Math.max(0, treeRows.findIndex((item) => item.id === state.active));
  const item = treeRows[place];
  const page = Math.max(1, Math.floor(byId("tree").clientHeight / ROW) - 1);
  const actions = {
    ArrowDown: () => activate(treeRows[Math.min(place + 1, treeRows.length - 1)]),
    ArrowUp: () => activate(treeRows[Math.max(place - 1, 0)]),
    PageDown: () => activate(treeRows[Math.min(place + page, treeRows.length - 1)]),
    PageUp: () => activate(treeRows[Math.max(place - page, 0)]),
    Home: () => activate(treeRows[0]),
    End: () => activate(treeRows[treeRows.length - 1]),
    ArrowRight: () => {
      if (!item.children.length) return;
      if (isOpen(item)) activate(treeRows[place + 1]);
      else toggle(item);
    },
    ArrowLeft: () => {
      if (item.children.length && isOpen(item) && !treeFound) toggle(item);
      else activate(parentOf(item));
    },
    Enter: () => select(item),
    " ": () => select(item),
    Escape: clearSearch,
  };
  const action = item && actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}
