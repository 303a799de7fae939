// Making elements, and writing numbers for people. Text is always set as text, never parsed as HTML.

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "g", "line", "text", "rect", "polyline", "title"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

const digits = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());

function scaled(value, units, unit) {
  const size = Math.abs(value);
  if (size === 0) return `0 ${unit}`.trim();
  const [factor, prefix] = units.find(([each]) => size >= each * 0.9995) || units[units.length - 1];
  return `${digits(value / factor)} ${prefix}${unit}`.trim();
}

const SMALL = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];
const LARGE = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];

const seconds = (value) => scaled(value, SMALL, "s");
const joules = (value) => scaled(value, [[1e3, "k"], ...SMALL], "J");
const flops = (value) => scaled(value, LARGE, "FLOPs");
const bytes = (value) => scaled(value, LARGE, "B");

const percent = (share) => `${(100 * share).toFixed(Math.abs(share) < 0.0995 ? 1 : 0)} %`;
const shapeOf = (shape) => (shape ? shape.join(" × ") || "scalar" : "unknown");

// "1.2 → 0.9 ms", or one figure where both read the same.
function change(before, after, write) {
  const [from, to] = [write(before), write(after)];
  if (from === to) return from;
  const [number, unit] = from.split(" ");
  return unit === to.split(" ")[1] ? `${number} → ${to}` : `${from} → ${to}`;
}

// A share saved in words and signs, so that colour is never alone in saying it.
function savingText(share) {
  if (share > 0.0005) return `▼ ${percent(share)}`;
  if (share < -0.0005) return `▲ ${percent(-share)}`;
  return "=";
}

function tone(share) {
  if (share >= 0.25) return "much";
  if (share >= 0.02) return "some";
  return share <= -0.02 ? "more" : "same";
}
