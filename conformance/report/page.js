"use strict";

const { comparisons, grids } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

/** An element with text, or with children, in it; never with HTML. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A choice of one out of several, as a row of radio buttons. */
function radio(name, value, checked, text) {
  return element("label", {}, element("input", { type: "radio", name, value, checked }), element("span", {}, text));
}

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

/* The list of comparisons behind a cell of the matrix. */

const SYMBOLS = { agrees: "=", deviates: "+", differs: "!", unsupported: "−", "not run": "−" };
const ORDER = ["differs", "deviates", "unsupported", "not run", "agrees"];
const dialog = byId("dialog");
let listed = [];

function comparisonsOf(implementation, group) {
  const { letters, errors, ledger, details } = comparisons.implementations[implementation];
  const everyError = errors.split(",");
  return comparisons.subjects
    .map(([place, quantity], subject) => ({
      group: comparisons.groups[comparisons.groupOfCase[place]],
      case: comparisons.cases[place],
      quantity: comparisons.quantities[quantity],
      verdict: comparisons.verdicts[letters[subject]],
      error: everyError[subject] || "0",
      ledger: (ledger[subject] ?? []).map((entry) => comparisons.entries[entry]),
      detail: comparisons.details[details[subject]] ?? "",
    }))
    .filter((one) => one.group === group && one.verdict)
    .sort((a, b) => ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict));
}

function row(one) {
  const explained = element("td", { className: "explained" });
  for (const entry of one.ledger) explained.append(element("a", { href: `#ledger-${entry}` }, entry));
  explained.append(one.detail);
  const made = ["agrees", "deviates"].includes(one.verdict) || one.error !== "0";
  return element(
    "tr",
    { className: one.verdict.replace(" ", "-") },
    element("td", {}, `${SYMBOLS[one.verdict]} ${one.verdict}`),
    element("td", { className: "case" }, element("code", {}, one.case)),
    element("td", {}, one.quantity),
    element("td", { className: "error" }, made ? one.error : ""),
    explained,
  );
}

function fillDialog() {
  const verdict = chosen("verdict");
  const text = byId("dialog-search").value.trim();
  const shown = listed.filter((one) => (verdict === "all" || one.verdict === verdict) && one.case.includes(text));
  byId("dialog-rows").replaceChildren(...shown.map(row));
  byId("dialog-status").textContent = `${shown.length} of ${listed.length} comparisons`;
  byId("dialog-body").scrollTop = 0;
}

function openDialog({ implementation, group }) {
  listed = comparisonsOf(implementation, group);
  const verdicts = ORDER.filter((verdict) => listed.some((one) => one.verdict === verdict));
  const count = (verdict) => listed.filter((one) => one.verdict === verdict).length;
  byId("dialog-title").textContent = `${comparisons.implementations[implementation].label}: ${group}`;
  byId("dialog-verdicts").replaceChildren(
    radio("verdict", "all", true, `all ${listed.length}`),
    ...verdicts.map((verdict) => radio("verdict", verdict, false, `${verdict} ${count(verdict)}`)),
  );
  byId("dialog-search").value = "";
  dialog.showModal();
  fillDialog();
}

for (const button of document.querySelectorAll(".matrix button"))
  button.addEventListener("click", () => openDialog(button.dataset));
byId("dialog-close").addEventListener("click", () => dialog.close());
byId("dialog-verdicts").addEventListener("change", fillDialog);
byId("dialog-search").addEventListener("input", fillDialog);
dialog.addEventListener("click", (event) => {
  if (event.target === dialog || event.target.closest("a")) dialog.close();
});

/* The edge grids. */

const maps = byId("maps");
const CLASSES = { nan: ["nan", "N"], inf: ["inf", "∞"], "-inf": ["ninf", "−∞"], 0: ["zero", "0"], "-0": ["zero", "0"] };
const WORDS = { nan: "NaN", inf: "∞", "-inf": "−∞" };
const spoken = (value) => WORDS[value] ?? value.replaceAll("-", "−");
const where = (i, j) => `${chosen("kind") === "target" ? "target" : "log target"} ${view.axis[i]}, input ${view.axis[j]}`;
let view = null;
/** The cell that all maps show, and the map with the keyboard focus. */
let place = null;
let active = 0;
/** Whether the page shows the maps of all backends: most repeat others. */
let every = false;

