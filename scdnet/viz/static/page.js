// A clip on a page without Python: the player's traits are an object, of which only the player itself hears.
function still(traits) {
  const actions = {};
  return {
    get: name => traits[name],
    set(changes, value) {
      for (const [name, now] of Object.entries(typeof changes === "string" ? {[changes]: value} : changes)) {
        if (traits[name] === now) continue;
        traits[name] = now;
        for (const action of actions["change:" + name] || []) action();
      }
    },
    save_changes() {},
    on(events, action) { for (const event of events.split(" ")) (actions[event] ||= []).push(action); },
  };
}

// Coordinates travel as 16-bit numbers in base64, 10 000 for 1; the least of them stands for a missing joint.
function clipOnPage(root, traits) {
  const whole = new Int16Array(Uint8Array.from(atob(traits.points), letter => letter.charCodeAt(0)).buffer);
  const points = Float32Array.from(whole, x => x === -32768 ? NaN : x / 10000);
  root.textContent = "";
  player(root, still({...traits, points: new Uint8Array(points.buffer), masked: new Uint8Array(0)}));
}
