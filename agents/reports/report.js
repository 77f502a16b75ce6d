/* Makes a page about runs one that can be looked into: charts by uPlot, and texts to search.
   The page stands without this file. Texts are set as text, never as HTML. */
"use strict";
(() => {
  const COLOURS = 6;
  const DASHES = [[], [8, 4], [2, 3], [10, 4, 3, 4]];
  const ROLE_HEIGHT = 5;
  const state = { hidden: new Set(), range: null, search: "", query: "", order: "", off: new Set(), marks: true, open: new Map() };
  let charts = [];
  let observer = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (index) => css(`--policy-${index % COLOURS}`);
  const pale = (index, share) => `color-mix(in srgb, ${colour(index)} ${share}%, transparent)`;
  const element = (tag, values = {}, text = "") => {
    const made = Object.assign(document.createElement(tag), values);
    if (text) made.textContent = text;
    return made;
  };

  /* As `rounded` in tables.py. */
  function rounded(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    let digits = value.toFixed(2);
    if (size >= 1000) digits = Math.round(value).toLocaleString("en-US");
    else if (size > 0 && size < 0.1) digits = String(Number(value.toPrecision(2)));
    return digits.replaceAll("-", "−");
  }

  /* ---- charts ---- */

  function columns(chart) {
    const data = [chart.x], series = [{}], bands = [], owners = [null];
    chart.lines.forEach((line, place) => {
      const add = (values, options) => {
        data.push(values);
        owners.push(place);
        series.push({ points: { show: false }, show: !state.hidden.has(line.name), ...options });
      };
      if (line.low) {
        add(line.high, { width: 0, stroke: "transparent" });
        add(line.low, { width: 0, stroke: "transparent" });
        bands.push({ series: [data.length - 2, data.length - 1], fill: () => pale(line.colour, 18) });
      }
      if (line.faint) add(line.faint, { width: 1, stroke: () => pale(line.colour, 35) });
      const few = chart.x.length < 3;
      add(line.bold, { width: 2, stroke: () => colour(line.colour), dash: DASHES[line.style], points: { show: few, size: 6 }, spanGaps: !line.faint });
    });
    return { data, series, bands, owners };
  }

  function stagePlugin(stage) {
    return {
      hooks: {
        drawAxes: (u) => {
          const { ctx, bbox } = u, ratio = devicePixelRatio;
          ctx.save();
          ctx.beginPath();
          ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height + ratio * (stage.roles.length + 2) * ROLE_HEIGHT);
          ctx.clip();
          ctx.strokeStyle = css("--muted");
          ctx.globalAlpha = Math.min(1, 20 / Math.max(1, stage.swaps.length));
          ctx.setLineDash([ratio, 2 * ratio]);
          for (const swap of stage.swaps) {
            const x = Math.round(u.valToPos(swap - 0.5, "x", true));
            ctx.beginPath();
            ctx.moveTo(x, bbox.top);
            ctx.lineTo(x, bbox.top + bbox.height);
            ctx.stroke();
          }
          stage.roles.forEach((stretches, place) => {
            ctx.fillStyle = colour(place);
            for (const [first, last, opacity] of stretches) {
              const from = u.valToPos(first - 0.5, "x", true), to = u.valToPos(last + 0.5, "x", true);
              ctx.globalAlpha = opacity;
              ctx.fillRect(from, bbox.top + bbox.height + ratio * (3 + place * (ROLE_HEIGHT + 1)), to - from, ratio * ROLE_HEIGHT);
            }
          });
          ctx.restore();
        },
      },
    };
  }

  function options(chart, stage, width, height, parts) {
    const staged = chart.staged && (stage.swaps.length > 0 || stage.roles.length > 0);
    const rows = staged ? stage.roles.length : 0;
    const axis = { stroke: () => css("--muted"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const first = chart.x[0], last = Math.max(chart.x[chart.x.length - 1], first + 1);
    const whole = [first - 0.5, last + 0.5];
    return {
      width, height, series: parts.series, bands: parts.bands, whole,
      padding: [8, 14, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: "iterations", scales: ["x", null], setSeries: false, filters: { pub: (type) => type === "mousemove" || type === "mouseleave", sub: () => true } },
        drag: { x: true, y: false, dist: 6 },
        points: { size: 7 },
        bind: { dblclick: () => () => { zoom(null); return null; } },
      },
      scales: { x: { time: false, range: (u, from, to) => state.range || whole }, y: { range: (u, low, high) => spread(low, high) } },
      axes: [
        { ...axis, grid: { show: false }, size: 24 + rows * (ROLE_HEIGHT + 1), gap: 5 + rows * (ROLE_HEIGHT + 1), space: 55, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 1e5, 1e6] },
        { ...axis, grid: { stroke: () => css("--grid"), width: 1 }, size: 48, space: 42, values: (u, ticks) => ticks.map((tick) => String(tick).replace("-", "−")) },
      ],
      plugins: staged ? [stagePlugin(stage)] : [],
      hooks: {},
    };
  }

  function spread(low, high) {
    if (low === null || high === null) return [0, 1];
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [low - room, high + room];
  }

  function draw(figure, chart, stage) {
    const title = figure.querySelector("h3").textContent, svg = figure.querySelector("svg");
    const height = Math.max(190, Math.min(svg.getBoundingClientRect().height || 260, 330));
    const holder = element("div", { className: "chart", tabIndex: 0 });
    holder.setAttribute("role", "group");
    holder.setAttribute("aria-label", `${title}: arrow keys move the cursor, plus and minus zoom, Escape shows all iterations`);
    const keys = element("div", { className: "keys" });
    figure.insertBefore(keys, svg);
    figure.insertBefore(holder, svg);
    const parts = columns(chart);
    const at = element("span", { className: "at" });
    keys.append(at);
    const values = chart.lines.map((line) => {
      const button = element("button", { type: "button", className: `policy-${line.colour % COLOURS} style-${line.style}` }, `${line.name} `);
      const value = element("span", { className: "value" });
      button.append(value);
      button.setAttribute("aria-pressed", String(!state.hidden.has(line.name)));
      button.addEventListener("click", () => toggle(line.name));
      keys.append(button);
      return { button, value, line };
    });
    const show = (u) => {
      const place = u.cursor.idx ?? null;
      const one = place === null ? chart.x.length - 1 : place;
      at.textContent = place === null ? "last iteration" : `iteration ${chart.x[one].toLocaleString("en-US")}`;
      for (const { value, line } of values) {
        const raw = line.faint && line.faint[one] !== line.bold[one] ? ` (${rounded(line.faint[one])})` : "";
        value.textContent = rounded(line.bold[one]) + raw;
      }
    };
    const made = options(chart, stage, holder.clientWidth || 400, height, parts);
    made.hooks.setCursor = [show];
    made.hooks.setSelect = [(u) => {
      if (u.select.width < 6) return;
      const from = u.posToVal(u.select.left, "x"), to = u.posToVal(u.select.left + u.select.width, "x");
      u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      zoom([from, to]);
    }];
    made.cursor.drag.setScale = false;
    const plot = new uPlot(made, parts.data, holder);
    holder.classList.add("drawn");
    show(plot);
    holder.addEventListener("keydown", (event) => press(event, plot, chart));
    const item = { plot, holder, chart, values, owners: parts.owners, whole: made.whole, figure };
    charts.push(item);
    new ResizeObserver(() => {
      if (holder.clientWidth && holder.clientWidth !== plot.width) plot.setSize({ width: holder.clientWidth, height });
    }).observe(holder);
  }

  function press(event, plot, chart) {
    const last = chart.x.length - 1, now = plot.cursor.idx ?? last;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -last, End: last };
    if (event.key in steps) {
      const [low, high] = [plot.scales.x.min, plot.scales.x.max];
      const shown = chart.x.map((x, place) => (x >= low && x <= high ? place : -1)).filter((place) => place >= 0);
      if (!shown.length) return;
      const place = Math.max(shown[0], Math.min(shown[shown.length - 1], now + steps[event.key]));
      plot.setCursor({ left: plot.valToPos(chart.x[place], "x"), top: plot.over.clientHeight / 2 }, true, true);
    } else if (event.key === "+" || event.key === "=") zoomBy(0.5, chart.x[now]);
    else if (event.key === "-") zoomBy(2, chart.x[now]);
    else if (event.key === "Escape") zoom(null);
    else return;
    event.preventDefault();
  }

  function toggle(name) {
    if (!state.hidden.delete(name)) state.hidden.add(name);
    for (const { plot, chart, owners, values } of charts) {
      owners.forEach((place, index) => {
        if (place !== null && chart.lines[place].name === name) plot.setSeries(index, { show: !state.hidden.has(name) });
      });
      for (const { button, line } of values) button.setAttribute("aria-pressed", String(!state.hidden.has(line.name)));
    }
  }

  /* One range of iterations for all charts; null for all that each of them has. */
  function zoom(range) {
    if (range && range[1] - range[0] < 1) range = [range[0] - 0.5, range[0] + 0.5];
    state.range = range;
    for (const { plot, whole } of charts) {
      const [min, max] = range || whole;
      plot.setScale("x", { min, max });
    }
    const button = document.querySelector('[data-zoom="all"]');
    if (button) button.disabled = range === null;
  }

  function zoomBy(factor, centre) {
    const wholes = charts.map((item) => item.whole);
    const whole = [Math.min(...wholes.map((w) => w[0])), Math.max(...wholes.map((w) => w[1]))];
    const [low, high] = state.range || whole;
    const middle = centre ?? (low + high) / 2, half = ((high - low) / 2) * factor;
    const next = [Math.max(whole[0], middle - half), Math.min(whole[1], middle + half)];
    zoom(next[1] - next[0] >= whole[1] - whole[0] ? null : next);
  }

  function startCharts() {
    const source = document.getElementById("data");
    const { charts: all, stage } = JSON.parse(source.textContent);
    charts.forEach(({ plot }) => plot.destroy());
    charts = [];
    if (observer) observer.disconnect();
    observer = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(target);
        draw(target, all[target.dataset.chart], stage);
      }
    }, { rootMargin: "300px" });
    document.querySelectorAll("[data-chart]").forEach((figure) => observer.observe(figure));
    document.querySelectorAll("[data-zoom]").forEach((button) => {
      const how = { in: () => zoomBy(0.5), out: () => zoomBy(2), all: () => zoom(null) }[button.dataset.zoom];
      button.addEventListener("click", how);
    });
    const whole = document.querySelector('[data-zoom="all"]');
    if (whole) whole.disabled = state.range === null;
  }

  /* ---- texts ---- */

  function startTexts() {
    const tools = document.getElementById("tools");
    if (!tools) return;
    const blocks = [...document.querySelectorAll(".asked")];
    const items = [...document.querySelectorAll(".column li")];
    items.forEach((item, place) => { item.place = place; });
    const policies = [...new Set(items.map((item) => item.dataset.policy))];
    const holder = document.getElementById("policies");
    holder.hidden = policies.length < 2;
    for (const policy of policies) {
      const label = element("label"), box = element("input", { type: "checkbox", checked: !state.off.has(policy) });
      box.addEventListener("change", () => { state.off[box.checked ? "delete" : "add"](policy); show(); });
      label.append(box, ` ${policy}`);
      holder.append(label);
    }
    for (const name of ["search", "query", "order"]) {
      const control = document.getElementById(name);
      control.value = state[name];
      control.addEventListener("input", () => { state[name] = control.value; show(); });
    }
    const marks = document.getElementById("marks");
    marks.checked = state.marks;
    marks.addEventListener("change", () => { state.marks = marks.checked; show(); });
    blocks.forEach((block) => {
      if (state.open.has(block.dataset.query)) block.open = state.open.get(block.dataset.query);
      block.addEventListener("toggle", () => state.open.set(block.dataset.query, block.open));
    });
    const show = () => {
      const words = state.search.toLowerCase();
      let found = 0;
      for (const block of blocks) {
        const asked = block.querySelector(".query").textContent.toLowerCase().includes(words);
        const wanted = state.query === "" || state.query === block.dataset.query;
        let some = 0;
        for (const item of block.querySelectorAll(".column li")) {
          const says = asked || item.querySelector(".response").textContent.toLowerCase().includes(words);
          item.hidden = !wanted || !says || state.off.has(item.dataset.policy);
          some += !item.hidden;
        }
        for (const column of block.querySelectorAll(".column")) {
          const list = column.querySelector("ol"), own = [...list.children];
          own.sort(ordering()).forEach((item) => list.append(item));
          column.hidden = own.every((item) => item.hidden);
        }
        block.hidden = !some;
        if (some && (words || state.query !== "")) block.open = true;
        found += some;
      }
      document.body.classList.toggle("unmarked", !state.marks);
      document.getElementById("found").textContent = `${found} of ${items.length} texts`;
    };
    show();
  }

  function ordering() {
    const reward = (item) => { const value = Number(item.dataset.reward); return Number.isNaN(value) ? -Infinity : value; };
    if (state.order === "down") return (a, b) => reward(b) - reward(a) || a.place - b.place;
    if (state.order === "up") return (a, b) => reward(a) - reward(b) || a.place - b.place;
    return (a, b) => a.place - b.place;
  }

  /* ---- a page that a server keeps up to date ---- */

  let version = "";

  async function refresh() {
    const place = document.getElementById("live");
    try {
      const now = await (await fetch("version", { cache: "no-store" })).text();
      if (version && now !== version) {
        const answer = await fetch("./", { cache: "no-store" }), text = await answer.text();
        if (!answer.ok) return say(text, true);
        const next = new DOMParser().parseFromString(text, "text/html");
        const { scrollX, scrollY } = window;
        document.querySelector("main").replaceWith(document.adoptNode(next.querySelector("main")));
        document.title = next.title;
        start();
        window.scrollTo(scrollX, scrollY);
      }
      version = now;
      say("live, looked at " + new Date().toLocaleTimeString(), false);
    } catch {
      say("the server has gone; this is what it last said", true);
    }
    function say(text, lost) {
      const here = document.getElementById("live") || place;
      if (!here) return;
      here.textContent = text;
      here.classList.toggle("lost", lost);
    }
  }

  function start() {
    document.querySelectorAll(".needs-script").forEach((tools) => { tools.hidden = false; });
    startCharts();
    startTexts();
  }

  start();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(({ plot }) => plot.redraw(false, true)));
  const every = Number(document.documentElement.dataset.live);
  if (every) { refresh(); setInterval(refresh, every); }
})();
