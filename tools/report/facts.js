// The head of the page, and what is below the map: passes, schedule, phases, device, and how each figure is known.

function drawTotals() {
  byId("title").textContent = data.model;
  byId("subtitle").textContent = [data.spec, data.about, data.device ? `a training step on ${data.device.title}` : "", data.step].filter(Boolean).join(" · ");
  const cards = metrics.map(({ key, index, write }) => [key, root.totals.before[index], root.totals.after[index], write]);
  if (data.memory) {
    const held = ({ activations, parameters, optimizer }) => activations + parameters + optimizer;
    cards.push(["memory", held(data.memory.before), held(data.memory.after), bytes]);
  }
  byId("totals").replaceChildren(
    ...cards.map(([name, before, after, write]) => {
      const saved = before > 0 ? 1 - after / before : 0;
      return make("div", { class: `total ${tone(saved)}` }, make("span", { class: "muted" }, name), make("strong", {}, change(before, after, write)), make("span", { class: "by" }, before > 0 ? savingText(saved) : ""));
    }),
  );
}

const card = (title, ...content) => make("section", { class: "panel card" }, make("h2", {}, title), ...content.flat().filter(Boolean));

function drawFacts() {
  byId("facts").replaceChildren(
    ...[passesCard(), scheduleCard(), data.device ? phasesCard() : null, data.device ? deviceCard() : null, sourcesCard()].filter(Boolean),
  );
}

function passesCard() {
  if (!data.passes.length) return card("Passes", make("p", { class: "muted" }, "There is no pass to apply."));
  return card(
    "Passes",
    data.passes.map((pass) => {
      const options = Object.entries(pass.options).map(([name, value]) => `${name}=${value}`).join(", ");
      const share = (value, index) => (root.totals.before[index] ? ` (${percent(value / root.totals.before[index])})` : "");
      return make(
        "div",
        { class: "pass" },
        make("h3", {}, pass.name),
        make("p", { class: "muted" }, options),
        make(
          "dl",
          {},
          line("layers", `${pass.layers} products rewritten`),
          line("saves FLOPs", flops(pass.flops)),
          pass.saved ? line("saves time", `${seconds(pass.saved.seconds)}${share(pass.saved.seconds, 0)}; at its peak ${seconds(pass.peak.seconds)}${share(pass.peak.seconds, 0)}`) : null,
          pass.saved && metrics.some(({ key }) => key === "energy") ? line("saves energy", `${joules(pass.saved.joules)}${share(pass.saved.joules, 1)}`) : null,
          pass.saved ? line("saves bytes", bytes(pass.saved.bytes)) : null,
        ),
      );
    }),
  );
}

// One line of steps for each pass; each has its own dashes, so that colour is not needed to tell them apart.
function scheduleCard() {
  if (!data.schedule.length) return null;
  const [width, height, left, bottom] = [420, 150, 34, 22];
  const most = Math.max(...data.schedule.flatMap(({ values }) => values), 0.01);
  const x = (epoch) => left + ((width - left - 8) * epoch) / data.epochs;
  const y = (rate) => 8 + (height - bottom - 8) * (1 - rate / most);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": `Rate over ${data.epochs} epochs: ${data.schedule.map(({ pass, kind, peak }) => `${pass} ${kind}, peak ${peak}`).join("; ")}` });
  for (const rate of [0, most / 2, most]) {
    svg.append(make("line", { class: "grid", x1: left, x2: width - 8, y1: y(rate), y2: y(rate) }), make("text", { x: left - 6, y: y(rate) + 4, "text-anchor": "end" }, digits(rate)));
  }
  for (const epoch of [0, data.epochs / 2, data.epochs]) svg.append(make("text", { x: x(epoch), y: height - 6, "text-anchor": epoch ? "end" : "start" }, epoch ? String(epoch) : "epoch 0"));
  data.schedule.forEach(({ values }, i) => {
    const points = values.flatMap((rate, epoch) => [`${x(epoch)},${y(rate)}`, `${x(epoch + 1)},${y(rate)}`]).join(" ");
    svg.append(make("polyline", { class: `rate rate-${i % 4}`, points }));
  });
  const keys = data.schedule.map(({ pass, kind, peak }, i) =>
    make("li", {}, make("svg", { width: 34, height: 10, "aria-hidden": "true" }, make("line", { class: `rate rate-${i % 4}`, x1: 0, x2: 34, y1: 5, y2: 5 })), ` ${pass}: ${kind}, peak ${digits(peak)}`),
  );
  return card("Schedule over epochs", svg, make("ul", { class: "keys" }, keys), make("p", { class: "muted" }, `As a Scheduler sets it over ${data.epochs} epochs. Figures after the passes are averages over the schedule.`));
}

