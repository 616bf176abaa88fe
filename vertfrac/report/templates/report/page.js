// The open scan: its head, its table, its pictures, and what keys and pointers do.

const state = { index: null, body: null, slice: null, review: null, chosen: null, hot: null, adding: false, rulers: true, drag: null };
const element = (id) => document.getElementById(id);

async function openScan(index) {
  if (index === null || index === undefined) return;
  const body = readData(`scan-${index}`);
  Object.assign(state, { index, body, slice: body && readSlice(body), review: body && startReview(index, body), chosen: null, hot: null });
  setAdding(false);
  document.body.classList.remove("list-open");
  for (const name of VIEWS) views[name].picture = null;
  location.replace(`#${encodeURIComponent(heads[index].case)}`);
  drawAll();
  document.querySelector("#scans [aria-current]")?.scrollIntoView({ block: "nearest" });
  say("");
  if (!body?.views) return;
  const pictures = await Promise.all(VIEWS.map((name) => decodePicture(body.views[name])));
  if (state.index !== index) return;  // another scan was opened meanwhile
  VIEWS.forEach((name, k) => (views[name].picture = pictures[k]));
  repaint();
  fitAll();
  document.body.dataset.ready = String(index);
}

function readSlice(body) {
  return body.views && { ...body.views.slice, path: readCurve(body.views.slice.curve) };
}

function repaint() {
  for (const view of shownViews()) paintWindow(view.picture, state.body.views.grey_hu);
}

function shownViews() {
  return VIEWS.map((name) => views[name]).filter((view) => view.picture);
}

function fitAll() {
  for (const view of shownViews()) fitView(view);
  drawViews();
}

// --- drawing

function drawAll() {
  drawList();
  drawHead();
  drawTable();
  drawViews();
}

function drawHead() {
  const { head, worst, edited } = entryOf(state.index), { body } = state;
  document.title = `${head.case} – vertfrac report`;
  document.body.className = [head.failed ? "failed" : "graded", body?.views ? "" : "no-pictures", heads.length > 1 ? "" : "one-scan",
    document.body.classList.contains("printing") ? "printing" : ""].join(" ");
  element("case").textContent = head.case;
  element("facts").textContent = factsOf(head, body);
  const verdict = element("verdict");
  verdict.className = head.failed ? "failed" : gradeClass(worst.grade);
  verdict.textContent = head.failed ? "failed" : worst.grade === null ? "not graded" : `${settings.grades[worst.grade]}, smallest G ${indexText(worst.genant)}`;
  verdict.title = edited && head.grade !== null ? `before the corrections: ${settings.grades[head.grade]}, ${indexText(head.genant)}` : "";
  keyed(element("warnings"), head.warnings, () => document.createElement("li")).forEach((item, k) => (item.textContent = head.warnings[k]));
  drawDoubt();
  element("failure").hidden = !head.failed;
  element("failure").textContent = head.reason;
  for (const [name, possible] of Object.entries({
    undo: state.review?.past.length, redo: state.review?.future.length, download: body?.views, add: body?.views, open: body?.views, focus: state.chosen,
  })) document.querySelector(`[data-do="${name}"]`).disabled = !possible;
}

/** The question which of two namings is right, as long as nobody has answered it. */
function drawDoubt() {
  const doubt = state.review && doubtOf(state.review.present);
  element("doubt").hidden = !doubt || !state.slice;
  if (!doubt) return;
  element("doubt").querySelector('[data-do="keep-levels"]').textContent = `${doubt.now} is right`;
  element("doubt").querySelector('[data-do="other-levels"]').textContent = `Rather ${doubt.other}`;
}

function settleDoubt(other) {
  if (!doubtOf(state.review.present)) return;
  const { now, other: else_ } = doubtOf(state.review.present);
  correct(withDoubtSettled(state.review.present, other), `The levels are ${other ? else_ : now}; Ctrl+Z brings the doubt back.`);
}

function factsOf(head, body) {
  if (!body) return head.source ?? "";
  const { shape, spacing, model, version } = body.scan;
  const size = `${shape.join(" × ")} voxels of ${spacing.map((mm) => mm.toFixed(2)).join(" × ")} mm`;
  return `${size} · model ${model}, vertfrac ${version} · ${head.source ?? ""}${body.views ? "" : " · graded by a version that kept no pictures"}`;
}

