"use strict";
(() => {
  // A flag on the timeline opens the incident that it leads to.
  const open = () => {
    const found = location.hash.startsWith("#incident-") && document.getElementById(location.hash.slice(1));
    if (found) { found.open = true; found.querySelector("summary").focus(); }
  };
  addEventListener("hashchange", open);
  for (const flag of document.querySelectorAll("a.flag")) {
    flag.addEventListener("click", () => setTimeout(open));
  }
  open();

  // The scale of the curve.
  const plots = [...document.querySelectorAll('[data-plot="loss"]')];
  for (const box of document.querySelectorAll('[data-choice="loss"] input')) {
    box.addEventListener("change", () => plots.forEach((area, at) => { area.parentElement.hidden = at !== +box.value; }));
  }

  // Reading the curve off, with a pointer or with the arrow keys.
  const block = document.getElementById("loss-data"), output = document.getElementById("loss-readout");
  if (!block || !output) return;
  const data = JSON.parse(block.textContent), points = data.points;
  if (!points.length) return;
  let at = -1;
  const show = (index) => {
    at = Math.max(0, Math.min(points.length - 1, index));
    const [step, value] = points[at];
    output.textContent = `step ${step.toLocaleString("en")}: ${data.name} ${Number(value.toPrecision(5))}`;
    const left = data.high > data.low ? 100 * (step - data.low) / (data.high - data.low) : 50;
    for (const area of plots) {
      const cross = area.querySelector(".cross");
      cross.hidden = false;
      cross.style.left = `${left}%`;
    }
  };
  const nearest = (step) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < step) low = middle; else high = middle;
    }
    return step - points[low][0] < points[high][0] - step ? low : high;
  };
  for (const area of plots) {
    area.tabIndex = 0;
    area.setAttribute("role", "group");
    area.setAttribute("aria-label", `${data.name} by step; arrow keys read values`);
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      show(nearest(data.low + (data.high - data.low) * (event.clientX - box.left) / box.width));
    });
    area.addEventListener("keydown", (event) => {
      const far = Math.max(1, Math.round(points.length / 20));
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, PageUp: at - far, PageDown: at + far, Home: 0, End: points.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(to);
    });
  }
})();
