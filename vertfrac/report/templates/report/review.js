// The vertebrae of a scan under review. A list of vertebrae is never changed, only replaced, so that undoing is to take
// the list before. A vertebra: id, number (null if it was added), level, its probability and runnerUp (what else it may
// be, "" without doubt, as after a person has named it), status and score of the model, measured
// (whether it counts), points (six of {slice, world}, or null).

const reviews = new Map();  // index of the scan -> {past, present, future, saved}

function startReview(index, body) {
  if (!reviews.has(index)) reviews.set(index, { past: [], present: body.vertebrae.map(asVertebra), future: [], saved: null });
  return reviews.get(index);
}

function asVertebra(given) {
  const points = given.world && given.slice && given.world.map((world, k) => ({ world, slice: given.slice[k] }));
  return {
    id: `v${given.number}`,
    number: given.number,
    level: given.level,
    probability: given.levelProbability,
    runnerUp: given.levelRunnerUp,
    status: given.status,
    score: given.score,
    measured: given.status === "ok",
    moved: false,
    points: points ?? (given.world && given.world.map((world) => ({ world, slice: null }))),
  };
}

function edit(review, vertebrae) {
  review.past.push(review.present);
  review.present = vertebrae;
  review.future = [];
}

function undo(review) {
  if (!review.past.length) return false;
  review.future.push(review.present);
  review.present = review.past.pop();
  return true;
}

function redo(review) {
  if (!review.future.length) return false;
  review.past.push(review.present);
  review.present = review.future.pop();
  return true;
}

function isEdited(review) {
  return review !== undefined && review.past.length > 0;
}

function isUnsaved(review) {
  return isEdited(review) && review.saved !== review.present;
}

function changed(vertebrae, id, change) {
  return vertebrae.map((one) => (one.id === id ? { ...one, ...change(one) } : one));
}

function withPointAt(vertebrae, id, k, slicePoint, slice) {
  const point = { slice: slicePoint, world: toWorld(slice, slicePoint) };
  return changed(vertebrae, id, (one) => ({ moved: true, points: one.points.map((old, j) => (j === k ? point : old)) }));
}

function withMarkFlipped(vertebrae, id) {
  return changed(vertebrae, id, (one) => ({ measured: !one.measured }));
}

/** With the level that a person gives, which leaves no doubt. A body named S1 does not count, one that no longer is does. */
function withLevel(vertebrae, id, level) {
  return changed(vertebrae, id, (one) => named(one, level));
}

function named(vertebra, level) {
  const sacrum = settings.sacrum, turned = (vertebra.level === sacrum) !== (level === sacrum);
  return { level, probability: null, runnerUp: "", measured: turned ? level !== sacrum : vertebra.measured };
}

/** With all levels in doubt settled: as they are, or, if other, as their runners-up say. */
function withDoubtSettled(vertebrae, other) {
  return vertebrae.map((one) => (one.runnerUp ? { ...one, ...named(one, other ? one.runnerUp : one.level) } : one));
}

/** The levels in doubt as they are and as they may be, "T8–L2" and "T7–L1"; null where there is no doubt. */
function doubtOf(vertebrae) {
  const doubted = vertebrae.filter((one) => one.runnerUp);
  const span = (names) => [...new Set([names[0], names.at(-1)])].join("–");
  return doubted.length ? { now: span(doubted.map((one) => one.level)), other: span(doubted.map((one) => one.runnerUp)) } : null;
}

function without(vertebrae, id) {
  return vertebrae.filter((one) => one.id !== id);
}

/** A new vertebra of the size of its neighbour, its middle at a row and a column of the slice. */
function withNew(vertebrae, slice, row, column) {
  const drawn = vertebrae.filter((one) => one.points?.[0].slice);
  const [like] = [...drawn].sort((a, b) => Math.abs(middleRow(a) - row) - Math.abs(middleRow(b) - row));
  const half = like ? heightsOf(like.points.map((point) => point.world)).reduce((a, b) => a + b) / 6 : 10;
  const depth = like ? distance(...[0, 4].map((k) => like.points[k].world)) / 2 : 14;
  const points = [-depth, -depth, 0, 0, depth, depth].map((behind, k) => {
    const place = [row + ((k % 2 ? half : -half) / slice.spacing_mm), column + behind / slice.spacing_mm, 0];
    return { slice: place, world: toWorld(slice, place) };
  });
  const count = 1 + Math.max(0, ...vertebrae.filter((one) => one.number === null).map((one) => Number(one.id.slice(1))));
  const added = { id: `n${count}`, number: null, level: "", probability: null, runnerUp: "", status: "added", score: null, measured: true, moved: false, points };
  return { id: added.id, vertebrae: fromAbove([...vertebrae, added]) };
}

function middleRow(vertebra) {
  return (vertebra.points[2].slice[0] + vertebra.points[3].slice[0]) / 2;
}

function fromAbove(vertebrae) {
  const place = (one) => (one.points?.[0].slice ? middleRow(one) : Infinity);
  return [...vertebrae].sort((a, b) => place(a) - place(b));
}

/** The level, with a question mark in doubt, else the number, of one that was added its own. */
function nameOf(vertebra) {
  if (vertebra.level) return `${vertebra.level}${vertebra.runnerUp ? "?" : ""}`;
  return vertebra.number === null ? `+${vertebra.id.slice(1)}` : String(vertebra.number);
}

/** How sure the level is, in words; "" for a level that the model did not give. */
function levelText(vertebra) {
  const { level, probability, runnerUp } = vertebra;
  if (!level || probability === null) return "";
  return `${level} with probability ${probability.toFixed(2)}${runnerUp ? `, in doubt: may be ${runnerUp}` : ""}`;
}

/** Heights, G and grade of a vertebra, and both by the normal shape of its level; grade -1 where it does not count. */
function measure(vertebra) {
  if (!vertebra.points) return { heights: [NaN, NaN, NaN], index: NaN, grade: -1, levelIndex: NaN, levelGrade: -1 };
  const heights = heightsOf(vertebra.points.map((point) => point.world)), index = genantIndex(heights);
  const shape = settings.levelShapes[vertebra.level], levelIndex = shape ? genantIndex(heights.map((mm, k) => mm / shape[k])) : NaN;
  const [grade, levelGrade] = [index, levelIndex].map((one) => (vertebra.measured ? gradeOf(one) : -1));
  return { heights, index, grade, levelIndex, levelGrade };
}

/** Worst grade, smallest G and number of the vertebrae that count; grade null where none does. */
function worstOf(vertebrae) {
  const counted = vertebrae.filter((one) => one.measured).map(measure);
  if (!counted.length) return { measured: 0, grade: null, genant: null };
  return {
    measured: counted.length,
    grade: Math.max(...counted.map((one) => one.grade)),
    genant: Math.min(...counted.map((one) => one.index)),
  };
}

const STATUS_WORDS = {
  ok: "measured", partial: "at the edge of the scan", low_score: "seen with too little certainty",
  sacrum: "named S1, not graded", not_measured: "keypoints make no vertebra", added: "added",
};

function statusText(vertebra) {
  const words = STATUS_WORDS[vertebra.status] ?? vertebra.status;
  const counts = vertebra.status === "ok" || vertebra.status === "added";
  const marked = vertebra.measured === counts ? words : vertebra.measured ? `measured by the reviewer (${words})` : "cannot be measured";
  return vertebra.moved ? `${marked}, moved` : marked;
}
