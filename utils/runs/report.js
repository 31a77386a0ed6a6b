// Shows the numbers of the epoch under the pointer. The page can be read without it.
for (const figure of document.querySelectorAll("figure.plot")) {
  const svg = figure.querySelector("svg");
  const rule = figure.querySelector(".rule");
  const tip = figure.querySelector(".tip");
  const { low, high, left, right, curves } = JSON.parse(figure.dataset.plot);

  function show(event) {
    const pointer = new DOMPoint(event.clientX, event.clientY);
    const at = pointer.matrixTransform(svg.getScreenCTM().inverse()).x;
    const wanted = low + ((at - left) / (right - left)) * (high - low);
    const epochs = curves.flatMap(curve => curve.points.map(point => point[0]));
    const epoch = epochs.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    const x = left + ((epoch - low) / (high - low)) * (right - left);
    rule.setAttribute("x1", x);
    rule.setAttribute("x2", x);
    rule.removeAttribute("visibility");
    tip.replaceChildren(line("", "epoch " + epoch));
    for (const { run, label, points } of curves) {
      const point = points.find(one => one[0] === epoch);
      if (point) tip.append(line("c" + (run % 8), label + "  " + point[1]));
    }
    tip.hidden = false;
    tip.classList.toggle("at-left", x > (left + right) / 2);
  }

  function line(colour, text) {
    const row = document.createElement("div");
    row.className = colour;
    row.textContent = text;
    return row;
  }

  function hide() {
    rule.setAttribute("visibility", "hidden");
    tip.hidden = true;
  }

  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
