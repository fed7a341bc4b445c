"use strict";
document.documentElement.classList.add("js");
const $ = (id) => document.getElementById(id);
const figures = [...document.querySelectorAll("#gallery figure")];
const rejected = [...document.querySelectorAll("#rejected-images figure")];
const wordsOf = (input) => input.value.toLowerCase().split(/\s+/).filter(Boolean);
const hasWords = (figure, words) => words.every((word) => figure.dataset.text.includes(word));
// older browsers, and those that a driver steers, tell of a select by "change" alone
const onChange = (form, act) => { for (const kind of ["input", "change"]) form.addEventListener(kind, act); };

const filters = $("filters");
const chosen = (name) => (filters.elements[name] ? filters.elements[name].value : "");
// one finding must meet all three choices: an effusion on the right and a nodule on the left isn't a left effusion
const hasFinding = (figure) => {
  const wanted = ["finding", "side", "severity"].map(chosen);
  return JSON.parse(figure.dataset.labels).some((label) => wanted.every((want, at) => !want || label[at] === want));
};
const isShown = (figure, words) =>
  hasWords(figure, words) && hasFinding(figure) &&
  (!chosen("view") || figure.dataset.view === chosen("view")) &&
  sliders.every((slider) => (scoreOf(figure, slider.name) ?? -Infinity) >= floorOf(slider));
const sliders = [...document.querySelectorAll("#filters .least")];
const scoreOf = (figure, name) => JSON.parse(figure.dataset.scores)[name];
// at its lower end the slider asks for nothing, so that images without a score are shown
const floorOf = (slider) => (slider.value === slider.min ? -Infinity : Number(slider.value));

// "down:score" or "up:score"; images without the score come last
const keyOf = (order) => {
  const [direction, name] = order.split(":");
  if (!name) return (figure) => Number(figure.dataset.place);
  const sign = direction === "down" ? -1 : 1;
  return (figure) => { const score = scoreOf(figure, name); return score === undefined ? Infinity : sign * score; };
};
const atOnce = 24;
let most = atOnce;
let matching = figures;
const filterGallery = () => {
  const words = wordsOf(filters.elements.words), key = keyOf(chosen("order"));
  const sorted = [...figures].sort((a, b) => key(a) - key(b));
  matching = sorted.filter((figure) => isShown(figure, words));
  const visible = new Set(matching.slice(0, most));
  for (const figure of figures) figure.hidden = !visible.has(figure);
  $("gallery").append(...sorted);
  $("shown").textContent = `${matching.length} of ${figures.length} match`;
  $("more").hidden = matching.length <= most;
  for (const slider of sliders)
    slider.parentElement.querySelector("output").textContent = floorOf(slider) === -Infinity ? "any" : Number(slider.value).toFixed(2);
};
if (filters) {
  onChange(filters, () => { most = atOnce; filterGallery(); });
  $("more").addEventListener("click", () => { most += atOnce; filterGallery(); });
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("reset", () => setTimeout(() => { filterGallery(); showKeys(false); }));
}

const showKeys = (on) => {
  document.body.classList.toggle("with-keys", on);
  for (const box of document.querySelectorAll(".keys-box")) box.checked = on;
};
for (const box of document.querySelectorAll(".keys-box")) box.addEventListener("change", () => showKeys(box.checked));

const large = $("large");
let current = null;
const enlarge = (figure) => {
  current = figure;
  const copy = figure.cloneNode(true);
  copy.hidden = false;
  const picture = copy.querySelector(".open");
  const still = document.createElement("div");
  still.className = "picture";
  still.append(...picture.childNodes);
  picture.replaceWith(still);
  $("large-figure").replaceChildren(copy);
  if (!large.open) large.showModal();
  large.scrollTop = 0;
};
const step = (by) => {
  enlarge(matching[(matching.indexOf(current) + by + matching.length) % matching.length]);
};
for (const figure of figures) figure.querySelector(".open").addEventListener("click", () => enlarge(figure));
if (large) {
  $("close").addEventListener("click", () => large.close());
  $("before").addEventListener("click", () => step(-1));
  $("after").addEventListener("click", () => step(1));
  large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
  large.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}

const reasons = $("reasons");
const filterRejected = () => {
  const words = wordsOf(reasons.elements.words), reason = reasons.elements.reason.value;
  let n = 0;
  for (const figure of rejected) {
    figure.hidden = !(hasWords(figure, words) && (!reason || figure.dataset.reason === reason));
    n += !figure.hidden;
  }
  $("rejected-shown").textContent = `${n} of ${rejected.length} match`;
};
if (reasons) {
  onChange(reasons, filterRejected);
  reasons.addEventListener("submit", (event) => event.preventDefault());
  filterRejected();
}
if (filters) filterGallery();
