const SHAPES = ["M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z", "M-4-4H4V4H-4z", "M0-5 5 4H-5z", "M0-6 6 0 0 6-6 0z"];

function maps(root, model) {
  const get = name => model.get(name), set = changes => { model.set(changes); model.save_changes(); }, names = get("labels");
  const bar = make("div", root, {className: "bar"}), label = make("label", bar, {textContent: "colour by "}), by = make("select", label, {ariaLabel: "colour by"});
  for (const column of Object.keys(get("columns"))) make("option", by, {textContent: column});
  const plots = make("div", root, {className: "maps", innerHTML: get("maps")}), legend = make("div", root, {className: "legend"}), status = make("p", root);
  status.setAttribute("role", "status");
  let cursor = -1;

  const toggled = (clips, j) => clips.includes(j) ? clips.filter(i => i !== j) : [...clips, j];
  for (const plot of plots.querySelectorAll("svg")) {
    const box = plot.querySelector("rect"), place = e => [e.clientX - plot.getBoundingClientRect().left, e.clientY - plot.getBoundingClientRect().top];
    let from = null;
    const sides = e => [0, 1].map(c => [from[c], place(e)[c]].sort((a, b) => a - b));
    plot.setAttribute("data-lm-suppress-shortcuts", "true");
    plot.onpointerdown = e => { plot.setPointerCapture(e.pointerId); from = place(e); };
    plot.onpointermove = e => {
      if (!from) return;
      const [[left, right], [top, bottom]] = sides(e);
      for (const [name, value] of Object.entries({x: left, y: top, width: right - left, height: bottom - top})) box.setAttribute(name, value);
    };
    plot.onpointercancel = () => { from = null; box.setAttribute("width", 0); };
    plot.onpointerup = e => {                                   // a click is a small frame
      const [[left, right], [top, bottom]] = sides(e).map(([low, high]) => [low - 5, high + 5]);
      const inside = [...plot.querySelectorAll("path")].filter(({dataset: {x, y}}) => x > left && x < right && y > top && y < bottom).map(dot => +dot.dataset.clip);
      plot.onpointercancel();
      set({picked: [...new Set(e.shiftKey ? [...get("picked"), ...inside] : inside)]});
    };
    plot.onkeydown = e => {
      const step = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1}[e.key];
      if (!step && e.key !== " ") return;
      e.preventDefault();
      if (!step && cursor >= 0) set({picked: toggled(get("picked"), cursor)});
      if (step) { cursor = (cursor + step + names.length) % names.length; draw(); status.textContent = names[cursor]; }
    };
  }

  function draw() {
    const picked = get("picked"), {colours, shapes, legend: entries} = get("columns")[get("colour")];
    by.value = get("colour");
    plots.classList.toggle("some", picked.length);
    for (const dot of plots.querySelectorAll("path")) {
      const j = +dot.dataset.clip;
      dot.setAttribute("d", SHAPES[shapes[j]]);
      dot.setAttribute("fill", colours[j]);
      dot.classList.toggle("picked", picked.includes(j));
      dot.classList.toggle("at", j === cursor);
    }
    legend.replaceChildren();
    for (const [text, colour, shape] of entries) {
      const mark = `<svg width="14" height="14" viewBox="-7 -7 14 14"><path d="${SHAPES[shape]}" fill="${colour}"/></svg>`;
      make("span", legend, {textContent: text}).insertAdjacentHTML("afterbegin", mark);
    }
    const first = picked.slice(0, 4).map(j => names[j]).join("; ") + (picked.length > 4 ? "; …" : "");
    status.textContent = picked.length ? `${picked.length} of ${names.length} clips picked: ${first}` : "Pick points to see their clips.";
    root.dataset.maps = 1 + +(root.dataset.maps || 0);
  }

  by.onchange = () => set({colour: by.value});
  const show = get("playable") ? player(make("div", root), model) : {clean: () => {}};
  model.on("change:picked change:colour", draw);
  draw();
  return () => { model.off("change:picked change:colour", draw); show.clean(); };
}
