function player(root, model, {marks = () => [], onJoint = () => {}, onFrame = () => {}} = {}) {
  const home = root.closest(".scdnet"), get = name => model.get(name), set = changes => { model.set(changes); model.save_changes(); };
  const stage = make("div", root, {className: "stage"}), tip = make("div", root, {className: "tip", hidden: true}), bar = make("div", root, {className: "bar"});
  const button = make("button", bar, {type: "button"});
  const slider = make("input", bar, {type: "range", min: 0, ariaLabel: "frame"});
  const clock = make("span", bar, {className: "clock"});
  const speed = make("select", bar, {ariaLabel: "speed"});
  for (const s of [0.1, 0.25, 0.5, 1, 2, 4]) make("option", speed, {value: s, textContent: s + "×"});
  let clips = [], body, frames = 1, time = get("frame"), before = 0, told = 0, request = 0, seen = false, drag = null, count = 0;

  function load() {                                             // new clips: a canvas with a title for each
    const points = numbers(Float32Array, get("points"));
    body = {names: get("names"), bones: get("bones"), dots: get("dots")};
    stage.replaceChildren();
    if (get("across")) Object.assign(stage.style, {display: "grid", gridTemplateColumns: `repeat(${get("across")}, max-content)`});
    let p = 0;
    clips = get("clips").map(({title, frames, persons}) => {
      const each = 3 * persons * body.names.length, figure = make("figure", stage);
      make("figcaption", figure, {textContent: title});
      const clip = {frames, canvas: make("canvas", figure, {tabIndex: 0}), points: points.subarray(p, p += frames * each)};
      clip.canvas.setAttribute("role", "img");
      clip.canvas.ariaLabel = `${title || "a person"}, ${persons} person${persons > 1 ? "s" : ""}, ${frames} frames; arrow keys turn the view`;
      listen(clip);
      return clip;
    });
    frames = Math.max(1, ...clips.map(clip => clip.frames));
    slider.max = frames - 1;
    time = Math.min(time, frames - 1);
    mask();
  }

  function mask() {                                             // other joints hidden: the canvases stay, and keep the focus
    const masked = numbers(Uint8Array, get("masked"));
    let h = 0;
    for (const clip of clips) clip.masked = masked.length ? masked.subarray(h, h += clip.frames * body.names.length) : null;
    draw();
  }

  function draw() {
    const size = get("size"), view = {azimuth: get("azimuth") * Math.PI / 180, elevation: get("elevation") * Math.PI / 180};
    const style = getComputedStyle(home), look = {color: style.color, backgroundColor: style.backgroundColor}, frame = Math.floor(time);
    for (const clip of clips) {                                 // a shorter clip waits on its last frame
      const g = fresh(clip.canvas, size, size), t = Math.min(frame, clip.frames - 1), V = body.names.length;
      clip.spots = places(clip, time, view, size);
      paint(g, clip.spots, body, clip.masked && clip.masked.subarray(t * V, (t + 1) * V), look);
      for (const j of marks()) if (clip.spots[j]) { g.strokeStyle = look.color; g.lineWidth = 1.5; g.beginPath(); g.arc(...clip.spots[j], 8, 0, 7); g.stroke(); }
    }
    slider.value = frame;
    const now = `frame ${frame}, ${(frame / get("fps")).toFixed(2)} s`;
    slider.setAttribute("aria-valuetext", now);
    clock.textContent = now;
    root.dataset.drawn = ++count;
    onFrame(frame);
  }

  function nearest(clip, x, y) {                                // of all joints within 14 pixels of the pointer
    const far = clip.spots.map(spot => spot ? Math.hypot(spot[0] - x, spot[1] - y) : Infinity), best = far.indexOf(Math.min(...far));
    return far[best] < 14 ? best : null;
  }

  function turn(azimuth, elevation) {
    model.set({azimuth: (azimuth + 540) % 360 - 180, elevation: Math.max(-90, Math.min(90, elevation))});
  }

  function listen(clip) {
    const canvas = clip.canvas;
    canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); drag = {x: e.clientX, y: e.clientY, a: get("azimuth"), e: get("elevation"), far: 0}; };
    canvas.onpointermove = e => {
      if (drag) {
        drag.far = Math.max(drag.far, Math.hypot(e.clientX - drag.x, e.clientY - drag.y));
        if (drag.far > 4) turn(drag.a + (e.clientX - drag.x) / 2, drag.e + (e.clientY - drag.y) / 2);    // half a degree for a pixel
        return;
      }
      const j = nearest(clip, e.offsetX, e.offsetY), V = body.names.length;
      tip.hidden = j === null;
      if (j === null) return;
      tip.textContent = body.names[j % V] + (clip.spots.length > V ? `, person ${Math.floor(j / V) + 1}` : "");
      Object.assign(tip.style, {left: canvas.offsetLeft + clip.spots[j][0] + 10 + "px", top: canvas.offsetTop + clip.spots[j][1] - 26 + "px"});
    };
    canvas.onpointerup = e => {
      const j = drag && drag.far <= 4 ? nearest(clip, e.offsetX, e.offsetY) : null;
      drag = null;
      model.save_changes();                                     // Python learns of the view when the hand lets go
      if (j !== null) onJoint(j % body.names.length);
    };
    canvas.onpointercancel = () => { drag = null; };
    canvas.onpointerleave = () => { tip.hidden = true; };
    canvas.onkeydown = e => {
      const step = {ArrowLeft: [-5, 0], ArrowRight: [5, 0], ArrowUp: [0, 5], ArrowDown: [0, -5]}[e.key];
      if (!step) return;
      e.preventDefault();
      turn(get("azimuth") + step[0], get("elevation") + step[1]);
      model.save_changes();
    };
  }

  function seek(frame) { time = frame; set({playing: false, frame}); draw(); }

  function tick(now) {
    time += Math.max(0, now - before) / 1000 * get("fps") * get("speed");
    before = now;
    if (time >= frames) time = 0;
    draw();
    if (now - told > 500) { told = now; set({frame: Math.floor(time)}); }
    request = requestAnimationFrame(tick);
  }

  function run() {                                              // at most one loop, and none that nobody sees
    cancelAnimationFrame(request);
    const playing = get("playing");
    button.textContent = playing ? "❚❚" : "▶";
    button.ariaLabel = playing ? "pause" : "play";
    if (playing && seen) { before = performance.now(); request = requestAnimationFrame(tick); }
  }

  function halt() {                                             // a pause shows a frame that was recorded
    if (!get("playing")) { time = Math.floor(time); set({frame: time}); draw(); }
    run();
  }

  button.onclick = () => set({playing: !get("playing")});
  slider.oninput = () => seek(+slider.value);
  speed.onchange = () => set({speed: +speed.value});
  const follow = {
    "change:playing": halt, "change:azimuth change:elevation change:size": draw, "change:points change:clips": load, "change:masked": mask,
    "change:speed": () => { speed.value = get("speed"); }, "change:frame": () => { if (Math.floor(time) !== get("frame")) { time = get("frame"); draw(); } }};
  for (const [events, action] of Object.entries(follow)) model.on(events, action);
  const unlook = onLook(home, draw, visible => { seen = visible; if (seen) draw(); run(); });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) model.set("playing", false);
  speed.value = get("speed");
  load();
  run();
  return {draw, seek, clean: () => { unlook(); cancelAnimationFrame(request); for (const [events, action] of Object.entries(follow)) model.off(events, action); }};
}
