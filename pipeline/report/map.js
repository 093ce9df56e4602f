/* The report's map: MapLibre on the tiles that pipeline/report/map.py writes.
   All texts of parcels are set as text, never as HTML. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const frame = document.querySelector(".map");
  const part = (name) => document.getElementById(`map-${name}`);
  const view = part("view");
  const legends = data.legends.map((legend) => legend.name);
  const legendOf = Object.fromEntries(data.legends.map((legend) => [legend.name, legend]));
  const say = (text) => { part("note").textContent = text; };

  // Both files are read in parts, be they in the page or beside it.
  function decoded(text) {
    const letters = atob(text);
    const bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return bytes;
  }
  const embedded = (bytes) => async (offset, length) => bytes.slice(offset, offset + length).buffer;
  const beside = (name) => async (offset, length, signal) => {
    const last = offset + length - 1;
    const answer = await fetch(name, { headers: { Range: `bytes=${offset}-${last}` }, signal });
    if (answer.status !== 206) throw new Error(`${name}: no answer in parts (${answer.status})`);
    return answer.arrayBuffer();
  };
  const reader = (text, name) => (text === null ? beside(name) : embedded(decoded(text)));
  const readTiles = reader(data.tiles, data.files[0]);
  const readIds = reader(data.ids, data.files[1]);

  /* The picture stays where the map cannot start. */
  const stay = (reason) => {
    view.querySelector(".maplibregl-map")?.remove();
    say(reason);
  };
  if (data.tiles === null && location.protocol === "file:") {
    return stay("This picture stands for a map that is too large for the page. To move and zoom, "
      + "open the report by `parcelwise serve`, or put the folder on a web server.");
  }

  const style = getComputedStyle(document.documentElement);
  const outline = style.getPropertyValue("--outline").trim();
  const ink = style.getPropertyValue("--ink").trim();
  const faint = style.getPropertyValue("--line").trim();
  const colourOf = (name) => ["match", ["get", name],
    ...legendOf[name].colours.flatMap((colour, i) => [i, colour]), "#000"];
  const isPoint = ["==", ["geometry-type"], "Point"];
  // Rejected parcels are below others: a second row with the same id often has the same outline.
  const order = ["case", ["==", ["get", "pred_source"], ""], 0, 1];
  const radius = ["interpolate", ["linear"], ["zoom"], 8, 2, 14, 6];
  const isRow = (row) => ["==", ["get", "row"], row];
  const layer = (id, type, more) => ({ id, type, source: "parcels", "source-layer": "parcels", ...more });

  const archive = new pmtiles.PMTiles({
    getKey: () => "map",
    getBytes: async (offset, length, signal) => ({ data: await readTiles(offset, length, signal) }),
  });
  const protocol = new pmtiles.Protocol();
  protocol.add(archive);
  maplibregl.addProtocol("pmtiles", protocol.tile);

  const box = document.createElement("div");
  view.prepend(box);
  let map;
  try {
    map = new maplibregl.Map({
      container: box,
      style: {
        version: 8,
        sources: { parcels: { type: "vector", url: "pmtiles://map" } },
        layers: [
          // Parcels that are filtered out, for orientation.
          layer("rest", "fill", { filter: ["!", isPoint], layout: { visibility: "none" },
            paint: { "fill-color": faint, "fill-outline-color": outline } }),
          layer("fill", "fill", { filter: ["!", isPoint], layout: { "fill-sort-key": order },
            paint: { "fill-color": colourOf(legends[0]), "fill-antialias": false } }),
          layer("line", "line", { filter: ["!", isPoint], minzoom: 12.5, paint: { "line-color": outline,
            "line-width": ["interpolate", ["linear"], ["zoom"], 12.5, 0.3, 15, 1.2] } }),
          layer("point", "circle", { filter: isPoint, layout: { "circle-sort-key": order },
            paint: { "circle-color": colourOf(legends[0]), "circle-stroke-color": outline,
              "circle-radius": radius, "circle-stroke-width": 0.7 } }),
          layer("chosen", "line", { filter: ["all", ["!", isPoint], isRow(-1)],
            paint: { "line-color": ink, "line-width": 3 } }),
          layer("chosen-point", "circle", { filter: ["all", isPoint, isRow(-1)],
            paint: { "circle-color": "transparent", "circle-stroke-color": ink, "circle-radius": radius,
              "circle-stroke-width": 3 } }),
        ],
      },
      bounds: data.bounds,
      fitBoundsOptions: { padding: 0 },
      maxZoom: 19,
      attributionControl: false,
      cooperativeGestures: true,
      dragRotate: false,
      pitchWithRotate: false,
      renderWorldCopies: false,
      fadeDuration: 0,
      canvasContextAttributes: { preserveDrawingBuffer: true }, // to be printed
    });
  } catch (error) {
    return stay("This browser cannot draw the map (WebGL is missing or off): the picture shows it.");
  }
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.setMinZoom(Math.max(map.getZoom() - 1, 0));
  map.getCanvas().setAttribute("aria-label",
    "Map of the parcels. Arrow keys move it, + and - zoom. Enter shows the parcel in the middle.");

  let started = false;
  map.on("error", (event) => {
    if (!started) {
      map.remove();
      stay(`The map could not be read: ${event.error.message}. It needs ${data.files.join(" and ")} beside the `
        + "page, on a server that answers in parts, such as `parcelwise serve`.");
    } else say(`A part of the map could not be read: ${event.error.message}`);
  });
  const whereabouts = (at) => `${at.lat.toFixed(5)}, ${at.lng.toFixed(5)}`;
  map.once("idle", () => {
    if (!map.loaded()) return;
    started = true;
    performance.mark("map shown");
    view.classList.add("live");
    frame.classList.add("live");
    view.querySelector(".zoom").hidden = false;
    describe();
    ruler();
  });

  // Colour and filters: every legend filters, the shown one also colours.
  const fieldset = (name) => frame.querySelector(`fieldset[data-legend="${name}"]`);
  const off = (name) => [...fieldset(name)?.querySelectorAll("input:not(:checked)") ?? []].map((i) => +i.value);
  function filter() {
    const hidden = legends.map((name) => [name, off(name)]).filter(([, values]) => values.length);
    const shown = hidden.map(([name, values]) => ["!", ["in", ["get", name], ["literal", values]]]);
    map.setLayoutProperty("rest", "visibility", hidden.length ? "visible" : "none");
    for (const id of ["fill", "line", "point"]) {
      map.setFilter(id, ["all", id === "point" ? isPoint : ["!", isPoint], ...shown]);
    }
    describe();
  }
  function describe() {
    const names = legends.filter((name) => off(name).length);
    const titles = names.map((name) => fieldset(name).querySelector("legend").firstChild.data);
    say(names.length ? `Filtered by ${titles.join(", ").toLowerCase()}. ` : "Choose a parcel to see its classes.");
    if (!names.length) return;
    part("note").append(button("Show all", "reset", showAll));
  }
  function showAll() {
    for (const input of frame.querySelectorAll("fieldset input")) input.checked = true;
    filter();
  }
  function button(text, kind, act) {
    const made = document.createElement("button");
    Object.assign(made, { type: "button", className: kind, textContent: text, onclick: act });
    return made;
  }
  frame.addEventListener("change", (event) => {
    if (event.target.id === "map-colour") {
      const name = event.target.value;
      frame.dataset.legend = name;
      map.setPaintProperty("fill", "fill-color", colourOf(name));
      map.setPaintProperty("point", "circle-color", colourOf(name));
    } else if (event.target.type === "checkbox") filter();
  });
  frame.addEventListener("click", (event) => {
    if (!event.target.classList.contains("only")) return;
    const own = event.target.parentElement.querySelector("input");
    const all = event.target.closest("fieldset").querySelectorAll("input");
    for (const input of all) input.checked = input === own;
    filter();
  });

  // What is under the pointer, the top parcel first. A finger is less exact than a mouse.
  function at(point, around = 0) {
    const { x, y } = point;
    const area = around ? [[x - around, y - around], [x + around, y + around]] : point;
    const seen = new Map();
    for (const found of map.queryRenderedFeatures(area, { layers: ["fill", "point"] })) {
      if (!seen.has(found.properties.row)) seen.set(found.properties.row, found.properties);
    }
    return [...seen.values()].sort((a, b) => (a.pred_source === "") - (b.pred_source === ""));
  }
  const label = (name, number) => legendOf[name].labels[number] ?? "";
  const code = (name, number) => legendOf[name].codes[number] ?? "";
  const named = (name, number) => {
    const [words, own] = [label(name, number), code(name, number)];
    return own && own !== words ? `${words} (${own})` : words;
  };
  const percent = (share) => (share === undefined ? "" : `${(share / 100).toFixed(1)}\u202f%`);
  const titled = (p) => (p.parcel_id ? `Parcel ${p.parcel_id}` : "Parcel without id");

  // At most once per frame: a mouse moves more often.
  let pointed;
  const isTouch = matchMedia("(hover: none)").matches;
  map.on("mousemove", (event) => {
    if (isTouch) return;
    if (pointed === undefined) requestAnimationFrame(() => { hover(pointed); pointed = undefined; });
    pointed = event;
  });
  function hover(event) {
    const [top, ...others] = at(event.point);
    const tip = part("tip");
    tip.hidden = false;
    const lines = top === undefined ? [] : [titled(top), `declared: ${label("declared", top.declared)}`,
      `predicted: ${label("predicted", top.predicted)} ${percent(top.confidence)}`];
    if (others.length) lines.push(`and ${others.length} more here`);
    tip.replaceChildren(...[...lines, whereabouts(event.lngLat)].flatMap((line, i) =>
      (i ? [document.createElement("br"), line] : [line])));
    const left = Math.min(event.point.x + 14, view.clientWidth - tip.offsetWidth - 4);
    const below = event.point.y + 14 + tip.offsetHeight < view.clientHeight;
    tip.style.left = `${Math.max(left, 0)}px`;
    tip.style.top = `${below ? event.point.y + 14 : event.point.y - 14 - tip.offsetHeight}px`;
  }
  map.on("movestart", () => { part("tip").hidden = true; });
  map.on("mouseout", () => { part("tip").hidden = true; });

  // The parcel that was chosen, and the others at its place.
  function mark(row) {
    map.setFilter("chosen", ["all", ["!", isPoint], isRow(row)]);
    map.setFilter("chosen-point", ["all", isPoint, isRow(row)]);
  }
  function close() {
    mark(-1);
    part("parcel").hidden = true;
  }
  const inSet = (text) => {
    const { codes, labels } = legendOf.predicted;
    const places = text.split(" | ").map((own) => codes.indexOf(own));
    return places.includes(-1) ? text : places.map((place) => labels[place]).join(", ");
  };
  function show(parcels, place) {
    const [p, ...others] = parcels;
    if (p === undefined) return close();
    mark(p.row);
    const isPredicted = p.pred_source !== "";
    const list = document.createElement("dl");
    for (const [name, value] of [
      ["Declared", named("declared", p.declared)],
      ["Predicted", `${named("predicted", p.predicted)}${isPredicted ? `, ${percent(p.confidence)}` : ""}`],
      ["Second", isPredicted && p.second !== undefined && p.second >= 0
        ? `${named("predicted", p.second)}, ${percent(p.confidence2)}` : ""],
      ["Possible classes", p.prediction_set ? inSet(p.prediction_set) : ""],
      ["Declared class has", percent(p.declared_probability)],
      ["Verdict", p.doubt_rank === undefined ? ""
        : `${code("verdict", p.verdict)}, rank ${p.doubt_rank} in the list of doubts`],
      [isPredicted ? "Note" : "Rejected", data.reasons[p.reason] ?? ""],
      ["Predicted by", { out_of_fold: "the model that was not trained on it", ensemble: "all models" }[p.pred_source] ?? ""],
      ["Place", place ? whereabouts(place) : ""],
    ]) {
      if (!value) continue;
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      [dt.textContent, dd.textContent] = [name, value];
      list.append(dt, dd);
    }
    const head = document.createElement("h3");
    head.textContent = titled(p);
    part("parcel").replaceChildren(button("close", "close", close), head, list);
    if (Object.hasOwn(data.cards, p.parcel_id)) {
      const link = document.createElement("a");
      link.href = `cards/${encodeURIComponent(data.cards[p.parcel_id])}`;
      link.textContent = "Card of this parcel";
      part("parcel").append(link);
    }
    if (others.length) {
      const also = document.createElement("p");
      also.append("Also here: ", ...others.slice(0, 20).map((other) =>
        button(titled(other), "", () => show([other, ...parcels.filter((q) => q !== other)], place))));
      part("parcel").append(also);
    }
    part("parcel").hidden = false;
  }
  map.on("click", (event) => {
    const exact = at(event.point);
    show(exact.length || !isTouch ? exact : at(event.point, 8), event.lngLat);
  });
  view.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key !== "Enter" || event.target !== map.getCanvas()) return;
    show(at(map.project(map.getCenter())), map.getCenter());
  });

  // Search by id: the blocks of the index are in order of their first id.
  async function block(k) {
    const [start, end] = [data.blocks[k][1], data.blocks[k + 1][1]];
    return JSON.parse(new TextDecoder().decode(await readIds(start, end - start)));
  }
  async function startingWith(text, most) {
    let [low, high] = [0, data.blocks.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (data.blocks[middle][0] < text) low = middle; else high = middle;
    }
    const found = [];
    for (let k = low; k < data.blocks.length - 1 && found.length < most; k++) {
      const rows = (await block(k)).filter(([id]) => id >= text);
      const own = rows.filter(([id]) => id.startsWith(text));
      found.push(...own);
      if (own.length < rows.length) break;
    }
    return found.slice(0, most);
  }
  part("id").addEventListener("input", async () => {
    const text = part("id").value.trim();
    // If the index cannot be read, the search says so.
    const found = text ? await startingWith(text, 8).catch(() => []) : [];
    if (text !== part("id").value.trim()) return;
    part("ids").replaceChildren(...[...new Set(found.map(([id]) => id))].map((id) => new Option(id, id)));
  });
  part("search").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = part("id").value.trim();
    if (!text) return;
    let found;
    try { found = await startingWith(text, 8); } catch (error) { return say(`The search failed: ${error.message}`); }
    const exact = found.filter(([id]) => id === text);
    const others = new Set(found.map(([id]) => id));
    if (!exact.length && others.size !== 1) {
      const some = [...others].slice(0, 5).join(", ");
      return say(others.size ? `No parcel has the id ${text}. Ids that begin with it: ${some}${others.size > 5 ? ", …" : ""}`
        : `No parcel on the map has the id ${text}, or one that begins with it.`);
    }
    const [id, lng, lat, size] = (exact.length ? exact : found)[0];
    showAll();
    // A parcel fills about a quarter of the view.
    const zoom = Math.log2((40075016.686 * view.clientWidth) / (512 * 4 * Math.max(size, 20)));
    map.jumpTo({ center: [lng, lat], zoom: Math.min(zoom, 17) });
    await map.once("idle");
    const here = at(map.project([lng, lat]));
    const own = here.filter((p) => p.parcel_id === id);
    show([...own, ...here.filter((p) => !own.includes(p))], { lng, lat });
  });

  // Scale bar, and the buttons.
  function ruler() {
    const metres = (40075016.686 * Math.cos((map.getCenter().lat * Math.PI) / 180)) / (512 * 2 ** map.getZoom());
    const most = Math.max(view.clientWidth / 6, 90) * metres;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = Math.max(...[1, 2, 5].map((m) => m * power).filter((m) => m <= most));
    part("ruler").style.width = `${(100 * length) / metres / view.clientWidth}%`; // so that it prints in scale
    part("ruler").textContent = length >= 1000 ? `${length / 1000} km` : `${+length.toPrecision(1)} m`;
  }
  map.on("move", ruler);
  map.on("resize", ruler);
  part("in").onclick = () => map.zoomIn();
  part("out").onclick = () => map.zoomOut();
  part("all").onclick = () => map.fitBounds(data.bounds, { padding: 0 });
  window.parcelwiseMap = { map, at, show, startingWith };
})();
