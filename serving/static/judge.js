// The page that takes files, one after another, and shows what comes of each.
import { ask, make, problemOf } from "./common.js";
import { show } from "./verdict.js";

const drop = document.getElementById("drop");
const files = document.getElementById("files");
const results = document.getElementById("results");

async function judge(file) {
  const card = make("article", {}, make("h2", {}, file.name), make("progress", { "aria-label": "being analysed" }));
  results.prepend(card);
  const body = new FormData();
  body.append("file", file);
  try {
    const answer = await ask("/v1/verdicts", { method: "POST", body });
    if (!answer.ok) {
      card.replaceChildren(make("h2", {}, file.name), make("p", { class: "verdict failed" }, await problemOf(answer)));
      return;
    }
    let told = await answer.json();
    while (told.status === "queued" || told.status === "running") {
      await new Promise((resolve) => setTimeout(resolve, 500));
      told = await (await ask(`/v1/verdicts/${told.id}`)).json();
    }
    await show({ ...told, name: file.name }, card);
  } catch {
    card.replaceChildren(make("h2", {}, file.name), make("p", { class: "verdict failed" }, "The service is away: try again."));
  }
}

async function take(list) {
  for (const file of list) await judge(file);
}

files.addEventListener("change", async () => {
  await take([...files.files]);
  files.value = "";
});
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take([...event.dataTransfer.files]);
});
