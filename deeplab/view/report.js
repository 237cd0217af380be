// The report: units of the confusion matrix; every image with its masks, sorted, filtered and enlarged.
{
  const find = (id) => document.getElementById(id);
  const perCent = (value) => (value === null || value === undefined ? "-" : `${(100 * value).toFixed(1)} %`);
  const { names, colors, background, images } = JSON.parse(find("data").textContent);
  const VOID = 255;

  // ---- The confusion matrix in other units.
  const cells = [...document.querySelectorAll("#matrix td")];
  const size = names.length;
  const counts = cells.map((cell) => Number(cell.dataset.pixels));
  const rows = names.map((_, row) => names.reduce((sum, _, column) => sum + counts[row * size + column], 0));
  const columns = names.map((_, column) => names.reduce((sum, _, row) => sum + counts[row * size + column], 0));
  for (const choice of document.querySelectorAll("#units input")) {
    choice.addEventListener("change", () => {
      cells.forEach((cell, index) => {
        const total = choice.value === "columns" ? columns[index % size] : rows[Math.floor(index / size)];
        const share = total ? counts[index] / total : 0;
        cell.style.setProperty("--heat", Math.round(100 * Math.sqrt(share)) + "%");
        const rounded = Math.round(100 * share);
        cell.textContent = choice.value === "pixels" ? counts[index].toLocaleString("en") : rounded || "";
      });
      find("matrix_caption").textContent = choice.dataset.caption;
      dispatchEvent(new Event("resize"));
    });
  }

  // ---- Masks: unpacked when an image comes into sight.
  const unpacked = new Map();
  const masksOf = async (item) => {
    if (!unpacked.has(item)) {
      const packed = Uint8Array.from(atob(item.masks), (letter) => letter.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
      const both = new Uint8Array(await new Response(stream).arrayBuffer());
      const truth = both.subarray(0, both.length / 2);
      unpacked.set(item, { truth, prediction: truth.map((value, index) => value ^ both[truth.length + index]) });
    }
    return unpacked.get(item);
  };

  // Of a class if one is chosen, else of the foreground as a whole; without a background every error is of a wrong class.
  const KINDS = { missed: [213, 94, 0], "false alarm": [86, 180, 233], "wrong class": [240, 228, 66] };
  const kindOf = (truth, prediction, chosen) => {
    if (truth === VOID || truth === prediction) return null;
    if (chosen !== null) return truth === chosen ? "missed" : prediction === chosen ? "false alarm" : null;
    if (background && prediction === 0) return "missed";
    return background && truth === 0 ? "false alarm" : "wrong class";
  };

  const paint = async (canvas, item, layer, chosen) => {
    const masks = await masksOf(item);
    const [width, height] = item.grid;
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let index = 0; index < width * height; index++) {
      const kind = layer === "errors" ? kindOf(masks.truth[index], masks.prediction[index], chosen) : null;
      const label = layer === "errors" || layer === "photo" ? VOID : masks[layer][index];
      const isShown = label !== VOID && !(background && label === 0) && (chosen === null || label === chosen);
      const color = kind ? KINDS[kind] : isShown ? colors[label] : null;
      if (color) pixels.data.set([...color, 255], 4 * index);
    }
    context.putImageData(pixels, 0, 0);
  };

  // ---- The cards.
  const chosenClass = () => (find("class").value === "" ? null : Number(find("class").value));
  const worst = (item) => Object.entries(item.iou).sort((one, other) => one[1] - other[1])[0];
  const first = (value) => (value === null || value === undefined ? Infinity : value);
  const wrong = (item, chosen) =>
    chosen === null ? Object.values(item.wrong).reduce((sum, each) => sum + each, 0) : item.wrong[chosen];
  const ORDERS = {
    worst: (item) => first(item.mean),
    best: (item) => first(item.mean === null ? null : -item.mean),
    worst_class: (item, chosen) => first(chosen === null ? worst(item)?.[1] : item.iou[chosen]),
    most_wrong: (item, chosen) => -wrong(item, chosen),
    worsened: (item) => first(item.before === null || item.mean === null ? null : item.mean - item.before),
    improved: (item) => first(item.before === null || item.mean === null ? null : item.before - item.mean),
  };

  const cards = new Map();
  const inSight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) refresh(target);
  }, { rootMargin: "300px" });
  const refresh = (card) => {
    const wanted = `${find("layer").value} ${find("class").value}`;
    if (card.dataset.drawn === wanted) return;
    card.dataset.drawn = wanted;
    paint(card.querySelector("canvas"), card.item, find("layer").value, chosenClass());
  };
  const make = (tag, values = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), values);
    element.append(...children);
    return element;
  };
  const cardOf = (item) => {
    if (!cards.has(item)) {
      const photo = make("img", { loading: "lazy", decoding: "async", alt: "", src: item.photo });
      const frame = make("span", { className: "frame" }, photo, make("canvas"));
      frame.style.aspectRatio = item.grid.join("/");
      const button = make("button", { type: "button" }, frame, make("b", { textContent: item.name }), make("span"));
      button.addEventListener("click", () => open(item));
      const card = make("li", { item }, button);
      cards.set(item, card);
    }
    return cards.get(item);
  };

  let shown = [];
  let turn = 0;
  const lay = (start, mine, order, chosen) => {
    if (mine !== turn) return; // sorted anew meanwhile
    for (const item of shown.slice(start, start + 60)) {
      const card = cardOf(item);
      const low = worst(item);
      const parts = [`mean IoU ${perCent(item.mean)}`];
      if (chosen !== null) parts.push(`${names[chosen]} ${perCent(item.iou[chosen])}`);
      else if (low) parts.push(`worst: ${names[low[0]]} ${perCent(low[1])}`);
      if (order === "worsened" || order === "improved") parts.push(`was ${perCent(item.before)}`);
      card.querySelector("button > span:last-child").textContent = parts.join(", ");
      find("gallery").append(card);
      inSight.observe(card);
    }
    if (start + 60 < shown.length) setTimeout(() => lay(start + 60, mine, order, chosen));
  };
  const arrange = () => {
    const chosen = chosenClass();
    const order = find("sort").value;
    const key = ORDERS[order];
    shown = images.filter((item) => chosen === null || chosen in item.iou);
    if (key) {
      const keys = new Map(shown.map((item) => [item, key(item, chosen)]));
      shown.sort((one, other) => keys.get(one) - keys.get(other) || wrong(other, chosen) - wrong(one, chosen));
    }
    inSight.disconnect();
    find("gallery").replaceChildren();
    lay(0, ++turn, order, chosen);
    find("count").textContent = `${shown.length.toLocaleString("en")} of ${images.length.toLocaleString("en")} images`;
    find("kinds").hidden = find("layer").value !== "errors";
  };
  for (const id of ["sort", "layer"]) find(id).addEventListener("change", arrange);
  find("class").addEventListener("change", () => {
    if (chosenClass() !== null) find("sort").value = "worst_class";
    arrange();
  });
  for (const link of document.querySelectorAll("a[data-class]")) {
    link.addEventListener("click", () => {
      find("class").value = link.dataset.class;
      find("class").dispatchEvent(new Event("change"));
    });
  }

  // ---- One image, large: a slider between truth and prediction, and what is under the pointer.
  const viewer = find("viewer");
  const stage = find("stage");
  let current = null;
  const swatch = (index) => {
    const square = make("i", { className: "swatch" });
    square.style.background = `rgb(${colors[index]})`;
    return square;
  };
  const slide = () => {
    const place = Number(find("slider").value);
    find("truth").style.clipPath = `inset(0 ${100 - place}% 0 0)`;
    find("prediction").style.clipPath = `inset(0 0 0 ${place}%)`;
    find("edge").style.left = `${place}%`;
  };
  const fade = () => {
    for (const id of ["truth", "prediction", "errors"]) find(id).style.opacity = find("opacity").value;
  };
  const layers = () => {
    const isErrors = find("only_errors").checked;
    find("errors").hidden = !isErrors;
    for (const id of ["truth", "prediction", "edge"]) find(id).hidden = isErrors;
    find("slider").disabled = isErrors;
  };
  const open = (item) => {
    current = item;
    find("photo").src = item.photo;
    find("photo").alt = `The image ${item.name}`;
    find("viewer_name").textContent = item.name;
    find("viewer_scores").textContent =
      `mean IoU ${perCent(item.mean)}` +
      (item.before === null ? "" : `, was ${perCent(item.before)}`) +
      `; ${item.size.join(" x ")} pixels; ${shown.indexOf(item) + 1} of ${shown.length}`;
    stage.style.aspectRatio = item.grid.join("/");
    stage.style.setProperty("--ratio", item.grid[0] / item.grid[1]);
    for (const id of ["truth", "prediction", "errors"]) paint(find(id), item, id, id === "errors" ? chosenClass() : null);
    const entries = Object.entries(item.iou).sort((one, other) => one[1] - other[1]);
    find("viewer_classes").replaceChildren(
      ...entries.map(([index, iou]) =>
        make("li", {}, swatch(index), `${names[index]} ${perCent(iou)}, ${item.wrong[index].toLocaleString("en")} wrong`),
      ),
    );
    find("here").textContent = "Point at the picture to read its classes.";
    if (!viewer.open) viewer.showModal();
  };
  const step = (distance) => {
    const next = shown[shown.indexOf(current) + distance];
    if (next) open(next);
  };
  const label = (index) => (index === VOID ? "void, not scored" : names[index]);
  stage.addEventListener("pointermove", async (event) => {
    const box = stage.getBoundingClientRect();
    const [width, height] = current.grid;
    const x = Math.min(Math.max(Math.floor(((event.clientX - box.left) / box.width) * width), 0), width - 1);
    const y = Math.min(Math.max(Math.floor(((event.clientY - box.top) / box.height) * height), 0), height - 1);
    const { truth, prediction } = await masksOf(current);
    const place = y * width + x;
    find("here").textContent = `truth: ${label(truth[place])}; prediction: ${label(prediction[place])}`;
  });
  find("slider").addEventListener("input", slide);
  find("opacity").addEventListener("input", fade);
  find("only_errors").addEventListener("change", layers);
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  slide();
  fade();
  layers();
  arrange();
}
