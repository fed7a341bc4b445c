"use strict";
const $ = (id) => document.getElementById(id);
const { study, side, columns, height, strips, nothing, films } = JSON.parse($("study").textContent);
const FORMAT = "medsynth-study-answers", place = `${FORMAT}-${study}`;
const reader = $("reader").elements, form = $("answer"), fields = form.elements;
const boxes = [...form.querySelectorAll("[name=finding]")];

const tell = (text) => { $("problem").textContent = text; $("problem").hidden = !text; };
const plain = (text) => String(text).replace(/[\p{C}\p{Z}]/gu, " ").trim();

// what is answered, by film
let answers = {}, current = 0, screen = "start";
const fresh = () => ({ origin: null, findings: [], realism: null, remark: "", seconds: 0 });
const answerOf = (film) => answers[film] ?? (answers[film] = fresh());
const isComplete = (film) => {
  const answer = answers[film];
  return Boolean(answer && answer.origin && answer.findings.length && answer.realism);
};
const isBegun = (film) => Boolean(answers[film] && (answers[film].origin || answers[film].findings.length || answers[film].realism));
const nComplete = () => films.filter(isComplete).length;

// the file of answers, which is also what this browser keeps
const asFile = () => ({
  format: FORMAT, version: 1, study,
  reader: { name: plain(reader.name.value), role: reader.role.value, years: reader.years.value === "" ? null : Number(reader.years.value) },
  saved: new Date().toISOString(),
  answers: films.filter((film) => answers[film]).map((film) =>
    ({ film, ...answers[film], remark: plain(answers[film].remark), seconds: Math.round(10 * answers[film].seconds) / 10 })),
});
const read = (file) => {
  if (file?.format !== FORMAT || file.version !== 1) throw new Error("This isn't a file of answers that this page saves.");
  if (file.study !== study) throw new Error("This file is of another study.");
  const known = new Set(boxes.map((box) => box.value)), found = {};
  for (const each of file.answers) {
    if (!films.includes(each.film)) throw new Error("This file names a film that isn't here.");
    found[each.film] = {
      origin: ["real", "synthetic"].includes(each.origin) ? each.origin : null,
      findings: each.findings.filter((finding) => known.has(finding)),
      realism: [1, 2, 3, 4, 5].includes(each.realism) ? each.realism : null,
      remark: plain(each.remark ?? ""),
      seconds: Number(each.seconds) || 0,
    };
  }
  const { name, role, years } = file.reader;
  return { found, name, role, years: years ?? "" };
};
const adopt = ({ found, name, role, years }) => {
  answers = found;
  reader.name.value = name;
  reader.role.value = role;
  reader.years.value = years;
};

let keeps = true, unsaved = false;
const keep = () => {
  try { localStorage.setItem(place, JSON.stringify({ ...asFile(), current })); } catch { keeps = false; }
};
const recall = () => {
  let kept = null;
  try { kept = localStorage.getItem(place); } catch { keeps = false; }
  if (!kept) return;
  try {
    const file = JSON.parse(kept);
    adopt(read(file));
    current = films[file.current] ? file.current : 0;
  } catch { tell("The answers that this browser kept are damaged; go on from a saved file, or begin anew."); }
};
addEventListener("beforeunload", (event) => { if (!keeps && unsaved) event.preventDefault(); });

// how long a film was looked at
let since = null;
const tick = () => {
  if (since !== null) answerOf(films[current]).seconds += (performance.now() - since) / 1000;
  since = screen === "film" && !document.hidden ? performance.now() : null;
};
document.addEventListener("visibilitychange", () => { tick(); if (document.hidden) keep(); });
addEventListener("pagehide", () => { tick(); if (screen !== "start") keep(); });

