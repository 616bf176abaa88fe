// The list of scans: worst first as the page gives them, narrowed by filters and search.

const FILTERS = [
  ...settings.grades.map((name, grade) => ({ key: name, label: name, tone: `grade-${grade}`, takes: (one) => one.worst.grade === grade })).reverse(),
  { key: "ungraded", label: "not graded", tone: "ungraded", takes: (one) => !one.head.failed && one.worst.grade === null },
  { key: "failed", label: "failed", tone: "failed", takes: (one) => one.head.failed },
  { key: "warned", label: "with warnings", tone: "plain", takes: (one) => one.head.warnings.length > 0 },
  { key: "edited", label: "corrected", tone: "plain", takes: (one) => one.edited },
];
const KINDS = new Set(["warned", "edited"]);  // these narrow the others down
const chosenFilters = new Set();

/** A scan as the list shows it: what the model said, or what the review has made of it. */
function entryOf(index) {
  const head = heads[index], review = reviews.get(index), edited = isEdited(review);
  const worst = edited ? worstOf(review.present) : { measured: head.measured, grade: head.grade, genant: head.genant };
  return { index, head, worst, edited, unsaved: isUnsaved(review) };
}

function isShown(entry) {
  const words = document.getElementById("search").value.trim().toLowerCase();
  const text = [entry.head.case, entry.head.source, entry.head.reason, ...entry.head.warnings].join(" ").toLowerCase();
  const [narrowing, kinds] = [true, false].map((kind) => FILTERS.filter((one) => chosenFilters.has(one.key) && KINDS.has(one.key) === kind));
  return text.includes(words) && narrowing.every((one) => one.takes(entry)) && (!kinds.length || kinds.some((one) => one.takes(entry)));
}

function shownScans() {
  return heads.map((_, index) => entryOf(index)).filter(isShown).map((entry) => entry.index);
}

function drawList() {
  const entries = heads.map((_, index) => entryOf(index));
  drawFilters(entries);
  const shown = entries.filter(isShown), items = keyed(document.getElementById("scans"), shown.map((one) => String(one.index)), makeItem);
  shown.forEach((entry, k) => drawItem(items[k], entry));
  document.getElementById("nothing").hidden = shown.length > 0;
}

function drawFilters(entries) {
  const group = document.getElementById("filters");
  const shown = FILTERS.map((one) => ({ ...one, count: entries.filter(one.takes).length })).filter((one) => one.count || chosenFilters.has(one.key));
  keyed(group, shown.map((one) => one.key), makeFilter).forEach((button, k) => {
    button.className = `filter ${shown[k].tone}`;
    button.setAttribute("aria-pressed", chosenFilters.has(shown[k].key));
    button.textContent = `${shown[k].label} ${shown[k].count}`;
  });
}

function makeFilter(key) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.addEventListener("click", () => {
    if (!chosenFilters.delete(key)) chosenFilters.add(key);
    drawList();
  });
  return button;
}

function makeItem(key) {
  const item = document.createElement("li"), button = Object.assign(document.createElement("button"), { type: "button" });
  for (const part of ["name", "badge", "line"]) button.append(Object.assign(document.createElement("span"), { className: part }));
  button.addEventListener("click", () => openScan(Number(key)));
  item.append(button);
  return item;
}

function drawItem(item, { index, head, worst, edited, unsaved }) {
  const [button] = item.children, [name, badge, line] = button.children;
  button.className = `scan ${head.failed ? "failed" : gradeClass(worst.grade)}`;
  if (index === state.index) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  name.textContent = head.case;
  badge.textContent = head.failed ? "failed" : worst.grade === null ? "not graded" : `${settings.grades[worst.grade]} ${indexText(worst.genant)}`;
  line.textContent = head.failed ? head.reason : lineOf(head, worst, edited, unsaved);
  line.title = line.textContent;
}

function lineOf(head, worst, edited, unsaved) {
  return [
    edited ? (unsaved ? "corrected, not downloaded" : "corrected") : "",
    counted(worst.measured, "vertebra", "vertebrae"),
    head.warnings.length ? counted(head.warnings.length, "warning", "warnings") : "",
  ].filter(Boolean).join(" · ");
}

function counted(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}
