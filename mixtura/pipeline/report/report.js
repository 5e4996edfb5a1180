"use strict";
(() => {
  const map = document.getElementById("map");
  if (!map) return;
  const points = JSON.parse(document.getElementById("points").textContent);
  const shapes = map.children;
  const tip = document.getElementById("tip");
  const [source, id] = tip.querySelector("p").children;
  const text = tip.lastElementChild;
  const hidden = new Set();
  let at = -1;

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    points.forEach((p, i) => {
      const d = (p[0] - x) ** 2 + (p[1] - y) ** 2;
      if (d < least && !hidden.has(p[2])) { best = i; least = d; }
    });
    return best;
  }

  function show(i) {
    if (i === at) return;
    if (at >= 0) shapes[at].classList.remove("at");
    at = i;
    tip.hidden = i < 0;
    if (i < 0) return;
    const p = points[i];
    shapes[i].classList.add("at");
    source.textContent = p[3];
    id.textContent = p[4];
    text.textContent = p[5];  // text, never markup
    tip.style.left = p[0] < 500 ? `calc(${p[0] / 10}% + 12px)` : "auto";
    tip.style.right = p[0] < 500 ? "auto" : `calc(${100 - p[0] / 10}% + 12px)`;
    tip.style.top = p[1] < 500 ? `calc(${p[1] / 10}% + 12px)` : "auto";
    tip.style.bottom = p[1] < 500 ? "auto" : `calc(${100 - p[1] / 10}% + 12px)`;
  }

  function follow(event) {
    const box = map.getBoundingClientRect(), scale = 1000 / box.width;
    show(nearest((event.clientX - box.left) * scale, (event.clientY - box.top) * scale, 16 * scale));
  }
  map.addEventListener("pointermove", follow);
  map.addEventListener("pointerdown", follow);
  map.addEventListener("pointerleave", () => show(-1));

  for (const key of document.querySelectorAll("#keys button")) {
    key.addEventListener("click", () => {
      const css = key.dataset.css, on = !hidden.delete(css);
      if (on) hidden.add(css);
      key.setAttribute("aria-pressed", String(!on));
      points.forEach((p, i) => { if (p[2] === css) shapes[i].style.display = on ? "none" : ""; });
      show(-1);
    });
  }
})();
