// The corrected annotation of a scan as a file, in vertfrac's own JSON form (docs/annotation.schema.json).

function asAnnotation(head, body, vertebrae, reviewer) {
  const marks = vertebrae.filter((one) => one.points).map((one) => ({
    ...(settings.levels.includes(one.level) ? { level: one.level } : {}),  // annotations name no S1
    ...(one.measured ? {} : { measurable: false }),
    keypoints: Object.fromEntries(settings.keypoints.map((name, k) => [name, one.points[k].world])),
  }));
  const scan = body.scan ? { scan: { shape: body.scan.shape, spacing_mm: body.scan.spacing } } : {};
  return { format: settings.annotationFormat, case: head.case, ...scan, frame: "RAS", unit: "mm", experts: { [reviewer]: marks } };
}

/** The vertebrae of a file that was downloaded here before. Throws an Error that says in one line what is wrong with it. */
function fromAnnotation(text, head, body, slice) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("no valid JSON: the file is cut short or of another kind");
  }
  if (content?.format !== settings.annotationFormat) {
    throw new Error(`found format ${JSON.stringify(content?.format ?? null)}, expected ${settings.annotationFormat}`);
  }
  if (content.case !== head.case) {
    throw new Error(`holds the annotation of scan ${JSON.stringify(content.case)}, expected that of ${JSON.stringify(head.case)}`);
  }
  if (content.scan && body.scan && String(content.scan.shape) !== String(body.scan.shape)) {
    throw new Error(`is of a scan of ${content.scan.shape} voxels, this one has ${body.scan.shape}`);
  }
  const experts = Object.entries(content.experts ?? {});
  if (experts.length !== 1 || !Array.isArray(experts[0][1])) throw new Error(`holds ${experts.length} readings, expected one`);
  const [reviewer, marks] = experts[0];
  const known = body.vertebrae.map(asVertebra).filter((one) => one.points);
  return { reviewer, vertebrae: fromAbove(marks.map((mark, k) => fromMark(mark, k, slice, known))) };
}

/** A vertebra of a file. Where the model found one at its place, it keeps that one's number and score. */
function fromMark(mark, k, slice, known) {
  const points = settings.keypoints.map((name) => mark?.keypoints?.[name]);
  if (!points.every((point) => Array.isArray(point) && point.length === 3 && point.every(Number.isFinite))) {
    throw new Error(`vertebra ${k + 1} lacks a keypoint, expected six of three numbers`);
  }
  const same = known.findIndex((one) => distance(middleOf(one.points.map((point) => point.world)), middleOf(points)) < 10);
  const [found] = same < 0 ? [null] : known.splice(same, 1);
  return {
    ...(found ?? { id: `n${k + 1}`, number: null, status: "added", score: null }),
    ...levelOf(mark, found),
    measured: mark.measurable !== false,
    moved: found !== null && points.some((world, j) => distance(world, found.points[j].world) > 1e-6),
    points: points.map((world) => ({ world, slice: toSlice(slice, world) })),
  };
}

/** The level of a mark: with the model's doubt where it is the model's, and S1 where the model said so. */
function levelOf(mark, found) {
  const known = settings.levels.includes(mark.level) ? mark.level : "";
  const level = !known && mark.measurable === false && found?.level === settings.sacrum ? settings.sacrum : known;
  return found?.level === level ? {} : { level, probability: null, runnerUp: "" };
}

function middleOf(points) {
  return points[2].map((value, k) => (value + points[3][k]) / 2);
}

function saveFile(name, content) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2) + "\n"], { type: "application/json" }));
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
