// Draws the figures from the data beside them, in the page's colours and to its width.
(() => {
  "use strict";
  const narrow = matchMedia("(max-width: 40rem)");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const figures = [...document.querySelectorAll("[data-figure]")];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  let printing = false;
  const ink = () => (printing ? "#444" : colour("quiet"));

  // The legend beside the plot on a wide page, below it on a narrow one.
  function place(layout, data) {
    const named = data.filter((t) => t.showlegend !== false).length;
    if (!narrow.matches || layout.showlegend === false) return { height: layout.height };
    return {
      height: layout.height + 20 * Math.ceil(named / 2),
      legend: { orientation: "h", x: 0, xref: "container", y: 0, yref: "container", yanchor: "bottom" },
    };
  }

  function draw(box) {
    const spec = JSON.parse(document.getElementById(box.dataset.figure).textContent);
    const base = spec.layout;
    box.draw = () => {
      if (box.closest("details:not([open])")) return undefined; // drawn once it is seen
      const fitted = structuredClone(base);
      const layout = { ...fitted, ...place(fitted, spec.data) };
      layout.font = { ...layout.font, color: ink() };
      layout.paper_bgcolor = printing ? "#fff" : colour("page");
      layout.hoverlabel = {
        ...layout.hoverlabel, bgcolor: colour("box"), bordercolor: colour("line"),
        font: { size: 12, color: colour("ink") },
      };
      box.style.minHeight = `${layout.height}px`;
      return Plotly.react(box, spec.data, layout, {
        responsive: true,
        displaylogo: false,
        displayModeBar: false,
      });
    };
    box.draw();
  }

  // Clipboards are closed to pages opened from a file in some browsers: then the old way, and where
  // that is closed too, the code is selected for the reader to copy.
  async function copy(code) {
    const text = code.textContent;
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = Object.assign(document.createElement("textarea"), { value: text });
      area.style.cssText = "position:fixed;top:0;opacity:0";
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      if (!done) {
        reveal(code);
        getSelection().selectAllChildren(code);
      }
      return done;
    }
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    const label = button.textContent;
    let back;
    button.addEventListener("click", async () => {
      button.style.minWidth ||= `${button.offsetWidth}px`;
      const done = await copy(document.getElementById(button.dataset.copy));
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      button.classList.add("copied");
      for (const status of document.querySelectorAll("[role=status]")) status.textContent = `${label}: ${button.textContent}`;
      clearTimeout(back);
      back = setTimeout(() => {
        button.textContent = label;
        button.classList.remove("copied");
      }, 1500);
    });
  }

  function sort(table, column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
    const order = (a, b) => {
      const none = [key(a) === "–", key(b) === "–"];
      if (none[0] || none[1]) return none[0] - none[1];
      const [x, y] = [Number(key(a).replaceAll(",", "")), Number(key(b).replaceAll(",", ""))];
      const sign = Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
      return down ? -sign : sign;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: head.textContent });
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(table, column, head));
    });
  }

  figures.forEach(draw);
  const redraw = () => figures.forEach((box) => box.draw());
  dark.addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);

  // What is folded opens for a link, a search in the page (where the browser does not do that by
  // itself), and on paper; its figures are drawn then.
  const folds = [...document.querySelectorAll("details")];
  const sections = folds.filter((fold) => fold.parentElement.matches(".folded"));
  for (const fold of folds) {
    fold.addEventListener("toggle", () => {
      if (!fold.open) return;
      for (const box of fold.querySelectorAll("[data-figure]")) if (!box.data) box.draw();
    });
  }

  function reveal(part) {
    for (const inner of part.querySelectorAll(":scope > details")) inner.open = true;
    for (let fold = part.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    part.scrollIntoView();
  }

  function follow() {
    const part = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (part) reveal(part);
  }
  addEventListener("hashchange", follow);
  follow();

  const unfold = document.getElementById("unfold");
  unfold.addEventListener("click", () => {
    const open = unfold.textContent === "Open all";
    for (const section of sections) section.open = open;
    unfold.textContent = open ? "Close all" : "Open all";
  });

  if (!("onbeforematch" in document.documentElement)) {
    addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "f") for (const fold of folds) fold.open = true;
    });
  }

  let before = [];
  addEventListener("beforeprint", () => {
    before = folds.filter((fold) => !fold.open);
    for (const fold of folds) fold.open = true;
    printing = true;
    redraw();
  });
  addEventListener("afterprint", () => {
    for (const fold of before) fold.open = false;
    printing = false;
    redraw();
  });
})();