function drawTable() {
  const vertebrae = state.review?.present ?? [];
  const rows = keyed(document.querySelector("#measures tbody"), vertebrae.map((one) => one.id), makeRow);
  vertebrae.forEach((one, k) => drawRow(rows[k], one));
  element("measures").hidden = !vertebrae.length;
  element("measures").classList.toggle("with-levels", vertebrae.some((one) => one.level));
  drawMarks();
}

function makeRow(id) {
  const row = document.createElement("tr"), name = document.createElement("th");
  name.scope = "row";
  name.append(textButton("", () => choose(id, true)));
  row.append(name, ...["G", "grade", "by-level", "number", "number", "number", "status", "number score"].map((kind) => Object.assign(document.createElement("td"), { className: kind })));
  const edits = Object.assign(document.createElement("td"), { className: "edits" });
  const level = document.createElement("select");
  level.append(new Option("level ?", ""), ...[...settings.levels, settings.sacrum].map((one) => new Option(one)));
  level.addEventListener("change", () => correct(withLevel(state.review.present, id, level.value), levelRemark(id, level.value)));
  edits.append(level, textButton("cannot be measured", () => flipMark(id)), textButton("delete", () => remove(id)));
  row.append(edits);
  row.addEventListener("pointerenter", () => setHot(id));
  row.addEventListener("pointerleave", () => setHot(null));
  row.addEventListener("focusin", () => setHot(id));
  row.addEventListener("focusout", () => setHot(null));
  row.addEventListener("click", (event) => event.target.closest("button, select") || choose(id, true));
  return row;
}

function textButton(words, act) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: words });
  button.addEventListener("click", act);
  return button;
}

function drawRow(row, vertebra) {
  const { heights, index, grade, levelIndex, levelGrade } = measure(vertebra), [name, g, verdict, byLevel, ...rest] = row.cells;
  const edits = row.cells[9];
  row.className = `${gradeClass(grade)}${vertebra.moved || vertebra.number === null ? " changed" : ""}`;
  name.firstChild.textContent = nameOf(vertebra);
  name.firstChild.title = levelText(vertebra);
  g.textContent = grade < 0 ? "–" : indexText(index);
  g.dataset.value = index;
  verdict.textContent = grade < 0 ? "–" : settings.grades[grade];
  byLevel.textContent = levelGrade < 0 ? "–" : `${indexText(levelIndex)} ${settings.grades[levelGrade]}`;
  byLevel.classList.toggle("differs", levelGrade >= 0 && levelGrade !== grade);
  heights.forEach((mm, k) => (rest[k].textContent = Number.isFinite(mm) ? mm.toFixed(1) : "–"));
  rest[3].textContent = statusText(vertebra);
  rest[4].textContent = vertebra.score === null ? "–" : vertebra.score.toFixed(2);
  const [level, mark, remove] = edits.children;
  level.value = vertebra.level;
  level.setAttribute("aria-label", `Level of vertebra ${nameOf(vertebra)}`);
  mark.setAttribute("aria-pressed", !vertebra.measured);
  mark.setAttribute("aria-label", `Vertebra ${nameOf(vertebra)} cannot be measured`);
  remove.setAttribute("aria-label", `Delete vertebra ${nameOf(vertebra)}`);
  for (const control of edits.children) control.disabled = !vertebra.points || !state.slice;
}

function drawViews() {
  for (const name of VIEWS) {
    const view = views[name];
    drawPicture(view);
    if (view.picture && state.rulers) drawRulers(view, state.review.present, state.slice, state.chosen);
    else view.svg.replaceChildren();
  }
  drawMarks();
}

/** Mark what belongs to the vertebra under the pointer, and to the chosen one, in all views and in the table. */
function drawMarks() {
  for (const one of document.querySelectorAll("svg .vertebra, #measures tbody tr")) {
    one.classList.toggle("hot", one.dataset.id === state.hot);
    one.classList.toggle("chosen", one.dataset.id === state.chosen);
  }
}

function setHot(id) {
  if (state.hot === id || state.drag) return;
  state.hot = id;
  drawMarks();
}

function say(words) {
  element("status").textContent = words;
}

// --- the review

function correct(vertebrae, words) {
  edit(state.review, vertebrae);
  afterCorrection(words);
}

function afterCorrection(words) {
  if (!state.review.present.some((one) => one.id === state.chosen)) state.chosen = null;
  drawAll();
  if (words !== undefined) say(words);
}

function choose(id, show) {
  state.chosen = id;
  const vertebra = chosenVertebra();
  if (show && vertebra?.points?.[0].slice) for (const view of shownViews()) showVertebra(view, vertebra.points, state.slice, false);
  if (show) document.querySelector(`#measures tr[data-id="${id}"]`)?.scrollIntoView({ block: "nearest" });
  drawHead();
  drawViews();
}

