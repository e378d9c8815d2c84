// Label maps over images, for the demo page and for the report of an evaluation. `label_view.py` makes what is loaded
// here: the pixels of a map hold places in a list of classes, the low byte in red and the high byte in green.
const labelView = (() => {
  const load = (source) => new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = source;
  });

  const canvas = (width, height) => Object.assign(document.createElement("canvas"), { width, height });

  const pixels = (image) => {
    const context = canvas(image.naturalWidth, image.naturalHeight).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data;
  };

  // the place of each pixel's class
  const numbers = (map) => {
    const bytes = pixels(map);
    return Uint16Array.from({ length: bytes.length / 4 }, (_, i) => bytes[4 * i] + 256 * bytes[4 * i + 1]);
  };

  // a canvas with the colour that colorAt(pixel's number) gives, [red, green, blue]; clear where it gives none
  const layer = (width, height, colorAt) => {
    const made = canvas(width, height);
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      const color = colorAt(i);
      if (color) image.data.set([color[0], color[1], color[2], 255], 4 * i);
    }
    made.getContext("2d").putImageData(image, 0, 0);
    return made;
  };

  // void: slanting bars of two greys
  const hatch = (i, width) => ((i % width) + Math.floor(i / width)) % 8 < 4 ? [70, 70, 70] : [170, 170, 170];

  // the image, and over it layers, each with its opacity of 0 to 1
  const draw = (context, image, layers) => {
    const { width, height } = context.canvas;
    context.globalAlpha = 1;
    context.drawImage(image, 0, 0, width, height);
    for (const [made, opacity] of layers) {
      context.globalAlpha = opacity;
      context.drawImage(made, 0, 0);
    }
    context.globalAlpha = 1;
  };

  return { load, canvas, pixels, numbers, layer, hatch, draw };
})();