function drawMap({ names, values, differs }, axis, which) {
  const corner = element("th", {}, "input →", element("br"), "target ↓");
  const columns = axis.map((label) => element("th", { scope: "col" }, label));
  const rows = axis.map((label, i) => {
    const cells = axis.map((_, j) => {
      const at = i * axis.length + j;
      const [kind, symbol] = CLASSES[values[at]] ?? ["number", "·"];
      const cell = element("td", { className: kind, tabIndex: -1 }, symbol);
      const apart = differs[at] === "1" ? ", not the reference's" : "";
      cell.classList.toggle("differs", apart !== "");
      cell.ariaLabel = `${where(i, j)}: ${spoken(values[at])}${apart}`;
      Object.assign(cell.dataset, { at, which });
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, label), ...cells);
  });
  const table = element(
    "table",
    { className: "map", role: "grid", ariaLabel: `Targets by inputs: ${names[0]}` },
    element("thead", {}, element("tr", {}, corner, ...columns)),
    element("tbody", {}, ...rows),
  );
  const count = [...differs].filter((mark) => mark === "1").length;
  const [first, ...others] = names;
  return element(
    "figure",
    {},
    element(
      "figcaption",
      {},
      element("strong", {}, first),
      which === 0 ? "the reference" : `${count} of ${differs.length} values differ`,
    ),
    table,
    element(
      "div",
      { className: "below" },
      element("span", { className: "value" }),
      element("span", { className: "quiet" }, others.length ? `So too: ${others.join(", ")}` : ""),
    ),
  );
}

function drawMaps() {
  const dtype = chosen("dtype");
  const found = grids.views[`${dtype}/${chosen("kind")}/${chosen("quantity")}`] ?? { maps: [], without: [] };
  const drawn = found.maps.filter((one) => every || one.shown);
  view = { axis: grids.axes[dtype], maps: drawn.map((one) => ({ ...one, values: one.values.split(" ") })) };
  active = 0;
  maps.replaceChildren(...view.maps.map((one, which) => drawMap(one, view.axis, which)));
  const button = byId("all-maps");
  button.hidden = found.maps.every((one) => one.shown);
  button.ariaExpanded = every;
  button.textContent = every ? "Show fewer maps" : `Show all ${found.maps.length} maps`;
  byId("without").textContent = found.without.length ? `No such values from: ${found.without.join(", ")}.` : "";
  // Start at a target of zero and an input of minus infinity, the masked class.
  place ??= view.axis.indexOf("0") * view.axis.length + view.axis.indexOf("−∞");
  if (view.maps.length) show(place);
  else byId("readout").textContent = "The reference has no such values.";
}

/** Show the value of every map at a cell, from which the arrow keys continue. */
function show(at) {
  const size = view.axis.length;
  const [i, j] = [Math.floor(at / size), at % size];
  for (const marked of maps.querySelectorAll(".here")) marked.classList.remove("here");
  for (const cell of maps.querySelectorAll("td[tabindex='0']")) cell.tabIndex = -1;
  maps.children[active].querySelectorAll("td")[at].tabIndex = 0;
  for (const [which, figure] of [...maps.children].entries()) {
    const cell = figure.querySelectorAll("td")[at];
    cell.classList.add("here");
    figure.querySelectorAll("thead th")[j + 1].classList.add("here");
    figure.querySelectorAll("tbody th")[i].classList.add("here");
    const { values, differs } = view.maps[which];
    const value = figure.querySelector(".value");
    value.textContent = `here: ${spoken(values[at])}${differs[at] === "1" ? " ≠ reference" : ""}`;
    value.classList.toggle("differs", differs[at] === "1");
  }
  place = at;
  byId("readout").textContent = `${where(i, j)}: reference ${spoken(view.maps[0].values[at])}`;
}

/** The cell that an arrow key leads to, within the map. */
function step(key, at) {
  const size = view.axis.length;
  const column = at % size;
  if (key === "ArrowLeft") return column > 0 ? at - 1 : at;
  if (key === "ArrowRight") return column < size - 1 ? at + 1 : at;
  if (key === "ArrowUp") return at >= size ? at - size : at;
  if (key === "ArrowDown") return at < size * (size - 1) ? at + size : at;
  return null;
}

/** Screen readers announce a cell on focus, tap or choice, but not on hover. */
function announce() {
  byId("announced").textContent = byId("readout").textContent;
}

if (maps) {
  const atCell = (action) => (event) => {
    const cell = event.target.closest("td");
    if (cell) action(Number(cell.dataset.at), Number(cell.dataset.which), event);
  };
  maps.addEventListener("pointerover", atCell((at) => show(at)));
  maps.addEventListener("focusin", atCell((at, which) => {
    active = which;
    show(at);
    announce();
  }));
  maps.addEventListener("keydown", atCell((at, which, event) => {
    const next = step(event.key, at);
    const map = maps.children[which + ({ PageDown: 1, PageUp: -1 }[event.key] ?? 0)];
    if (next === null && !event.key.startsWith("Page")) return;
    event.preventDefault();
    map?.querySelectorAll("td")[next ?? at].focus();
  }));
  byId("grid-controls").addEventListener("change", () => {
    drawMaps();
    announce();
  });
  byId("all-maps").addEventListener("click", () => {
    every = !every;
    drawMaps();
  });
  drawMaps();
}

/* A link to an implementation opens it. */

function openTarget() {
  const target = byId(decodeURIComponent(location.hash.slice(1)));
  if (target?.matches("details")) target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
