// Keys, and filters that apply as they are chosen. Everything works without it, by links and buttons.
"use strict";

const typing = (target) => target.closest("input, textarea, select, [contenteditable]") !== null;

function move(items, step) {
  const at = items.indexOf(document.activeElement);
  const next = items[at < 0 ? 0 : Math.min(Math.max(at + step, 0), items.length - 1)];
  if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
}

function follow(id) {
  const link = document.getElementById(id);
  if (link && link.href) link.click();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape" && typing(event.target)) { event.target.blur(); return; }
  if (typing(event.target)) return;
  const items = [...document.querySelectorAll("a.item")];
  const form = document.getElementById("mark");
  const mark = (verdict) => form && form.querySelector(`button[value=${verdict}]`).click();
  const actions = {
    j: () => (items.length ? move(items, 1) : follow("after")),
    k: () => (items.length ? move(items, -1) : follow("before")),
    ArrowRight: () => follow("after"),
    ArrowLeft: () => follow("before"),
    u: () => follow("up"),
    "1": () => mark("good"),
    "2": () => mark("bad"),
    "/": () => { const search = document.querySelector("input[type=search]"); if (search) search.focus(); },
  };
  const action = actions[event.key];
  if (action) { event.preventDefault(); action(); }
});

for (const form of document.querySelectorAll("form.filter-form")) {
  form.addEventListener("change", () => form.requestSubmit());
}

// Addresses stay short: what is not chosen is not sent.
for (const form of document.querySelectorAll("form[method=get]")) {
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
  });
}

// On a narrow screen the filters begin closed.
if (matchMedia("(max-width: 800px)").matches) {
  for (const filters of document.querySelectorAll("details.filters")) filters.open = false;
}

for (const form of document.querySelectorAll("form.import")) {
  const output = form.querySelector("output");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = form.querySelector("input[type=file]").files[0];
    output.hidden = false;
    output.textContent = "Importing …";
    try {
      const answer = await fetch("/import", {
        method: "POST", body: file,
        headers: { "Content-Type": "application/json", "X-Form-Token": form.dataset.formToken },
      });
      output.textContent = await answer.text();
      output.classList.toggle("bad", !answer.ok);
    } catch (error) {
      output.textContent = `The server does not answer: ${error.message}`;
      output.classList.add("bad");
    }
  });
}
