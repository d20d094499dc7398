const SLIDERS = {n: "n, steps of a walk", k: "k, joints to hide", seeds: "seeds, joints to start from", s: "s, cubes of frames", r: "r, cubes to hide"};
const LISTS = {spatial: {structural: "joints: along the body", random: "joints: anywhere"}, temporal: {structural: "frames: in cubes", random: "frames: one by one"}};

function controls(root, model) {
  const get = name => model.get(name), set = changes => { model.set(changes); model.save_changes(); }, parts = {};
  for (const [name, text] of Object.entries(SLIDERS)) {
    const label = make("label", root, {className: "slider"});
    make("span", label, {textContent: text});
    parts[name] = make("input", label, {type: "range", ariaLabel: text});
    parts[name].value_ = make("span", label, {className: "number"});
    // A number of seeds asks for seeds that are drawn; more cubes to hide than there are cubes is nothing.
    parts[name].oninput = () => {
      const value = +parts[name].value;
      set({[name]: value, ...(name === "seeds" ? {chosen: []} : {}), ...(name === "s" ? {r: Math.min(get("r"), value)} : {})});
      refresh();
    };
  }
  const row = make("div", root, {className: "bar"});
  for (const [name, options] of Object.entries(LISTS)) {
    parts[name] = make("select", row, {ariaLabel: name + " mask"});
    for (const [value, textContent] of Object.entries(options)) make("option", parts[name], {value, textContent});
    parts[name].onchange = () => { set({[name]: parts[name].value}); refresh(); };
  }
  const next = make("div", root, {className: "bar"});
  make("button", next, {type: "button", textContent: "new draw", onclick: () => { set({draw: get("draw") + 1, chosen: []}); refresh(); }});
  const label = make("label", next, {textContent: "number of the draw "});
  parts.draw = make("input", label, {type: "number", min: 0, onchange: () => { set({draw: Math.max(0, Math.round(+parts.draw.value))}); refresh(); }});

  function refresh() {                                          // the controls say what holds
    const bounds = get("bounds");
    for (const name of Object.keys(SLIDERS)) {
      [parts[name].min, parts[name].max] = name === "r" ? [0, get("s")] : bounds[name];
      const byHand = name === "seeds" && get("chosen").length;
      parts[name].value = byHand || get(name);
      parts[name].value_.textContent = byHand ? byHand + " by hand" : get(name);
    }
    for (const name of [...Object.keys(LISTS), "draw"]) parts[name].value = get(name);
    for (const name of ["n", "seeds"]) parts[name].disabled = get("spatial") === "random";
  }
  refresh();
  return refresh;
}

const ROW = 15, WALK = 10, WIDE = 256;                           // pixels: a joint's row, a joint's column, all frames