function chosenVertebra() {
  return state.review?.present.find((one) => one.id === state.chosen);
}

function stepVertebra(by) {
  const list = state.review?.present ?? [];
  if (!list.length) return;
  const at = list.findIndex((one) => one.id === state.chosen);
  choose(list[at < 0 ? (by > 0 ? 0 : list.length - 1) : Math.min(Math.max(at + by, 0), list.length - 1)].id, true);
  const vertebra = chosenVertebra(), { heights, index, grade } = measure(vertebra);
  say(spoken(vertebra, heights, index, grade));
}

function flipMark(id) {
  const vertebra = state.review.present.find((one) => one.id === id);
  if (!vertebra?.points) return;
  correct(withMarkFlipped(state.review.present, id), `Vertebra ${nameOf(vertebra)} ${vertebra.measured ? "cannot be measured" : "counts"}.`);
}

function remove(id) {
  const vertebra = state.review.present.find((one) => one.id === id);
  if (!vertebra?.points) return;
  correct(without(state.review.present, id), `Vertebra ${nameOf(vertebra)} is deleted; Ctrl+Z brings it back.`);
}

function levelRemark(id, level) {
  const twice = level && state.review.present.some((one) => one.id !== id && one.level === level);
  return twice ? `${level} is given twice: training refuses that.` : `Level ${level || "unknown"}.`;
}

function setAdding(adding) {
  state.adding = adding && Boolean(state.slice);
  document.querySelector('[data-do="add"]').setAttribute("aria-pressed", state.adding);
  views[HANDLE_VIEW].screen.classList.toggle("adding", state.adding);
  if (state.adding) say("Click the middle of the body in the straightened slice, or press Enter to put it below the chosen vertebra; Esc cancels.");
}

function addAt(row, column) {
  const { id, vertebrae } = withNew(state.review.present, state.slice, row, column);
  setAdding(false);
  correct(vertebrae);
  choose(id, true);
  say(`Vertebra ${nameOf(chosenVertebra())} is added: drag its six points to the endplates.`);
}

/** Add below the chosen vertebra, or in the middle of what the slice shows. */
function addByKey() {
  const vertebra = chosenVertebra(), { screen } = views[HANDLE_VIEW];
  if (!vertebra?.points?.[0].slice) return addAt(...slicePlace(placeOf(views[HANDLE_VIEW], [screen.clientWidth / 2, screen.clientHeight / 2]), state.slice));
  const column = (vertebra.points[2].slice[1] + vertebra.points[3].slice[1]) / 2;
  const tall = Math.max(...measure(vertebra).heights);
  return addAt(Math.min(middleRow(vertebra) + (1.4 * tall) / state.slice.spacing_mm, state.slice.rows - 1), column);
}

function nudge(key, far) {
  const handle = document.activeElement?.closest?.(".handle");
  if (!handle) return false;
  const k = Number(handle.dataset.point), step = (far ? 1 : 0.25) / state.slice.spacing_mm;
  const [row, column, offset] = chosenVertebra().points[k].slice;
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  correct(withPointAt(state.review.present, state.chosen, k, [row + down * step, column + right * step, offset], state.slice));
  const { heights, index, grade } = measure(chosenVertebra());
  say(spoken(chosenVertebra(), heights, index, grade));
  return true;
}

function download() {
  if (!state.slice) return;
  const head = heads[state.index], reviewer = element("reviewer").value.trim() || "reviewer";
  saveFile(`${head.case}.json`, asAnnotation(head, state.body, state.review.present, reviewer));
  state.review.saved = state.review.present;
  drawList();
  say(`${head.case}.json holds ${counted(state.review.present.filter((one) => one.measured).length, "vertebra", "vertebrae")} to train on${doubtOf(state.review.present) ? "; the levels in doubt are kept as they are" : ""}.`);
}

async function openFile(file) {
  try {
    const { reviewer, vertebrae } = fromAnnotation(await file.text(), heads[state.index], state.body, state.slice);
    element("reviewer").value = reviewer;
    correct(vertebrae, `${file.name} is read: ${counted(vertebrae.length, "vertebra", "vertebrae")}.`);
  } catch (error) {
    say(`${file.name}: ${error.message}`);
  }
}

// --- what buttons and keys do

function stepScan(by) {
  const shown = shownScans(), at = shown.indexOf(state.index);
  const next = at < 0 ? shown[0] : shown[Math.min(Math.max(at + by, 0), shown.length - 1)];
  if (next !== undefined && next !== state.index) openScan(next);
}

