const SIDE = 340, DOT = 4.5;
const SHAPES = [(g, x, y) => g.arc(x, y, DOT, 0, 7), (g, x, y) => g.rect(x - 4, y - 4, 8, 8),
  (g, x, y) => { g.moveTo(x, y - 5); g.lineTo(x + 5, y + 4); g.lineTo(x - 5, y + 4); g.closePath(); },
  (g, x, y) => { g.moveTo(x, y - 6); g.lineTo(x + 6, y); g.lineTo(x, y + 6); g.lineTo(x - 6, y); g.closePath(); }];

function maps(root, model) {
  const get = name => model.get(name), names = get("labels"), points = numbers(Float32Array, get("maps")), N = names.length;
  const bar = make("div", root, {className: "bar"}), label = make("label", bar, {textContent: "colour by "}), by = make("select", label, {ariaLabel: "colour by"});
  for (const column of Object.keys(get("columns"))) make("option", by, {textContent: column});
  const plots = make("div", root, {className: "maps"}), tip = make("div", root, {className: "tip", hidden: true}), legend = make("div", root, {className: "legend"}), status = make("p", root);
  status.setAttribute("role", "status");
  let cursor = null, frame = null;

  const canvases = ["spatial clue", "temporal clue"].map((title, i) => {
    const figure = make("figure", plots), caption = make("figcaption", figure, {textContent: title}), canvas = make("canvas", figure, {tabIndex: 0});
    const at = j => [SIDE / 2 * (1 + 0.95 * points[2 * (i * N + j)]), SIDE / 2 * (1 - 0.95 * points[2 * (i * N + j) + 1])];
    const near = (x, y, most) => { const far = names.map((_, j) => Math.hypot(at(j)[0] - x, at(j)[1] - y)), j = far.indexOf(Math.min(...far)); return far[j] < most ? j : null; };
    canvas.setAttribute("role", "img");
    canvas.ariaLabel = `${title}: ${N} clips as points; arrow keys walk, space picks`;
    canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); frame = {i, from: [e.offsetX, e.offsetY], to: [e.offsetX, e.offsetY]}; };
    canvas.onpointermove = e => {
      if (frame) { frame.to = [e.offsetX, e.offsetY]; draw(); return; }
      const j = near(e.offsetX, e.offsetY, 9);
      tip.hidden = j === null;
      if (j !== null) Object.assign(tip.style, {left: canvas.offsetLeft + at(j)[0] + 10 + "px", top: canvas.offsetTop + at(j)[1] - 26 + "px"});
      tip.textContent = j === null ? "" : names[j];
    };
    canvas.onpointerleave = () => { tip.hidden = true; };
    canvas.onpointercancel = () => { frame = null; draw(); };
    canvas.onpointerup = e => {                                 // a frame that is hardly larger than a point is a click
      if (!frame) return;
      const [a, b] = [0, 1].map(c => [frame.from[c], frame.to[c]].sort((x, y) => x - y)), small = Math.max(a[1] - a[0], b[1] - b[0]) < 5, one = near(e.offsetX, e.offsetY, 9);
      const inside = small ? (one === null ? [] : [one]) : names.map((_, j) => j).filter(j => { const [x, y] = at(j); return x >= a[0] && x <= a[1] && y >= b[0] && y <= b[1]; });
      frame = null;
      pick(e.shiftKey ? [...get("picked"), ...inside] : inside);
    };
    canvas.onkeydown = e => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[e.key];
      if (e.key === " " && cursor !== null) { e.preventDefault(); const now = new Set(get("picked")); if (!now.delete(cursor)) now.add(cursor); pick([...now]); }
      if (!step) return;
      e.preventDefault();
      const [x, y] = cursor === null ? [SIDE / 2, SIDE / 2] : at(cursor);
      let best = null, least = Infinity;                         // the next point that lies mostly in that direction
      names.forEach((_, j) => {
        const [dx, dy] = [at(j)[0] - x, at(j)[1] - y], along = dx * step[0] + dy * step[1], far = Math.hypot(dx, dy);
        if (along > 0 && along >= 0.6 * far && far < least) { best = j; least = far; }
      });
      if (best !== null) { cursor = best; status.textContent = names[best]; draw(); }
    };
    return {canvas, at, i};
  });

  function pick(picked) {
    model.set({picked: [...new Set(picked)]});
    model.save_changes();
  }

  function draw() {
    const {colours, shapes} = get("columns")[by.value], picked = new Set(get("picked")), style = getComputedStyle(root);
    for (const {canvas, at, i} of canvases) {
      const g = fresh(canvas, SIDE, SIDE);
      names.forEach((_, j) => {
        g.globalAlpha = !picked.size || picked.has(j) ? 1 : 0.35;
        g.fillStyle = colours[j];
        g.beginPath(); SHAPES[shapes[j]](g, ...at(j)); g.fill();
        if (!picked.has(j) && j !== cursor) return;
        g.globalAlpha = 1;
        g.strokeStyle = style.color;
        g.lineWidth = j === cursor ? 3 : 1.5;
        g.beginPath(); g.arc(...at(j), 8, 0, 7); g.stroke();
      });
      g.globalAlpha = 1;
      if (frame && frame.i === i) { g.strokeStyle = style.color; g.lineWidth = 1; g.strokeRect(...frame.from, frame.to[0] - frame.from[0], frame.to[1] - frame.from[1]); }
    }
    root.dataset.maps = 1 + +(root.dataset.maps || 0);
  }

  function colour() {
    by.value = get("colour");
    legend.replaceChildren();
    for (const [text, colour, shape] of get("columns")[by.value].legend) {
      const entry = make("span", legend), g = fresh(make("canvas", entry), 14, 14);
      g.fillStyle = colour;
      g.beginPath(); SHAPES[shape](g, 7, 7); g.fill();
      entry.append(text);
    }
    draw();
  }

  function chosen() {
    const picked = get("picked");
    status.textContent = picked.length ? `${picked.length} of ${N} clips picked: ${picked.slice(0, 4).map(j => names[j]).join("; ")}${picked.length > 4 ? "; …" : ""}`
      : "Pick points to see their clips.";
    draw();
  }

  by.onchange = () => { model.set({colour: by.value}); model.save_changes(); };
  const show = get("playable") ? player(make("div", root), model) : {clean: () => {}}, unlook = onLook(root, draw);
  model.on("change:picked", chosen);
  model.on("change:colour", colour);
  colour();
  chosen();
  return () => { model.off("change:picked", chosen); model.off("change:colour", colour); unlook(); show.clean(); };
}
