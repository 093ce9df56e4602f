// A tap or click shows what hovering shows: the title of the nearest mark of a chart, or of a cell.
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);

  function nearestMark(chart, x, y) {
    let best = null, least = 30; // CSS pixels
    for (const title of chart.querySelectorAll("title")) {
      const box = title.parentNode.getBoundingClientRect();
      const dx = Math.max(box.left - x, x - box.right, 0);
      const dy = Math.max(box.top - y, y - box.bottom, 0);
      // Of marks that contain the point, the smallest is meant.
      const distance = Math.hypot(dx, dy) + Math.min(box.width + box.height, 2000) / 4000;
      if (distance < least) [best, least] = [title.textContent, distance];
    }
    return best;
  }

  document.addEventListener("click", (event) => {
    const chart = event.target.closest("svg.chart");
    const cell = event.target.closest("td[title]");
    const text = chart ? nearestMark(chart, event.clientX, event.clientY) : cell && cell.title;
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(event.clientX - tip.offsetWidth / 2, room))}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 16)}px`;
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
})();
