// The latest analyses: searched, opened again, deleted.
import { ask, make, percent } from "./common.js";
import { show } from "./verdict.js";

const rows = document.getElementById("rows");
const text = document.getElementById("text");
const verdict = document.getElementById("verdict");
const results = document.getElementById("results");

async function load() {
  const query = new URLSearchParams({ q: text.value, ...(verdict.value ? { verdict: verdict.value } : {}) });
  const listed = await (await ask(`/v1/verdicts?${query}`)).json();
  document.getElementById("none").hidden = listed.length > 0;
  rows.replaceChildren(...listed.map((told) => {
    const open = make("button", { type: "button", onclick: async () => {
      const card = make("article", {});
      results.replaceChildren(card);
      await show(await (await ask(`/v1/verdicts/${told.id}`)).json(), card);
      card.scrollIntoView();
    } }, told.name);
    const remove = make("button", { type: "button", "aria-label": `Delete ${told.name}`, onclick: async () => {
      await ask(`/v1/verdicts/${told.id}`, { method: "DELETE" });
      load();
    } }, "Delete");
    return make("tr", {}, make("td", {}, open), make("td", {}, new Date(told.created).toLocaleString()),
      make("td", { class: told.verdict || told.status }, told.verdict || told.status),
      make("td", {}, told.likelihood === null || told.likelihood === undefined ? "-" : percent(told.likelihood)),
      make("td", {}, told.model ? told.model.name : "-"), make("td", {}, remove));
  }));
}

document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
text.addEventListener("input", load);
verdict.addEventListener("change", load);
load();
