// Signs in with the password that the address carries after `#`, which no server and no log sees, or
// with one that is typed. At its own address the page leads on to the application; in the place of
// another page, which wanted a login, it shows that one again.
"use strict";

const PAGE = "/sign-in";
const ownAddress = location.pathname === PAGE;

function passwordOfLink() {
  if (!ownAddress || location.hash.length < 2) return null;
  const given = location.hash.slice(1);
  history.replaceState(null, "", PAGE);
  try {
    return decodeURIComponent(given);
  } catch {
    return null;
  }
}

async function signIn(password) {
  const answer = await fetch(PAGE, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ password }),
  });
  if (!answer.ok) return false;
  const { go, remember } = await answer.json();
  for (const [key, value] of Object.entries(remember)) localStorage.setItem(key, value);
  if (ownAddress) location.replace(go);
  else location.reload();
  return true;
}

// A link from another site comes without the cookie of a session that there is; this page has it.
function triedJustNow() {
  const before = Number(sessionStorage.getItem("mergeflow-reloaded"));
  sessionStorage.setItem("mergeflow-reloaded", String(Date.now()));
  return Date.now() - before < 5000;
}

async function start() {
  const given = passwordOfLink();
  const alert = document.querySelector("[role=alert]");
  if (given !== null) {
    if (await signIn(given)) return;
    alert.textContent = "The link is of another password: take a new one, or type the password.";
  } else if (!ownAddress && !triedJustNow() && (await signIn(null))) {
    return;
  }
  document.querySelector("main").hidden = false;
  const field = document.querySelector("input");
  field.focus();
  document.querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!(await signIn(field.value))) alert.textContent = "This is not the password.";
  });
}

start();