function zoomAll(factor) {
  for (const view of shownViews()) zoomView(view, factor);
  drawViews();
}

function focusVertebra() {
  const vertebra = chosenVertebra();
  if (!vertebra?.points?.[0].slice) return;
  for (const view of shownViews()) showVertebra(view, vertebra.points, state.slice, true);
  drawViews();
}

const ACTIONS = {
  "previous-scan": () => stepScan(-1),
  "next-scan": () => stepScan(1),
  "zoom-in": () => zoomAll(1.25),
  "zoom-out": () => zoomAll(0.8),
  fit: fitAll,
  focus: focusVertebra,
  rulers: () => {
    state.rulers = !state.rulers;
    document.querySelector('[data-do="rulers"]').setAttribute("aria-pressed", state.rulers);
    drawViews();
  },
  undo: () => state.review && undo(state.review) && afterCorrection("Undone."),
  redo: () => state.review && redo(state.review) && afterCorrection("Done again."),
  "keep-levels": () => settleDoubt(false),
  "other-levels": () => settleDoubt(true),
  add: () => setAdding(!state.adding),
  open: () => element("file").click(),
  download,
  print: () => window.print(),
  help: () => element("keys").showModal(),
};

const KEYS = {
  n: ACTIONS["next-scan"], p: ACTIONS["previous-scan"], j: () => stepVertebra(1), k: () => stepVertebra(-1),
  a: ACTIONS.add, m: () => flipMark(state.chosen), Delete: () => remove(state.chosen), Backspace: () => remove(state.chosen),
  "+": ACTIONS["zoom-in"], "=": ACTIONS["zoom-in"], "-": ACTIONS["zoom-out"], 0: fitAll, z: focusVertebra, h: ACTIONS.rulers,
  d: download, "?": ACTIONS.help, Escape: () => setAdding(false),
};

function onKey(event) {
  if (event.target.closest("input, select, dialog") || event.altKey) return;
  const { key } = event;
  if (event.ctrlKey || event.metaKey) {
    const action = { z: event.shiftKey ? "redo" : "undo", Z: "redo", y: "redo" }[key];
    if (action) done(event, ACTIONS[action]);
    return;
  }
  if (key === "Enter" && state.adding && !event.target.closest("button")) return done(event, addByKey);
  if ((key === "Enter" || key === " ") && event.target.closest("svg .vertebra")) return done(event, () => choose(event.target.closest(".vertebra").dataset.id, true));
  if (key.startsWith("Arrow") && nudge(key, event.shiftKey)) return event.preventDefault();
  if (/^[1-6]$/.test(key) && state.chosen) return done(event, () => document.querySelectorAll("svg .handle")[key - 1]?.focus());
  if (Object.hasOwn(KEYS, key)) done(event, KEYS[key]);
}

function done(event, act) {
  event.preventDefault();
  act();
}

// --- pointers on a view: a handle is moved, a ruler chosen, anything else pans; two fingers zoom

function watchView(view) {
  const fingers = new Map();
  const at = (event) => {
    const box = view.screen.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  view.screen.addEventListener("pointerdown", (event) => {
    if (!view.picture || event.button !== 0) return;
    view.screen.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    if (fingers.size === 1) state.drag = startDrag(view, event, at(event));
    else state.drag = null;
  });
  view.screen.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const before = fingers.get(event.pointerId), now = at(event);
    if (fingers.size === 2) pinch(view, [...fingers].filter(([id]) => id !== event.pointerId)[0][1], before, now);
    else if (state.drag) moveDrag(view, state.drag, before, now);
    fingers.set(event.pointerId, now);
  });
  const end = (event) => {
    const { drag } = state;
    fingers.delete(event.pointerId);
    state.drag = null;
    if (event.type === "pointerup" && drag && !drag.moved) clickView(view, drag, at(event));
    else if (drag?.kind === "point") drawAll();
  };
  view.screen.addEventListener("pointerup", end);
  view.screen.addEventListener("pointercancel", end);
  view.screen.addEventListener("wheel", (event) => {
    if (!view.picture) return;
    event.preventDefault();
    zoomView(view, Math.exp(-event.deltaY / 500), ...at(event));
    drawViews();
  }, { passive: false });
  view.svg.addEventListener("pointerover", (event) => setHot(event.target.closest(".vertebra")?.dataset.id ?? null));
  view.svg.addEventListener("pointerleave", () => setHot(null));
  view.svg.addEventListener("focusin", (event) => setHot(event.target.closest(".vertebra")?.dataset.id ?? null));
  view.svg.addEventListener("focusout", () => setHot(null));
}

