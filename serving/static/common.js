// What all pages share: asking the service, and making elements without ever parsing HTML.

export function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const login = document.getElementById("login");
let waiting = [];

login.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", document.getElementById("key").value.trim());
  login.hidden = true;
  for (const resume of waiting) resume();
  waiting = [];
});

export async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if ((answer.status === 401 || (answer.status === 403 && key)) && !options.quiet) {
    sessionStorage.removeItem("key");
    login.hidden = false;
    document.getElementById("key").focus();
    await new Promise((resolve) => waiting.push(resolve));
    return ask(path, options);
  }
  return answer;
}

export async function problemOf(answer) {
  try {
    const told = await answer.json();
    return told.detail || told.title || `error ${answer.status}`;
  } catch {
    return `error ${answer.status}`;
  }
}

export async function blobUrl(path) {
  const answer = await ask(path);
  return answer.ok ? URL.createObjectURL(await answer.blob()) : null;
}

export const percent = (share) => `${(100 * share).toFixed(1)} %`;

// The version that answers, looked at now and then: it changes without a reload.
async function follow() {
  try {
    const told = await (await fetch("/readyz")).json();
    const away = told.registry !== "ok" ? ` (registry: ${told.registry})` : "";
    document.getElementById("champion").textContent = told.model ? `answers: ${told.model}${away}` : "no champion yet";
  } catch {
    document.getElementById("champion").textContent = "the service is away";
  }
}
follow();
setInterval(follow, 3000);
