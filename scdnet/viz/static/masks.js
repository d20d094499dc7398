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

function explorer(root, model) {
  const get = name => model.get(name), top = make("div", root, {className: "top"}), left = make("div", top), right = make("div", top, {className: "settings"});
  const refresh = controls(right, model), status = make("p", right), code = make("pre", right, {tabIndex: 0, ariaLabel: "code that makes this mask"});
  const table = make("div", root, {className: "table"}), list = make("div", table, {className: "names"}), panels = make("div", table, {className: "panels"});
  make("div", list, {className: "head", textContent: "click: seed or not"});
  const buttons = get("names").map((_, j) => make("button", list, {type: "button", onclick: () => toggle(j)}));
  status.setAttribute("role", "status");                        // read aloud when it changes

  function toggle(j) {                                          // a seed or not; seeds that were drawn are then seeds chosen by hand
    const seeds = new Set(get("shown").seeds);
    if (!seeds.delete(j)) seeds.add(j);
    if (!seeds.size) { status.textContent = "A structural mask starts from at least one joint."; return; }
    model.set({spatial: "structural", chosen: [...seeds]});
    model.save_changes();
    refresh();
  }

  const point = frame => panels.querySelector(".cursor")?.setAttribute("x", frame + 0.4);
  const show = player(left, model, {marks: () => get("shown").seeds, onJoint: toggle, onFrame: point});

  function update() {
    const {text, hidden, seeds, ...shown} = get("shown");
    refresh();
    status.textContent = text;
    code.textContent = shown.code;
    panels.innerHTML = shown.panels;
    buttons.forEach((button, j) => Object.assign(button, {
      textContent: (hidden[j] ? "○ " : "● ") + get("names")[j], ariaLabel: `${get("names")[j]}, ${hidden[j] ? "hidden" : "visible"}`, ariaPressed: seeds.includes(j)}));
    show.draw();
    root.dataset.pictures = 1 + +(root.dataset.pictures || 0);
  }

  model.on("change:shown", update);
  update();
  return () => { model.off("change:shown", update); show.clean(); };
}
