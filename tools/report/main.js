// What the user does, and the drawing that follows.

function draw() {
  drawTree();
  drawCentre();
}

function drawCentre() {
  byId("treemap").hidden = state.view !== "treemap";
  byId("flow").hidden = state.view !== "graph";
  drawCrumbs();
  if (state.view === "treemap") drawTreemap();
  else drawFlow();
  byId("legend").replaceChildren(
    ...[["much", "▼ saves 25 % or more"], ["some", "▼ saves some"], ["same", "= as before"], ["more", "▲ costs more"]].map(([kind, text]) => make("span", {}, make("span", { class: `swatch ${kind}`, "aria-hidden": "true" }), text)),
    make("span", { class: "muted" }, state.view === "treemap" ? "area: cost; double click a group to look inside" : "bar: cost, next to the largest shown; double click a box to open it"),
  );
}

function drawCrumbs() {
  const focus = items[state.focus];
  const steps = [...above(focus), focus];
  byId("crumbs").replaceChildren(
    ...steps.flatMap((item, i) => [
      i ? make("span", { "aria-hidden": "true" }, " › ") : "",
      make("button", { type: "button", class: "link", "aria-current": item === focus ? "true" : null, onclick: () => focusOn(item) }, item.parent < 0 ? data.model : item.name),
    ]).filter(Boolean),
  );
}

function select(item) {
  state.selected = state.active = item.id;
  drawTreeRows();
  drawDetails();
  for (const view of ["treemap", "flow"]) {
    for (const each of byId(view).querySelectorAll("[data-item]")) each.classList.toggle("selected", Number(each.dataset.item) === item.id);
  }
  if (state.view === "graph") drawFlowRows();
  showRow(item);
}

// Opens all that an item is in, selects it and scrolls to it.
function reveal(item) {
  for (const each of above(item)) state.open.add(each.id);
  if (treeFound && !treeFound.shown.has(item.id)) {
    state.query = "";
    byId("search").value = "";
  }
  draw();
  select(item);
}

function focusOn(item) {
  if (!parts(item).length) return;
  state.focus = item.id;
  state.open.add(item.id);
  drawTree();
  drawCentre();
  select(item);
}

function clearSearch() {
  state.query = "";
  byId("search").value = "";
  for (const each of above(items[state.active])) state.open.add(each.id);
  drawTree();
  showRow(items[state.active]);
}

// Buttons of which one is pressed.
function choice(id, options, get, set) {
  const buttons = options.map(([value, text]) => make("button", { type: "button", "data-value": text, onclick: () => { set(value); press(); draw(); drawDetails(); } }, text));
  const press = () => options.forEach(([value], i) => buttons[i].setAttribute("aria-pressed", String(get() === value)));
  press();
  byId(id).replaceChildren(...buttons);
}

choice("views", [["treemap", "treemap"], ["graph", "graph"]], () => state.view, (view) => (state.view = view));
choice("metrics", (metrics.length ? metrics : [state.metric]).map((metric) => [metric, metric.key]), () => state.metric, (metric) => (state.metric = metric));
choice("moments", [["before", "before"], ["after", "after"]], () => state.moment, (moment) => (state.moment = moment));

byId("tree").addEventListener("keydown", treeKey);
byId("tree").addEventListener("scroll", drawTreeRows, { passive: true });
byId("flow").addEventListener("scroll", drawFlowRows, { passive: true });
byId("search").addEventListener("input", (event) => {
  state.query = event.target.value;
  byId("tree").scrollTop = 0;
  drawTree();
});
byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape") clearSearch();
  if (!["Enter", "ArrowDown"].includes(event.key)) return;
  event.preventDefault();
  const first = treeRows.find((item) => !treeFound || treeFound.matches.has(item.id));
  byId("tree").focus();
  if (event.key === "Enter" && first) select(first);
  else activate(first);
});
byId("open-all").addEventListener("click", () => {
  for (const item of items) if (item.kind === "module") state.open.add(item.id);
  draw();
});
byId("close-all").addEventListener("click", () => {
  state.open = new Set([root.id]);
  state.active = root.id;
  draw();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.matches("input") || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  byId("search").focus();
  byId("search").select();
});
new ResizeObserver(() => { drawTreeRows(); drawCentre(); }).observe(byId("treemap").parentElement);

if (root.children.length <= 12) {
  for (const child of root.children) if (child.kind === "module" && child.children.length <= 12) state.open.add(child.id);
}
drawTotals();
drawFacts();
draw();
drawDetails();