function startDrag(view, event, start) {
  const handle = event.target.closest(".handle"), group = event.target.closest(".vertebra");
  if (!handle) return { kind: event.shiftKey ? "window" : "pan", start, id: group?.dataset.id ?? null, moved: false };
  const k = Number(handle.dataset.point), place = onScreen(view, placeIn(view, chosenVertebra().points[k], state.slice));
  return { kind: "point", start, k, grab: [start[0] - place[0], start[1] - place[1]], handle, moved: false };
}

function moveDrag(view, drag, before, now) {
  if (!drag.moved && Math.hypot(now[0] - drag.start[0], now[1] - drag.start[1]) < 3) return;
  const first = !drag.moved, [dx, dy] = [now[0] - before[0], now[1] - before[1]];
  drag.moved = true;
  if (drag.kind === "point") movePointTo(view, drag, now, first);
  else if (drag.kind === "window") setWindow(display.level - dy * 2, Math.max(1, display.width + dx * 3));
  else {
    panView(view, first ? now[0] - drag.start[0] : dx, first ? now[1] - drag.start[1] : dy);
    drawViews();
  }
}

function movePointTo(view, { k, grab }, now, first) {
  const place = slicePlace(placeOf(view, [now[0] - grab[0], now[1] - grab[1]]), state.slice);
  const offset = chosenVertebra().points[k].slice[2];
  if (first) edit(state.review, state.review.present);
  state.review.present = withPointAt(state.review.present, state.chosen, k, [...place, offset], state.slice);
  drawHead();
  drawTable();
  drawViews();
}

function clickView(view, drag, place) {
  if (drag.kind === "point") return drag.handle.focus();
  if (state.adding && view.name === HANDLE_VIEW) return addAt(...slicePlace(placeOf(view, place), state.slice));
  if (drag.id) choose(drag.id, false);
}

function pinch(view, other, before, now) {
  const apartBefore = Math.hypot(before[0] - other[0], before[1] - other[1]), apartNow = Math.hypot(now[0] - other[0], now[1] - other[1]);
  const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
  panView(view, (now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  zoomView(view, apartNow / Math.max(apartBefore, 1), ...middle);
  drawViews();
}

function setWindow(level, width) {
  Object.assign(display, { level: Math.round(level), width: Math.round(width) });
  element("level").value = display.level;
  element("width").value = display.width;
  const preset = [...element("preset").options].find((one) => one.value === `${display.level},${display.width}`);
  element("preset").value = preset ? preset.value : "";
  repaint();
  drawViews();
}

// --- the start

function start() {
  for (const [k, colour] of settings.gradeColours.entries()) document.documentElement.style.setProperty(`--grade-${k}`, colour);
  document.documentElement.style.setProperty("--ungraded", settings.ungradedColour);
  for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", ACTIONS[button.dataset.do]);
  for (const name of VIEWS) watchView(views[name]);
  for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => showOnly(button.dataset.view));
  element("preset").addEventListener("change", ({ target }) => target.value && setWindow(...target.value.split(",").map(Number)));
  for (const id of ["level", "width"]) element(id).addEventListener("change", () => setWindow(Number(element("level").value), Math.max(1, Number(element("width").value))));
  element("search").addEventListener("input", drawList);
  element("file").addEventListener("change", ({ target }) => {
    if (target.files[0]) openFile(target.files[0]);
    target.value = "";
  });
  element("open-list").addEventListener("click", () => document.body.classList.add("list-open"));
  element("close-list").addEventListener("click", () => document.body.classList.remove("list-open"));
  document.addEventListener("keydown", onKey);
  new ResizeObserver(fitAll).observe(element("views"));
  window.addEventListener("beforeprint", () => setPrinting(true));
  window.addEventListener("afterprint", () => setPrinting(false));
  window.addEventListener("beforeunload", (event) => [...reviews.values()].some(isUnsaved) && event.preventDefault());
  showOnly(HANDLE_VIEW);
  drawList();
  const named = heads.findIndex((head) => `#${encodeURIComponent(head.case)}` === location.hash);
  if (heads.length) openScan(Math.max(named, 0));
}

/** Which view a narrow screen shows; a wide one shows all. */
function showOnly(name) {
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === name);
  for (const one of VIEWS) views[one].figure.classList.toggle("in-front", one === name);
  fitAll();
}

function setPrinting(printing) {
  document.body.classList.toggle("printing", printing);
  fitAll();
}

start();
