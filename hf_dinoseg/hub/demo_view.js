// The result of the demo page: the image with its classes over it, drawn by `labelView` (visualize/label_view.js).
// Everything here acts in the browser, on a label map that was sent once: opacity, classes on and off, the class under
// the pointer.
const hidden = new Set();
let opacity = 60;

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

async function show(text) {
  const root = element.querySelector(".dinoseg-view");
  if (!root) return;
  if (!text) {
    root.replaceChildren(make("p", { class: "hint" }, "The result appears here."));
    return;
  }
  const data = JSON.parse(text);
  const [photo, map] = await Promise.all([data.image, data.labels].map(labelView.load));
  const [width, height] = [map.naturalWidth, map.naturalHeight];
  const classOf = labelView.numbers(map); // place in data.classes

  const canvas = make("canvas", {
    width, height, tabindex: 0, role: "img",
    "aria-label": "Image with its classes. Arrow keys move a pointer that reads the class.",
  });
  const readout = make("output", { class: "readout", "aria-live": "polite" });
  const slider = make("input", { type: "range", min: 0, max: 100, value: opacity, "aria-label": "Opacity of the classes" });
  const percent = make("span", { class: "percent" });
  const legend = make("div", { class: "legend", role: "group", "aria-label": "Classes" });
  let fill, edge;
  const context = canvas.getContext("2d");
  let cross = null;

  const paint = () => {
    const colors = data.classes.map((one) => one.clear || hidden.has(one.id) ? null : one.color);
    fill = labelView.layer(width, height, (i) => colors[classOf[i]]);
    edge = labelView.layer(width, height, (i) => {
      const right = (i + 1) % width ? classOf[i + 1] : classOf[i];
      const below = i + width < classOf.length ? classOf[i + width] : classOf[i];
      return right !== classOf[i] || below !== classOf[i] ? colors[classOf[i]] : null;
    });
    draw();
  };

  const draw = () => {
    const thin = Math.min(1, (2 * opacity) / 100); // borders keep thin regions visible
    labelView.draw(context, photo, [[fill, opacity / 100], [edge, thin]]);
    percent.textContent = `${opacity} %`;
    if (!cross) return;
    const arm = Math.max(6, width / 60);
    for (const [color, line] of [["#000", 3], ["#fff", 1]]) {
      context.strokeStyle = color;
      context.lineWidth = line * Math.max(1, width / 600);
      context.beginPath();
      context.moveTo(cross.x - arm, cross.y + 0.5);
      context.lineTo(cross.x + arm, cross.y + 0.5);
      context.moveTo(cross.x + 0.5, cross.y - arm);
      context.lineTo(cross.x + 0.5, cross.y + arm);
      context.stroke();
    }
  };

  const read = (x, y) => {
    const one = data.classes[classOf[y * width + x]];
    const swatch = make("i", { class: one.void ? "swatch void" : "swatch" });
    if (!one.void) swatch.style.background = `rgb(${one.color})`;
    readout.replaceChildren(swatch, one.label);
    for (const button of legend.children) button.classList.toggle("here", Number(button.dataset.id) === one.id);
  };
  const rest = () => {
    readout.replaceChildren("Point at the image to read a class.");
    for (const button of legend.children) button.classList.remove("here");
  };

  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height); // object-fit: contain leaves margins
    const x = Math.floor((event.clientX - box.left - (box.width - scale * width) / 2) / scale);
    const y = Math.floor((event.clientY - box.top - (box.height - scale * height) / 2) / scale);
    if (x >= 0 && y >= 0 && x < width && y < height) read(x, y);
    else rest();
  });
  canvas.addEventListener("pointerleave", rest);
  canvas.addEventListener("blur", () => { cross = null; draw(); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const far = event.shiftKey ? 1 : Math.max(1, Math.round(width / 64));
    const from = cross ?? { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    cross = {
      x: Math.min(width - 1, Math.max(0, from.x + step[0] * far)),
      y: Math.min(height - 1, Math.max(0, from.y + step[1] * far)),
    };
    draw();
    read(cross.x, cross.y);
  });
  slider.addEventListener("input", () => { opacity = Number(slider.value); draw(); });

  for (const one of data.classes.filter((one) => one.share > 0)) {
    const swatch = make("i", { class: one.void ? "swatch void" : "swatch" });
    if (!one.void) swatch.style.background = `rgb(${one.color})`;
    const share = make("span", { class: "share" }, one.share < 0.001 ? "< 0.1 %" : `${(100 * one.share).toFixed(1)} %`);
    const button = make("button", { type: "button", "data-id": one.id, "aria-pressed": !hidden.has(one.id) });
    button.append(swatch, make("span", { class: "name" }, one.label), share);
    if (one.clear) {
      button.disabled = true; // drawn as the image itself: nothing to hide
      button.setAttribute("title", "shown as the image");
      button.removeAttribute("aria-pressed");
    }
    button.addEventListener("click", () => {
      if (!hidden.delete(one.id)) hidden.add(one.id);
      button.setAttribute("aria-pressed", !hidden.has(one.id));
      paint();
    });
    legend.append(button);
  }

  root.replaceChildren(
    canvas,
    readout,
    make("label", { class: "opacity" }, make("span", {}, "Opacity"), slider, percent),
    legend,
  );
  rest();
  paint();
}

watch("value", () => show(props.value));
show(props.value);
