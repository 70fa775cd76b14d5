"use strict";
(() => {
  const byId = (name) => document.getElementById(name);
  const stored = (name) => JSON.parse(byId(name)?.textContent ?? "null");

  // The operating point: counts of other image-level thresholds, all from metrics.json.
  const operating = stored("operating");
  const slider = byId("threshold");
  if (operating && slider) {
    const who = byId("operating-class"), rule = byId("operating-rule");
    const step = (text) => text.replaceAll("~", "~0").replaceAll("/", "~1");
    const put = (id, value, from) => {
      const element = byId(id);
      element.value = value;
      element.textContent = value.toLocaleString("en-US");
      element.dataset.from = from;
    };
    const share = (id, part, whole) => {
      byId(id).textContent = whole ? (100 * part / whole).toFixed(1) + " %" : "–";
    };
    const update = () => {
      const name = who.value, at = Number(slider.value);
      const curve = operating.curves[name][rule.value], strips = operating.strips[name];
      const found = curve.found[at], stopped = curve.stopped[at];
      const from = `/operating_curves/${step(name)}/${rule.value}`, all = `/strips/${step(name)}`;
      put("at-found", found, `${from}/found/${at}`);
      put("at-stopped", stopped, `${from}/stopped/${at}`);
      put("at-missed", strips.defective - found, `${all}/defective - ${from}/found/${at}`);
      put("at-passed", strips.clean - stopped, `${all}/clean - ${from}/stopped/${at}`);
      put("at-defective", strips.defective, `${all}/defective`);
      put("at-clean", strips.clean, `${all}/clean`);
      share("at-found-share", found, strips.defective);
      share("at-stopped-share", stopped, strips.clean);
      const text = `${(at / 255).toFixed(3)}`;
      byId("at-threshold").textContent = text;
      slider.setAttribute("aria-valuetext", `probability ${text}, ${found} of ${strips.defective} defective strips found, ${stopped} of ${strips.clean} clean ones stopped`);
      byId("operating-note").textContent = [
        strips.defective ? "" : "No strip here has this defect: nothing can be said of what is found.",
        strips.clean ? "" : "No strip here is without this defect: nothing can be said of what is falsely stopped.",
      ].join(" ").trim();
      draw(operating.curves[name], strips, at);
    };
    const box = byId("operating-plot").dataset;
    const across = (v) => Number(box.left) + v * (Number(box.right) - Number(box.left));
    const up = (v) => Number(box.bottom) + v * (Number(box.top) - Number(box.bottom));
    const ratio = (part, whole) => whole ? part / whole : 0;
    const draw = (curves, strips, at) => {
      const place = (curve) => curve.found.map((f, i) =>
        [across(ratio(curve.stopped[i], strips.clean)), up(ratio(f, strips.defective))]);
      const line = (id, points) =>
        byId(id).setAttribute("d", "M" + points.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L"));
      const points = place(curves[rule.value]);
      line("operating-line", points);
      line("operating-other", place(curves[rule.value === "head" ? "head_and_mask" : "head"]));
      byId("dot").setAttribute("cx", points[at][0]);
      byId("dot").setAttribute("cy", points[at][1]);
      byId("shipped").setAttribute("transform",
        `translate(${across(ratio(strips.stopped, strips.clean))} ${up(ratio(strips.found, strips.defective))})`);
    };
    // The masks alone are the decision; the head alone has a threshold of its own.
    const reset = () => { slider.value = rule.value === "head" ? operating.own[who.value] : 0; update(); };
    who.addEventListener("change", reset);
    rule.addEventListener("change", reset);
    slider.addEventListener("input", update);
    byId("operating-reset").addEventListener("click", reset);
    reset();
  }

  // The gallery: layers by key, filters, order.
  const gallery = byId("shots");
  if (gallery) {
    const shots = [...gallery.children], layers = ["truth", "prediction", "probability", "names", "doubts"].filter((layer) => byId(`layer-${layer}`));
    const kind = byId("gallery-kind"), one = byId("gallery-class"), order = byId("gallery-order");
    const isOn = (layer) => gallery.classList.contains(`show-${layer}`);
    const set = (layer, on) => {
      gallery.classList.toggle(`show-${layer}`, on);
      byId(`layer-${layer}`).setAttribute("aria-pressed", String(on));
    };
    const names = shots.map((shot) => [...shot.querySelectorAll(".name")]);
    // A name that touches one before it is hidden: all places are read before the first is written.
    const uncover = () => {
      const on = {false: isOn("prediction"), true: isOn("truth")};
      const covered = names.flatMap((some) => {
        const taken = [];
        return some.filter((name) => {
          if (!on[name.classList.contains("true")]) return false;
          const box = name.getBoundingClientRect();
          const touches = taken.some((other) => box.left < other.right && other.left < box.right && box.top < other.bottom && other.top < box.bottom);
          if (!touches) taken.push(box);
          return touches;
        });
      });
      names.flat().forEach((name) => name.classList.remove("covered"));
      covered.forEach((name) => name.classList.add("covered"));
    };
    const toggle = (layer) => { set(layer, !isOn(layer)); uncover(); };
    const bare = () => { layers.filter((layer) => layer !== "names").forEach((layer) => set(layer, false)); uncover(); };
    layers.forEach((layer) => byId(`layer-${layer}`).addEventListener("click", () => toggle(layer)));
    byId("layer-image").addEventListener("click", bare);
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      if (event.key === "1") bare();
      else if (layers[event.key - 2]) toggle(layers[event.key - 2]);
      else return;
      event.preventDefault();
    });
    const arrange = () => {
      const shown = shots.filter((shot) => {
        const fits = (!kind.value || shot.dataset.kinds.split("|").includes(kind.value)) && (!one.value || JSON.parse(shot.dataset.classes).includes(one.value));
        shot.hidden = !fits;
        return fits;
      });
      const [key, way] = order.value.split(" ");
      const of = key === "place" ? (shot) => Number(JSON.parse(shot.dataset.places)[kind.value] ?? shot.dataset.place) : (shot) => Number(shot.dataset[key]);
      [...shots].sort((a, b) => (way === "down" ? of(b) - of(a) : of(a) - of(b)) || a.dataset.place - b.dataset.place)
        .forEach((shot) => gallery.append(shot));
      byId("gallery-count").textContent = `${shown.length} of ${shots.length} images`;
      byId("gallery-empty").hidden = shown.length > 0;
      uncover();
    };
    [kind, one, order].forEach((control) => control.addEventListener("change", arrange));
    gallery.addEventListener("click", (event) => {
      const button = event.target.closest(".enlarge");
      if (!button) return;
      const large = button.closest(".shot").classList.toggle("large");
      button.setAttribute("aria-expanded", String(large));
      uncover();
    });
    window.addEventListener("resize", uncover);
    document.querySelectorAll("a[href^='#image-']").forEach((link) => link.addEventListener("click", () => {
      kind.value = one.value = "";
      arrange();
    }));
    arrange();
  }
})();
