// What answers, and where not to trust it.
import { ask, make, problemOf } from "./common.js";

const answer = await ask("/v1/model");
const about = document.getElementById("about");
if (!answer.ok) {
  about.append(make("dt", {}, "No model"), make("dd", {}, await problemOf(answer)));
} else {
  const told = await answer.json();
  const lines = [
    ["Model", told.name], ["Follows", told.following], ["Digest", told.digest], ["Threshold", told.threshold.toFixed(3)],
    ["Abstains", told.band && told.band[0] < told.band[1] ? `between ${told.band[0].toFixed(3)} and ${told.band[1].toFixed(3)}` : "never"],
    ["Intervals rest on", told.val_people === null ? "nothing: the model keeps no val scores" : `${told.val_people} people or sources of val`],
  ];
  for (const [name, value] of lines) about.append(make("dt", {}, name), make("dd", {}, value));
  document.getElementById("card").textContent = told.card || "A folder has no card: promote a registered version to get one.";
}