function table(root, model, toggle) {
  const names = model.get("names"), dots = model.get("dots"), height = names.length * ROW;
  const list = make("div", root, {className: "names"}), panel = () => {
    const figure = make("figure", root), head = make("figcaption", figure), hold = make("div", figure, {className: "hold"}), canvas = make("canvas", hold);
    canvas.setAttribute("role", "img");
    return {head, hold, canvas};
  };
  make("div", list, {className: "head", textContent: "click: seed or not"});
  const buttons = names.map((name, j) => make("button", list, {type: "button", onclick: () => toggle(j)}));
  const walks = panel(), frames = panel(), often = panel(), cursor = make("div", frames.hold, {className: "cursor"});
  let hovered = () => "";
  walks.canvas.onpointermove = e => { walks.canvas.title = hovered(Math.floor(e.offsetY / ROW), Math.floor(e.offsetX / WALK)); };

  function say(part, head, text) { part.head.textContent = head; part.canvas.ariaLabel = text; }

  function draw() {
    const shown = model.get("shown"), n = model.get("n"), V = names.length, T = shown.temporal.byteLength, style = getComputedStyle(root);
    const D = numbers(Float32Array, shown.walks), share = numbers(Float32Array, shown.often), score = numbers(Float32Array, shown.score);
    const hidden = numbers(Uint8Array, shown.spatial), gone = numbers(Uint8Array, shown.temporal), largest = Math.max(...D), blue = "#0072B2";
    buttons.forEach((button, j) => {
      button.textContent = (hidden[j] ? "○ " : "● ") + names[j];
      button.ariaLabel = `${names[j]}, ${hidden[j] ? "hidden" : "visible"}`;
      button.ariaPressed = shown.seeds.includes(j);
    });

    let g = fresh(walks.canvas, V * WALK + 36, height);
    for (let i = 0; i < V; i++) for (let j = 0; j < V; j++) {
      g.globalAlpha = D[i * V + j] / largest;
      g.fillStyle = blue;
      g.fillRect(j * WALK, i * ROW, WALK - 1, ROW - 1);
    }
    g.globalAlpha = 1;
    g.strokeStyle = g.fillStyle = style.color;
    for (const j of shown.seeds) g.strokeRect(j * WALK - 0.5, 0.5, WALK, height - 1);
    g.font = "11px sans-serif";
    g.textAlign = "right";
    if (score.length) score.forEach((x, j) => g.fillText(x + (hidden[j] ? " ○" : "  "), V * WALK + 34, (j + 0.75) * ROW));
    hovered = (i, j) => j < V && i < V ? `${names[i]} to ${names[j]}: ${D[i * V + j]} walks` : score.length && i < V ? `${names[i]}: score ${score[i]}` : "";
    say(walks, `D: walks of ${n} steps, 0 to ${largest}; score`,
      `Walks of ${n} steps between all joints, from 0 to ${largest}; columns of the seeds are framed: ${shown.seeds.map(j => names[j]).join(", ")}`);

    g = fresh(frames.canvas, WIDE, height);
    const wide = WIDE / T;
    g.fillStyle = "#56B4E9";
    for (let j = 0; j < V; j++) for (let t = 0; t < T; t++) if (!hidden[j] && !gone[t]) g.fillRect(t * wide, j * ROW, wide - 0.8, ROW - 1);
    say(frames, `${T} frames: blue is visible, blank is hidden`, shown.text);

    g = fresh(often.canvas, 130, height);
    g.font = "11px sans-serif";
    share.forEach((x, j) => {
      g.fillStyle = dots[j] || style.color;
      g.fillRect(0, j * ROW + 2, 90 * x, ROW - 4);
      g.fillStyle = style.color;
      g.fillText((100 * x).toFixed(0) + " %", 90 * x + 4, (j + 0.75) * ROW);
    });
    const most = share.indexOf(Math.max(...share)), least = share.indexOf(Math.min(...share));
    say(often, "hidden in 10 000 draws", `How often joints are hidden: most ${names[most]}, ${(100 * share[most]).toFixed(0)} %; least ${names[least]}, ${(100 * share[least]).toFixed(0)} %`);
  }

  return {draw, point: frame => { cursor.style.left = (frame + 0.5) * WIDE / model.get("shown").temporal.byteLength + "px"; }, frames: frames.canvas};
}

function explorer(root, model) {
  const get = name => model.get(name), top = make("div", root, {className: "top"}), left = make("div", top), right = make("div", top, {className: "settings"});
  const refresh = controls(right, model), status = make("p", right), code = make("pre", right, {tabIndex: 0, ariaLabel: "code that makes this mask"});
  status.setAttribute("role", "status");                        // read aloud when it changes

  function toggle(j) {                                          // a seed or not; seeds that were drawn are then seeds chosen by hand
    const seeds = new Set(get("shown").seeds);
    if (!seeds.delete(j)) seeds.add(j);
    if (!seeds.size) { status.textContent = "A structural mask starts from at least one joint."; return; }
    model.set({spatial: "structural", chosen: [...seeds]});
    model.save_changes();
    refresh();
  }

  const lower = table(make("div", root, {className: "table"}), model, toggle);
  const show = player(left, model, {marks: () => get("shown").seeds, onJoint: toggle, onFrame: frame => lower.point(frame)});
  lower.frames.onclick = e => show.seek(Math.floor(e.offsetX / WIDE * get("shown").temporal.byteLength));

  function update() {
    refresh();
    status.textContent = get("shown").text;
    code.textContent = get("shown").code;
    lower.draw();
    show.draw();
    root.dataset.pictures = 1 + +(root.dataset.pictures || 0);
  }

  const unlook = onLook(root, lower.draw);
  model.on("change:shown", update);
  update();
  return () => { model.off("change:shown", update); unlook(); show.clean(); };
}