// the film
const pictures = strips.map((source) => {
  const picture = new Image();
  const loaded = new Promise((resolve, reject) => { picture.onload = resolve; picture.onerror = reject; });
  picture.src = source;
  return { picture, loaded };
});
const canvas = $("picture"), pen = canvas.getContext("2d");
const draw = async () => {
  const film = current;
  try { await Promise.all(pictures.map((each) => each.loaded)); } catch { tell("The films can't be shown in this browser; please try another one."); return; }
  if (film !== current) return;
  const column = film % columns, row = Math.floor(film / columns);
  pictures.forEach(({ picture }, number) => {
    const top = number * height, rows = Math.min(height, side - top);
    pen.drawImage(picture, column * side, row * rows, side, rows, 0, top, side, rows);
  });
  canvas.setAttribute("aria-label", `chest radiograph, film ${film + 1}`);
  canvas.dataset.shown = films[film];
};
let zoom = 1, inverted = false;
const look = () => {
  canvas.style.width = `${100 * zoom}%`;
  canvas.style.filter = `brightness(${$("brightness").value}) contrast(${$("contrast").value}) invert(${Number(inverted)})`;
  $("zoom").textContent = `Zoom ${zoom}×`;
  $("invert").setAttribute("aria-pressed", inverted);
  $("view").classList.toggle("large", zoom > 1);
};
const enlarge = () => {
  const view = $("view"), middle = (view.scrollTop + view.clientHeight / 2) / zoom, across = (view.scrollLeft + view.clientWidth / 2) / zoom;
  zoom = zoom < 4 ? 2 * zoom : 1;
  look();
  view.scrollTo(across * zoom - view.clientWidth / 2, middle * zoom - view.clientHeight / 2);
};
const invert = () => { inverted = !inverted; look(); };
const reset = () => { zoom = 1; inverted = false; $("brightness").value = $("contrast").value = 1; look(); };
$("zoom").addEventListener("click", enlarge);
$("invert").addEventListener("click", invert);
$("reset").addEventListener("click", reset);
for (const name of ["brightness", "contrast"]) $(name).addEventListener("input", look);
let grip = null;
$("view").addEventListener("pointerdown", (event) => {
  if (event.pointerType !== "mouse" || zoom === 1) return;
  grip = { x: event.clientX + $("view").scrollLeft, y: event.clientY + $("view").scrollTop };
  event.preventDefault();
});
addEventListener("pointermove", (event) => { if (grip) $("view").scrollTo(grip.x - event.clientX, grip.y - event.clientY); });
addEventListener("pointerup", () => { grip = null; });

// the screens
const show = (next) => {
  tick();
  screen = next;
  for (const name of ["start", "film", "overview"]) $(name).hidden = name !== next;
  $("bar").hidden = next === "start";
  $("to-overview").hidden = next === "overview";
  tick();
  $("count").textContent = `${nComplete()} complete`;
  $("done").value = nComplete();
  if (next === "start") return;
  $("place").textContent = next === "film" ? `Film ${current + 1} of ${films.length}` : "Overview";
  $("place").focus({ preventScroll: true });
  scrollTo(0, 0);
};
const fill = () => {
  const answer = answerOf(films[current]);
  // setting the group's value would leave the last film's choice where this one has none
  for (const radio of form.querySelectorAll("[type=radio]")) radio.checked = radio.value === String(answer[radio.name]);
  fields.remark.value = answer.remark;
  for (const box of boxes) box.checked = answer.findings.includes(box.value);
  $("before").disabled = current === 0;
  $("after").textContent = current === films.length - 1 ? "Overview →" : "Next →";
};
const missing = () => {
  const answer = answerOf(films[current]), parts = [];
  if (!answer.origin) parts.push("real or synthetic");
  if (!answer.findings.length) parts.push("findings");
  if (!answer.realism) parts.push("how realistic");
  $("missing").textContent = parts.length ? `Open: ${parts.join(", ")}` : "Complete";
  $("count").textContent = `${nComplete()} complete`;
  $("done").value = nComplete();
};
const go = (to) => {
  tick();
  since = null;
  current = to;
  zoom = 1;
  look();
  show("film");
  fill();
  missing();
  draw();
  keep();
};
const step = (by) => {
  if (current + by >= films.length) overview();
  else if (current + by >= 0) go(current + by);
};
const overview = () => {
  show("overview");
  keep();
  const open = films.length - nComplete();
  $("summary").textContent = open
    ? `${nComplete()} of ${films.length} films are complete. You can save what you have and go on later.`
    : `All ${films.length} films are complete, thank you. Save your answers and send the file to whoever sent you this page.`;
  $("saved").textContent = keeps ? "" : "This browser doesn't keep your answers: save them before you close the page.";
  $("films").replaceChildren(...films.map((film, number) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const state = isComplete(film) ? "complete" : isBegun(film) ? "begun" : "open";
    button.type = "button";
    button.textContent = `${number + 1}${{ complete: " ✓", begun: " …", open: "" }[state]}`;
    button.className = state;
    button.setAttribute("aria-label", `film ${number + 1}, ${state}`);
    button.addEventListener("click", () => go(number));
    item.append(button);
    return item;
  }));
};
const start = () => {
  show("start");
  const begun = films.some(isBegun);
  $("begin").textContent = begun ? "Go on" : "Begin";
  $("anew").hidden = !begun;
  $("kept").textContent = begun
    ? `${nComplete()} of ${films.length} films are complete.`
    : keeps ? "" : "This browser doesn't keep answers between visits: save them as a file before you close the page.";
};

