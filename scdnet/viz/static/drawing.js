// JupyterLab walks from cell to cell with the arrow keys. An element with this attribute keeps its keys for itself.
function make(tag, parent, properties = {}) {
  const element = parent.appendChild(Object.assign(document.createElement(tag), properties));
  element.setAttribute("data-lm-suppress-shortcuts", "true");
  return element;
}

// Bytes from Python come as a view that need not begin at a multiple of four. A copy does.
const numbers = (Type, bytes) => new Type(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));

// An empty canvas as sharp as the screen; its unit of length stays the CSS pixel.
function fresh(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1, g = canvas.getContext("2d");
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    Object.assign(canvas.style, {width: width + "px", height: height + "px"});
  }
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  return g;
}

// Draw again when the theme changes (JupyterLab, VS Code and Colab each set an attribute of the page; a stylesheet that comes late ends a transition) and when `root` comes into sight.
function onLook(root, draw, sight) {
  const watch = new MutationObserver(() => requestAnimationFrame(draw)), eye = new IntersectionObserver(([entry]) => sight(entry.isIntersecting));
  for (const place of [document.documentElement, document.body]) watch.observe(place, {attributes: true});
  root.addEventListener("transitionend", draw);
  eye.observe(root);
  return () => { watch.disconnect(); eye.disconnect(); };
}

// Seen from an azimuth and an elevation (radians), where on a canvas of this size is a point (right, away, height)?
const project = ([p, q, h], {azimuth: a, elevation: e}, size) => [
  size / 2 * (1 + 0.96 * (p * Math.cos(a) + q * Math.sin(a))),
  size / 2 * (1 - 0.96 * (h * Math.cos(e) + (q * Math.cos(a) - p * Math.sin(a)) * Math.sin(e)))];

// Every joint of every person at a time that may lie between two frames: [x, y], or null where it is absent.
function places(clip, time, view, size) {
  const last = clip.frames - 1, t = Math.min(Math.floor(time), last), part = t < last ? time - t : 0, each = clip.points.length / clip.frames;
  return Array.from({length: each / 3}, (_, j) => {
    const now = t * each + 3 * j, then = t < last && !isNaN(clip.points[now + each]) ? now + each : now;
    if (isNaN(clip.points[now])) return null;
    return project([0, 1, 2].map(c => clip.points[now + c] + part * (clip.points[then + c] - clip.points[now + c])), view, size);
  });
}

// Bones as lines, joints as dots. A hidden joint is a ring, its bones are dotted, and a second person is thinner.
function paint(g, spots, body, hidden, look) {
  const count = body.names.length, ring = j => hidden && hidden[j];
  for (let m = 0; m < spots.length / count; m++) {
    const at = spots.slice(m * count, (m + 1) * count);
    g.lineCap = "round";
    g.lineWidth = m ? 1.8 : 3.2;
    for (const [a, b, colour] of body.bones) {
      if (!at[a] || !at[b]) continue;
      g.strokeStyle = colour || look.color;
      g.setLineDash(ring(a) || ring(b) ? [0.1, 5] : []);
      g.beginPath(); g.moveTo(...at[a]); g.lineTo(...at[b]); g.stroke();
    }
    g.setLineDash([]);
    g.lineWidth = 1.6;
    at.forEach((spot, j) => {
      if (!spot) return;
      g.strokeStyle = body.dots[j] || look.color;
      g.fillStyle = ring(j) ? look.backgroundColor : g.strokeStyle;
      g.beginPath(); g.arc(...spot, ring(j) ? 4.2 : 2.6, 0, 7); g.fill(); g.stroke();
    });
  }
}
