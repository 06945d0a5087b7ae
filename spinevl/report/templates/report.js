"use strict";
const choice = (name) => document.getElementById(`filter-${name}`).value;
const matches = (row) =>
  (!choice("task") || row.dataset.task === choice("task")) &&
  (!choice("level") || row.dataset.level === choice("level")) &&
  (!choice("answers") || row.dataset.answer.split(" ").includes(choice("answers")));

function filter() {
  const narrowed = choice("task") || choice("level") || choice("answers");
  let patients = 0, answers = 0;
  for (const card of document.querySelectorAll(".card")) {
    let shown = 0;
    for (const row of card.querySelectorAll(".answers tr")) {
      row.hidden = !matches(row);
      shown += !row.hidden;
    }
    for (const more of card.querySelectorAll("details")) more.open = Boolean(narrowed);
    card.hidden = shown === 0;
    patients += shown > 0;
    answers += shown;
  }
  document.getElementById("filtered").textContent = `${patients} patients, ${answers} answers`;
}

const zoom = document.getElementById("zoom");
for (const button of document.querySelectorAll(".card button"))
  button.addEventListener("click", () => {
    zoom.querySelector("img").src = button.querySelector("img").src;
    zoom.querySelector("p").textContent = button.getAttribute("aria-label");
    zoom.showModal();
  });
zoom.addEventListener("click", () => zoom.close());
for (const select of document.querySelectorAll(".filter select")) select.addEventListener("change", filter);
document.getElementById("filter").hidden = false;
filter();