// what the reader does
form.addEventListener("change", (event) => {
  if (event.target.name === "finding" && event.target.checked)
    for (const box of boxes) if ((box.value === nothing) !== (event.target.value === nothing)) box.checked = false;
  const answer = answerOf(films[current]);
  answer.origin = fields.origin.value || null;
  answer.realism = Number(fields.realism.value) || null;
  answer.remark = fields.remark.value;
  answer.findings = boxes.filter((box) => box.checked).map((box) => box.value);
  unsaved = true;
  missing();
  tick();
  keep();
});
form.addEventListener("submit", (event) => { event.preventDefault(); $("place").focus({ preventScroll: true }); });
$("before").addEventListener("click", () => step(-1));
$("after").addEventListener("click", () => step(1));
$("to-overview").addEventListener("click", overview);
$("back").addEventListener("click", () => go(current));
$("details").addEventListener("click", start);
$("reader").addEventListener("submit", (event) => {
  event.preventDefault();
  tell("");
  go(Math.min(current, films.length - 1));
});
$("anew").addEventListener("click", () => {
  if (!confirm("Delete all answers that this browser keeps of this study?")) return;
  try { localStorage.removeItem(place); } catch { keeps = false; }
  answers = {};
  current = 0;
  $("reader").reset();
  start();
});
$("save").addEventListener("click", () => {
  const name = `answers-${study}-${plain(reader.name.value).replace(/[^\p{L}\p{N}]+/gu, "-").toLowerCase()}.json`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(asFile(), null, 1)}\n`], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  unsaved = false;
  $("saved").textContent = `Saved as ${name}, where your browser puts downloads. Please send it to whoever sent you this page.`;
});
$("load").addEventListener("change", async () => {
  const [file] = $("load").files;
  if (!file) return;
  try {
    const loaded = read(JSON.parse(await file.text()));
    if (films.some(isBegun) && !confirm("Replace the answers that are here by those of the file?")) return;
    adopt(loaded);
    current = Math.max(0, films.findIndex((film) => !isComplete(film)));
    tell("");
    keep();
    start();
  } catch (error) {
    tell(error instanceof SyntaxError || error instanceof TypeError ? "This file is damaged, or isn't one of answers." : error.message);
  } finally { $("load").value = ""; }
});

const byKey = new Map([...boxes].map((box) => [box.parentElement.querySelector("kbd")?.textContent.toLowerCase(), box]));
for (const radio of form.querySelectorAll("[type=radio]")) byKey.set(radio.name === "realism" ? radio.value : radio.value[0], radio);
const acts = { arrowleft: () => step(-1), arrowright: () => step(1), i: invert, z: enlarge, 0: reset };
document.addEventListener("keydown", (event) => {
  if (screen !== "film" || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.matches("input:not([type=radio], [type=checkbox])")) return;
  const key = event.key.toLowerCase(), input = byKey.get(key);
  if (input) { if (input.type === "checkbox" || !input.checked) input.click(); }
  else if (Object.hasOwn(acts, key)) acts[key]();
  else return;
  event.preventDefault();
});

look();
recall();
start();
