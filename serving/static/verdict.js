// One verdict: in words, as bars against threshold and band, over the picture, or along the video.
import { ask, blobUrl, make, percent, problemOf } from "./common.js";

const WORDS = {
  fake: "Looks like a fake",
  real: "Looks real",
  undecided: "Undecided: the score lies where this model does not decide",
  "no-face": "No face was found, so there is nothing to judge",
};

function bar(likelihood, told, label) {
  const node = make("div", { class: "bar", role: "img", "aria-label": `${label}: P(fake) ${percent(likelihood)}` });
  const fill = make("div", { class: "fill" });
  fill.style.width = `${100 * likelihood}%`;
  node.append(fill);
  if (told.band && told.band[0] < told.band[1]) {
    const band = make("div", { class: "band", title: "here the model abstains" });
    band.style.left = `${100 * told.band[0]}%`;
    band.style.width = `${100 * (Math.min(told.band[1], 1) - told.band[0])}%`;
    node.append(band);
  }
  const mark = make("div", { class: "mark", title: `threshold ${told.threshold.toFixed(3)}` });
  mark.style.left = `${100 * told.threshold}%`;
  node.append(mark);
  return node;
}

function boxes(stage, faces, width, height) {
  for (const face of faces) {
    const [left, top, right, bottom] = face.box;
    const node = make("div", { class: `box ${face.verdict}` }, make("span", {}, percent(face.likelihood)));
    node.style.left = `${(100 * left) / width}%`;
    node.style.top = `${(100 * top) / height}%`;
    node.style.width = `${(100 * (right - left)) / width}%`;
    node.style.height = `${(100 * (bottom - top)) / height}%`;
    stage.append(node);
  }
}

async function picture(told) {
  const source = await blobUrl(`/v1/verdicts/${told.id}/media`);
  if (!source) return make("p", { class: "soft" }, "The upload is kept no longer.");
  const image = make("img", { alt: `The analysed picture ${told.name || ""}`, src: source });
  const stage = make("div", { class: "stage" }, image);
  await image.decode().catch(() => {});
  boxes(stage, told.faces, image.naturalWidth, image.naturalHeight);
  const whole = make("div", {}, stage);
  if (told.faces.length) {
    const heat = await blobUrl(`/v1/verdicts/${told.id}/heatmap.png`);
    if (heat) {
      const layer = make("img", { class: "heat", alt: "Saliency map for the fake logit", src: heat });
      layer.style.opacity = 0;
      stage.append(layer);
      const slide = make("input", { type: "range", min: 0, max: 100, value: 0, class: "opacity" });
      slide.addEventListener("input", () => { layer.style.opacity = slide.value / 100; });
      whole.append(make("label", {}, "Saliency map ", slide));
    }
  }
  return whole;
}

async function film(told) {
  const source = await blobUrl(`/v1/verdicts/${told.id}/media`);
  const video = source ? make("video", { src: source, controls: "", preload: "metadata", class: "player" }) : null;
  const last = Math.max(...told.timeline.map((point) => point.t_s), 1);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "timeline");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "P(fake) over the video; a click goes to that time");
  const line = (y) => `M0,${100 - 100 * y} L100,${100 - 100 * y}`;
  const add = (path, dashes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", "path");
    node.setAttribute("d", path);
    if (dashes) node.setAttribute("stroke-dasharray", dashes);
    svg.append(node);
  };
  add(line(told.threshold), "2 2");
  for (const track of new Set(told.timeline.map((point) => point.track))) {
    const own = told.timeline.filter((point) => point.track === track);
    const steps = own.map((point) => `${(100 * point.t_s) / last},${100 - 100 * point.likelihood}`);
    add(`M${steps.join(" L")}${own.length === 1 ? " h1" : ""}`);
  }
  svg.addEventListener("click", (event) => {
    const area = svg.getBoundingClientRect();
    if (video) video.currentTime = (last * (event.clientX - area.left)) / area.width;
  });
  const worst = [...told.timeline].sort((a, b) => b.likelihood - a.likelihood).slice(0, 3);
  const jumps = worst.map((point) => make("button", {
    type: "button", onclick: () => { if (video) video.currentTime = point.t_s; },
  }, `${point.t_s.toFixed(1)} s: ${percent(point.likelihood)}`));
  return make("div", {}, video ? make("div", { class: "stage" }, video) : null, svg,
    make("p", { class: "soft" }, "Most suspicious frames"), ...jumps);
}

function feedback(told) {
  const said = make("span", { role: "status" });
  const consent = make("input", { type: "checkbox" });
  const send = (truth) => async () => {
    const body = JSON.stringify({ truth, consent_to_train: consent.checked });
    const answer = await ask(`/v1/verdicts/${told.id}/feedback`, {
      method: "POST", body, headers: { "Content-Type": "application/json" },
    });
    said.textContent = answer.ok ? ` Thank you: noted as ${truth}, and kept apart until it is reviewed.` : await problemOf(answer);
  };
  return make("details", {}, make("summary", {}, "This is wrong"),
    make("p", {}, make("label", {}, consent, " The file may be kept and used to train the next model")),
    make("button", { type: "button", onclick: send("real") }, "It is real"), " ",
    make("button", { type: "button", onclick: send("fake") }, "It is fake"), said);
}

export async function show(told, into) {
  into.replaceChildren(make("h2", {}, told.name || "Analysis"));
  if (told.status === "failed") {
    into.append(make("p", { class: "verdict failed" }, told.problem.detail));
    return;
  }
  const word = make("p", { class: `verdict ${told.verdict}` }, WORDS[told.verdict]);
  into.append(word);
  if (told.likelihood !== null) {
    const range = told.interval ? `, ${percent(told.interval[0])} to ${percent(told.interval[1])}` : "";
    into.append(make("p", {}, `P(fake) ${percent(told.likelihood)}${range}`),
      told.interval_means ? make("p", { class: "soft" }, `The interval (${told.interval_method}): ${told.interval_means}.`) : "");
  }
  const tracks = new Map();
  for (const face of told.faces) tracks.set(face.track, [...(tracks.get(face.track) || []), face.likelihood]);
  const bars = make("div", {});
  for (const [track, values] of tracks) {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const node = bar(mean, told, `face ${track + 1}`);
    node.classList.add(told.verdict);
    bars.append(make("div", {}, `Face ${track + 1}: ${percent(mean)}`), node);
  }
  if (tracks.size) bars.append(make("p", { class: "soft" }, "Black mark: threshold. Grey: here the model does not decide."));
  for (const warning of told.warnings) bars.append(make("p", {}, `Note: ${warning}.`));
  bars.append(make("p", { class: "soft" }, `Judged by ${told.model.name}.`), feedback(told));
  const view = told.media.kind === "video" && told.timeline.length ? await film(told) : await picture(told);
  into.append(make("div", { class: "two" }, view, bars));
}
