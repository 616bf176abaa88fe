// The rulers over the pictures: one group per vertebra and view, kept and moved rather than made anew, so that the
// keyboard's focus stays where it is.

const SVG = "http://www.w3.org/2000/svg";
const TICK_MM = 3;
const OUTLINE = [0, 2, 4, 5, 3, 1];
const LABEL_GAP = 13;
const HEIGHTS_FROM_SCALE = 2.6;  // screen pixels per mm from which all heights are written at their rulers

function svgElement(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  setAttributes(element, attributes);
  return element;
}

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    const text = String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/** One child per key, in order: made where it is missing, removed where it is not wanted any more. */
function keyed(parent, keys, make) {
  const old = new Map([...parent.children].map((child) => [child.dataset.id, child]));
  keys.forEach((key, at) => {
    let child = old.get(key);
    if (!child) {
      child = make(key);
      child.dataset.id = key;
    }
    old.delete(key);
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  for (const child of old.values()) child.remove();
  return [...parent.children];
}

function gradeClass(grade) {
  return grade === null || grade < 0 ? "ungraded" : `grade-${grade}`;
}

function drawRulers(view, vertebrae, slice, chosen) {
  const drawn = vertebrae.filter((one) => one.points && (view.name !== HANDLE_VIEW || one.points[0].slice));
  const layer = layerOf(view.svg, "vertebrae"), groups = keyed(layer, drawn.map((one) => one.id), () => makeGroup(view));
  const labels = apart(drawn.map((one) => labelPlace(view, one, slice)));
  drawn.forEach((one, k) => placeGroup(view, groups[k], one, slice, labels[k]));
  drawHandles(view, drawn.find((one) => one.id === chosen), slice);
}

function layerOf(svg, name) {
  return svg.querySelector(`.${name}`) ?? svg.appendChild(svgElement("g", { class: name }));
}

function makeGroup(view) {
  const group = svgElement("g", view.name === HANDLE_VIEW ? { role: "button", tabindex: 0 } : { "aria-hidden": "true" });
  group.append(svgElement("polygon", { class: "hit" }));
  for (let k = 0; k < 3; k++) group.append(svgElement("line", { class: "ruler" }));
  for (let k = 0; k < 6; k++) group.append(svgElement("line", { class: "tick" }));
  for (let k = 0; k < 3; k++) group.append(svgElement("text", { class: "height" }));
  group.append(svgElement("line", { class: "leader" }), svgElement("text", { class: "label" }));
  group.lastChild.append(svgElement("tspan"), svgElement("tspan", { class: "more" }));
  return group;
}

function placeGroup(view, group, vertebra, slice, labelAt) {
  const { heights, index, grade } = measure(vertebra);
  const places = vertebra.points.map((point) => onScreen(view, placeIn(view, point, slice)));
  const [hit, ...rest] = group.children, rulers = rest.slice(0, 3), ticks = rest.slice(3, 9), texts = rest.slice(9, 12);
  group.setAttribute("class", `vertebra ${gradeClass(grade)}${view.scale >= HEIGHTS_FROM_SCALE ? " with-heights" : ""}`);
  setAttributes(hit, { points: OUTLINE.map((k) => places[k].join(",")).join(" ") });
  rulers.forEach((ruler, k) => placeLine(ruler, places[2 * k], places[2 * k + 1]));
  ticks.forEach((tick, k) => placeTick(tick, places[k], places[k ^ 1], TICK_MM * view.scale));
  texts.forEach((text, k) => {
    const [[x1, y1], [x2, y2]] = [places[2 * k], places[2 * k + 1]];
    setAttributes(text, { x: (x1 + x2) / 2, y: (y1 + y2) / 2 + 4, "text-anchor": "middle" });
    text.textContent = heights[k].toFixed(1);
  });
  const label = `${nameOf(vertebra)}  ${grade < 0 ? "–" : indexText(index)}`, more = heights.map((mm) => mm.toFixed(1)).join("  ");
  placeLabel(rest[12], rest[13], [label, `   ${more} mm`], labelAt);
  if (view.name === HANDLE_VIEW) setAttributes(group, { "aria-label": spoken(vertebra, heights, index, grade) });
}

function spoken(vertebra, heights, index, grade) {
  const verdict = grade < 0 ? statusText(vertebra) : `G ${indexText(index)}, ${settings.grades[grade]}`;
  const doubt = vertebra.runnerUp ? ` (in doubt, may be ${vertebra.runnerUp})` : "";
  return `Vertebra ${vertebra.level || nameOf(vertebra)}${doubt}: ${verdict}; heights ${heights.map((mm) => mm.toFixed(1)).join(", ")} mm`;
}

function placeLine(line, [x1, y1], [x2, y2]) {
  setAttributes(line, { x1, y1, x2, y2 });
}

function placeTick(tick, [x, y], [ox, oy], length) {
  const size = Math.hypot(ox - x, oy - y) || 1, half = length / 2;
  const across = [(-(oy - y) / size) * half, ((ox - x) / size) * half];
  placeLine(tick, [x - across[0], y - across[1]], [x + across[0], y + across[1]]);
}

/** Where a label begins: right of the vertebra in the slice, in front of it in the sagittal view. */
function labelPlace(view, vertebra, slice) {
  const places = vertebra.points.map((point) => onScreen(view, placeIn(view, point, slice)));
  const xs = places.map((place) => place[0]), y = (places[2][1] + places[3][1]) / 2;
  const ahead = view.name === "sagittal", beside = view.scale >= HEIGHTS_FROM_SCALE ? 24 : 12;
  const edge = ahead ? Math.min(...xs) - beside : Math.max(...xs) + beside;
  return { x: edge, from: ahead ? edge + 6 : edge - 6, y, at: y, anchor: ahead ? "end" : "start" };
}

/** Move labels as little as a few passes can, so that neighbours are LABEL_GAP apart. */
function apart(labels) {
  const sorted = [...labels].sort((a, b) => a.y - b.y);
  for (let pass = 0; pass < 60; pass++) {
    let moved = false;
    for (let i = 1; i < sorted.length; i++) {
      const lack = LABEL_GAP - (sorted[i].at - sorted[i - 1].at);
      if (lack <= 0.1) continue;
      sorted[i - 1].at -= lack / 2;
      sorted[i].at += lack / 2;
      moved = true;
    }
    if (!moved) break;
  }
  return labels;
}

function placeLabel(leader, text, words, { x, from, y, at, anchor }) {
  setAttributes(text, { x, y: at + 4, "text-anchor": anchor });
  placeLine(leader, [from, y], [x + (anchor === "end" ? 2 : -2), at]);
  words.forEach((part, k) => text.children[k].textContent !== part && (text.children[k].textContent = part));
}

/** The six points of the chosen vertebra as handles, in the straightened slice alone. */
function drawHandles(view, vertebra, slice) {
  if (view.name !== HANDLE_VIEW) return;
  const layer = layerOf(view.svg, "handles");
  const shown = vertebra?.points?.[0].slice ? settings.keypoints.map((_, k) => `${vertebra.id}/${k}`) : [];
  keyed(layer, shown, (key) => makeHandle(key)).forEach((handle, k) => {
    const [x, y] = onScreen(view, placeIn(view, vertebra.points[k], slice));
    setAttributes(handle, {
      transform: `translate(${x} ${y})`, class: `handle ${gradeClass(measure(vertebra).grade)}`,
      "aria-label": `Vertebra ${nameOf(vertebra)}, ${settings.keypoints[k].replace("_", " ")} keypoint`,
    });
  });
}

function makeHandle(key) {
  const handle = svgElement("g", { role: "button", tabindex: 0, "aria-roledescription": "movable point" });
  handle.dataset.point = key.split("/")[1];
  handle.append(svgElement("circle", { class: "grab", r: 12 }), svgElement("circle", { class: "dot", r: 4.5 }));
  return handle;
}
