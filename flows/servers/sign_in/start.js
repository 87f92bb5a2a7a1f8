// The first page of either server: leads to the forms that start a merge, and to what there is to see.
// The forms are Prefect's deployments of the tag `form`; MLflow's server only knows where Prefect is.
"use strict";

const PASSWORD = "prefect-password";
// Without it MLflow opens the pages for chats.
const FOR_MODELS = "?workflowType=machine_learning";
const PAGES = {
  prefect: [
    ["Runs", "/v2/runs", ": what was started, and how it ended"],
    ["Deployments", "/v2/deployments", ": forms and schedules"],
    ["Dashboard", "/v2/dashboard", ": Prefect's own first page"],
    ["Dashboard in the old look", "/dashboard", ": Prefect's V1 UI"],
  ],
  mlflow: [
    ["Models", "/#/models" + FOR_MODELS, ", in MLflow: registered models, their versions, which one to serve"],
    ["Experiments", "/#/experiments" + FOR_MODELS, ", in MLflow: every merge with its scores"],
  ],
};

function addLink(list, title, address, said) {
  const link = document.createElement("a");
  link.href = address;
  link.textContent = title;
  const item = document.createElement("li");
  item.append(link, said);
  document.querySelector(list).append(item);
}

// A form's description begins with its title: "**Average** models: ...".
function addForm(form) {
  const address = `/v2/deployments/deployment/${encodeURIComponent(form.id)}/run`;
  const [, title, said] = /^\*\*(.+?)\*\*(.*)$/s.exec(form.description ?? "") ?? [];
  addLink("#forms", title ?? form.name, address, said ?? form.description ?? "");
}

async function readForms() {
  const answer = await fetch("/api/deployments/filter", {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      Authorization: `Basic ${localStorage.getItem(PASSWORD)}`,
    },
    body: JSON.stringify({ deployments: { tags: { all_: ["form"] } }, sort: "CREATED_DESC" }),
  });
  if (!answer.ok) return null;
  const forms = (await answer.json()).reverse();
  // The form for any method is the longest.
  return [...forms.filter((form) => form.name !== "merge"), ...forms.filter((form) => form.name === "merge")];
}

function signIn() {
  localStorage.removeItem(PASSWORD);
  location.replace("/sign-in");
}

async function showForms(servers) {
  const said = document.querySelector("#said");
  if (servers.here !== "prefect") {
    said.textContent = "Merges are started from Prefect's forms.";
    addLink("#forms", "The forms", `${servers.prefect}/`, ": average, task arithmetic, TIES and others");
    return true;
  }
  const forms = localStorage.getItem(PASSWORD) ? await readForms() : null;
  if (forms === null) return false;
  said.textContent = forms.length
    ? "Choose what is merged how, and fill in the form."
    : "There are no forms on this server. `mergeflow up` makes them.";
  forms.forEach(addForm);
  return true;
}

async function start() {
  const answer = await fetch("/sign-in/servers");
  if (!answer.ok) return signIn();
  const servers = await answer.json();
  if (servers.here === "mlflow" && !servers.prefect) return location.replace("/#/experiments" + FOR_MODELS);
  if (!(await showForms(servers))) return signIn();
  for (const server of ["prefect", "mlflow"]) {
    const before = servers.here === server ? "" : servers[server];
    if (before === undefined) continue;
    for (const [title, path, said] of PAGES[server]) addLink("#pages", title, before + path, said);
  }
  document.querySelector("main").hidden = false;
}

start();
