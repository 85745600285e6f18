// Keeps the page fresh, and asks before something is cancelled. Without it the page works as it is.
"use strict";

const SOONEST = 1000;
const LATEST = 5000;

const status = document.getElementById("status");
const dialog = document.getElementById("confirm");
let loading = false;
let due = 0;
let timer = 0;

/** Makes `before` like `after`, and leaves alone what is the same: focus, selection and scrolling stay. */
function morph(before, after) {
  if (before.isEqualNode(after)) return;
  const same = before.nodeName === after.nodeName && before.id === after.id;
  if (!same || before.nodeType !== Node.ELEMENT_NODE) {
    before.replaceWith(after);
    return;
  }
  for (const { name } of [...before.attributes]) {
    if (!after.hasAttribute(name)) before.removeAttribute(name);
  }
  for (const { name, value } of after.attributes) {
    if (before.getAttribute(name) !== value) before.setAttribute(name, value);
  }
  // What somebody is typing is theirs.
  if (before.matches("form.filter")) return;
  children(before, [...after.childNodes]);
}

function children(parent, wanted) {
  const kept = new Map();
  for (const child of parent.children) if (child.id) kept.set(child.id, child);
  let at = parent.firstChild;
  for (const next of wanted) {
    const known = next.id ? kept.get(next.id) : undefined;
    if (known) {
      if (known === at) at = at.nextSibling;
      else parent.insertBefore(known, at);
      morph(known, next);
    } else if (at && !at.id && !next.id && at.nodeName === next.nodeName) {
      const old = at;
      at = at.nextSibling;
      morph(old, next);
    } else {
      parent.insertBefore(next, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

async function refresh() {
  if (loading) return;
  loading = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["live", "health"]) {
      const [before, after] = [document.getElementById(id), page.getElementById(id)];
      if (before && after) morph(before, document.adoptNode(after));
    }
    document.body.classList.remove("stale");
    status.textContent = "";
  } catch {
    document.body.classList.add("stale");
    status.textContent = "The server does not answer; this page is not up to date.";
  }
  loading = false;
  plan(LATEST);
}

/** Refreshes in `wait` milliseconds at the latest, and never while nobody looks. */
function plan(wait) {
  const at = Date.now() + wait;
  if (timer && due <= at) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(() => {
    timer = 0;
    if (!document.hidden) refresh();
  }, wait);
}

function listen() {
  const events = new EventSource("/api/events");
  const names = [
    "session.created", "session.advanced", "session.regressed", "upload.published", "upload.delivered",
    "publish.failed", "notification.failed", "session.ended",
  ];
  for (const name of names) events.addEventListener(name, () => plan(SOONEST));
  const tell = (name, text) =>
    events.addEventListener(name, (event) => {
      const { session } = JSON.parse(event.data);
      status.textContent = `${session.destination.split("/").pop()} ${text}`;
    });
  tell("publish.failed", "could not be put at its destination");
  tell("notification.failed", "was not taken by the server application");
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-cancel]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  dialog.querySelector("bdi").textContent = link.dataset.cancel;
  dialog.querySelector("form").action = link.href;
  dialog.returnValue = "";
  dialog.showModal();
});

dialog?.querySelector("button[value=no]").addEventListener("click", () => dialog.close());

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) plan(0);
});

if (document.getElementById("live")) {
  listen();
  plan(LATEST);
}