function phasesCard() {
  const phases = PHASES.map((phase) => {
    const of = (when) => METRICS.map((_, i) => root[when]?.[phase]?.[i] || 0);
    return [phase, of("before"), of("after")];
  }).filter(([, before, after]) => sum(before) + sum(after) > 0);
  const most = Math.max(...phases.flatMap(([, before, after]) => [before[0], after[0]]));
  const bars = (before, after) => make("span", { class: "pair", "aria-hidden": "true" }, make("span", { class: "was", style: { width: `${(100 * before) / most}%` } }), make("span", { class: "now same", style: { width: `${(100 * after) / most}%` } }));
  const rows = metrics.map(({ key, index, write }) => [key, ...phases.map(([, before, after]) => change(before[index], after[index], write))]);
  rows.splice(1, 0, ["", ...phases.map(([, before, after]) => bars(before[0], after[0]))]);
  const memory = ["activations", "parameters", "optimizer"].map((kind) => line(kind, change(data.memory.before[kind], data.memory.after[kind], bytes)));
  return card(
    "The step by phase",
    make("div", { class: "wide" }, table(["", ...phases.map(([phase]) => phase)], rows)),
    make("p", { class: "muted" }, "Of each pair of bars the upper is before, the lower after the passes."),
    make("h3", {}, "Memory at the peak"),
    make("dl", {}, memory),
  );
}

function figure({ value, unit }) {
  if (!unit) return digits(value);
  return Math.abs(value) >= 1 ? scaled(value, LARGE, unit) : scaled(value, SMALL, unit);
}

function deviceCard() {
  const { device } = data;
  const rows = device.figures.map((each) => [each.name, figure(each), sourceText(each.source)]);
  return card(
    "Device",
    make("p", {}, `${device.title} (${device.name}): `, device.calibrated ? `calibrated here, ${device.timings} timings` : "from datasheets, not measured here"),
    make("div", { class: "wide" }, table(["figure", "value", "source"], rows)),
  );
}

// An address is shown as text: nothing on this page asks the network for anything.
const sourceText = (source) => make("span", { class: "source" }, source);

function sourcesCard() {
  const list = (entries) => make("ul", {}, entries.map((entry) => make("li", {}, entry)));
  const uncounted = Object.entries(data.uncounted || {});
  const capture = data.capture.map(({ path, method, note }) => `${path || "the model"}: ${method}${note ? `, ${note}` : ""}`);
  return card(
    "How the figures are known",
    make(
      "dl",
      {},
      line("FLOPs, bytes", "counted from shapes"),
      line("memory", data.memory ? "counted: what a step keeps" : "unknown"),
      line("time, energy", data.source ? data.source.replace(":", ", ") : "unknown: no example inputs"),
      line("after", "on average over the schedule of the passes"),
    ),
    make("h3", {}, "Notes"),
    data.notes.length ? list(data.notes) : make("p", { class: "muted" }, "none"),
    make("h3", {}, "Operations not counted"),
    uncounted.length ? list(uncounted.map(([name, count]) => `${name}: ${count} times, by its bytes alone`)) : make("p", { class: "muted" }, "none"),
    make("h3", {}, "Capture"),
    list(capture),
  );
}
