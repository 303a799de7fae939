// What is known of the item that was selected.

const PHASES = ["forward", "recomputed", "backward", "optimizer"];

function table(head, rows, caption) {
  return make(
    "table",
    {},
    caption ? make("caption", {}, caption) : "",
    make("thead", {}, make("tr", {}, head.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, rows.map(([first, ...rest]) => make("tr", {}, make("th", { scope: "row" }, first), rest.map((value) => make("td", {}, value))))),
  );
}

const line = (name, ...value) => make("div", { class: "line" }, make("dt", {}, name), make("dd", {}, ...value));

function link(item) {
  return make("button", { type: "button", class: "link", onclick: () => reveal(item) }, item.label);
}

function drawDetails() {
  const item = items[state.selected];
  const shown = { module: moduleDetails, layer: layerDetails, node: nodeDetails }[item.kind];
  byId("details").replaceChildren(
    make("h3", { id: "details-name" }, item.kind === "node" ? item.name : item.label),
    make("p", { class: "muted" }, item.kind === "node" ? `${item.type} in ${parentOf(item).label}` : item.type),
    ...shown(item).flat().filter(Boolean),
  );
}

function costTable(item) {
  const phases = PHASES.filter((phase) => item.before?.[phase] || item.after?.[phase]);
  const none = [0, 0, 0, 0, 0];
  const rows = phases.map((phase) => [phase, ...METRICS.map(({ index, write }) => change((item.before?.[phase] || none)[index], (item.after?.[phase] || none)[index], write))]);
  const { before, after } = item.totals;
  if (rows.length !== 1) rows.push(["in all", ...METRICS.map(({ index, write }) => change(before[index], after[index], write))]);
  if (!metrics.length) return make("p", { class: "muted" }, "Costs are unknown: the page was made without example inputs.");
  // Phases are the columns: figures as columns would be wider than the panel.
  return table(["", ...rows.map((row) => row[0])], metrics.map(({ key, index }) => [key, ...rows.map((row) => row[index + 1])]));
}

function savingLine(item) {
  const saved = saving(item);
  return make("p", { class: `saving ${tone(saved)}` }, `${state.metric.key}: ${change(amount(item, "before"), amount(item, "after"), state.metric.write)}  ${savingText(saved)}`);
}

function moduleDetails(item) {
  const layers = items.filter((each) => each.kind === "layer" && inside(each, item));
  const ranked = [...layers].sort((a, b) => amount(b, "before") - amount(a, "before")).slice(0, 8);
  const rewritten = layers.filter((layer) => (layer.products || []).some((product) => product.passes.length));
  return [
    metrics.length ? savingLine(item) : null,
    costTable(item),
    make("dl", {}, line("layers", String(layers.length)), line("rewritten", String(rewritten.length))),
    metrics.length ? make("h4", {}, `Most ${state.metric.key}`) : null,
    metrics.length ? make("ol", { class: "ranked" }, ranked.map((layer) => make("li", {}, link(layer), " ", make("span", { class: "muted" }, state.metric.write(amount(layer, "before")))))) : null,
  ];
}

function layerDetails(item) {
  const own = data.groups.filter((group) => group.members.some((member) => member === item.path || parentPath(member) === item.path));
  const from = data.edges.filter(([, target]) => target === item.id).map(([source]) => items[source]);
  const to = data.edges.filter(([source]) => source === item.id).map(([, target]) => items[target]);
  const links = (found, extra) => [...found.flatMap((each, i) => [i ? ", " : "", link(each)]), extra ? `${found.length ? ", " : ""}${extra}` : ""];
  const sources = [...new Set(item.children.map((node) => node.source).filter(Boolean))];
  const results = item.children.filter((node) => node.shape && !node.added);
  return [
    metrics.length ? savingLine(item) : null,
    (item.products || []).map((product) =>
      make(
        "dl",
        { class: "product" },
        line(product.name === item.path ? "output" : product.name, shapeOf(product.shape)),
        product.passes.length ? line("rewritten by", product.passes.join(" + ")) : null,
        product.reason ? line(product.passes.length ? "but" : "left alone", product.reason) : null,
        product.before ? Object.keys(product.before).map((part) => line(part.replace("_", " "), change(product.before[part], (product.after || product.before)[part], flops))) : null,
      ),
    ),
    make(
      "dl",
      {},
      !item.products && results.length ? line("output", shapeOf(results[results.length - 1].shape)) : null,
      sources.length ? line("source", sources.slice(0, 4).join(", ") + (sources.length > 4 ? ` and ${sources.length - 4} more lines` : "")) : null,
      from.length || data.inputs.includes(item.id) ? line("takes from", ...links(from, data.inputs.includes(item.id) ? "the input" : "")) : null,
      to.length || data.outputs.includes(item.id) ? line("gives to", ...links(to, data.outputs.includes(item.id) ? "the output" : "")) : null,
      own.map((group) => line("channel group", `${group.name}: ${group.slice ? `${group.width} → ${group.slice}, ${group.pass}` : `${group.width}, whole: ${group.reason}`}`)),
    ),
    item.before ? make("h4", {}, "Cost of a step, before → after") : null,
    item.before ? costTable(item) : null,
    item.children.length ? make("h4", {}, "Operations") : null,
    item.children.length ? make("ul", { class: "ops" }, item.children.slice(0, 60).map(operation)) : null,
  ];
}

const parentPath = (path) => path.slice(0, Math.max(0, path.lastIndexOf(".")));

function operation(node) {
  const mark = node.added ? "+" : node.removed ? "−" : " ";
  const kind = node.added ? "added" : node.removed ? "removed" : "";
  return make("li", { class: kind }, make("button", { type: "button", class: "link", onclick: () => reveal(node) }, `${mark} ${node.type}`), " ", make("span", { class: "muted" }, node.shape ? shapeOf(node.shape) : "", kind ? ` ${node.added || node.removed}` : ""));
}

function nodeDetails(item) {
  return [
    make(
      "dl",
      {},
      line("layer", link(parentOf(item))),
      line(item.added ? "gives, in full" : "gives", shapeOf(item.shape)),
      item.source ? line("source", item.source) : null,
      item.added ? line("put in by", item.added) : null,
      item.removed ? line("taken out by", item.removed) : null,
      !item.added && !item.removed ? line("changed by", "no pass") : null,
    ),
    make("h4", {}, "Code"),
    make("pre", {}, item.code || ""),
    make("p", { class: "muted" }, "What it costs is counted in its layer, by phases of the step."),
  ];
}
